"""Tests of each preprocessor against the library that it stands on, and of what all promise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loopwright.datasets import Array, Samples
from loopwright.preprocessors import Divide, Preprocessor, StandardScaler, preprocessors
from loopwright.preprocessors.pipeline import Pipeline

pytest.importorskip("sklearn")

RANDOM = torch.Generator().manual_seed(0)
NUMBERS = torch.randn(40, 6, generator=RANDOM) * 3 + 1
LABELS = torch.arange(40) % 2
NUMBERS[:, 2] += LABELS
ROWS = Array((6,), torch.float32)
TABLE = Array((3,), torch.float32, ("age", "town", "size"), ((), ("A", "B", "C"), ("L", "S")))
CELLS = torch.tensor([[1.0, 0, 1], [torch.nan, 2, 1], [4, torch.nan, 0], [7, 2, torch.nan]])
PIXELS = torch.randint(0, 256, (5, 3, 6, 8), dtype=torch.uint8, generator=RANDOM)
IMAGE = Array((3, 6, 8), torch.uint8, value_range=(0.0, 255.0))
TEXTS = ["The cats sat, on_the mat!", "A dog's cat was running", "dogs run & run", "Cats & dogs"]
TEXT = Array((), str)

CASES: dict[str, tuple[dict[str, Any], Array, Samples]] = {
    "alphanumeric": ({}, TEXT, TEXTS),
    "binary_vectorizer": ({}, TEXT, TEXTS),
    "characters": ({"max_length": 30}, TEXT, TEXTS),
    "divide": ({"factor": 4.0}, ROWS, NUMBERS),
    "grayscale": ({}, IMAGE, PIXELS),
    "grayscale_to_color": ({}, Array((1, 6, 8), torch.uint8), PIXELS[:, :1]),
    "image_resize": ({"width": 5, "height": 3}, IMAGE, PIXELS),
    "impute": ({}, TABLE, CELLS),
    "kbest": ({"k": 2}, ROWS, NUMBERS),
    "lemmatization": ({}, TEXT, TEXTS),
    "normalize": ({}, IMAGE, PIXELS),
    "one_hot": ({}, TABLE, CELLS),
    "replace": ({"from_val": None, "to_val": 9.0}, TABLE, CELLS),
    "spectrogram": ({"frame_length": 4, "frame_step": 2}, ROWS, NUMBERS),
    "standard_scaler": ({}, ROWS, NUMBERS),
    "tfidf": ({}, TEXT, TEXTS),
    "tokenizer": ({"max_length": 7, "vocabulary_size": 60}, TEXT, TEXTS),
}
NEEDS = {"lemmatization": "simplemma", "tokenizer": "tokenizers"}


def make(name: str, **changes: Any) -> tuple[Preprocessor, Array, Samples]:
    """Return a preprocessor that knows what it gets, the description, and the features."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    arguments, info, features = CASES[name]
    step = preprocessors.get(name)(**(arguments | changes))
    step.describe(info)
    return step, info, features


def fitted(name: str, **changes: Any) -> tuple[Preprocessor, Samples]:
    step, _, features = make(name, **changes)
    step.fit(features, LABELS[: len(features)])
    return step, features


def same(first: Samples, second: Samples) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first.nan_to_num(-99), second.nan_to_num(-99))
    return first == second


def test_every_registered_one_is_tested() -> None:
    assert set(CASES) == set(preprocessors)


@pytest.mark.parametrize("name", CASES)
def test_the_description_is_of_what_comes_out(name: str) -> None:
    step, features = fitted(name)
    before = features.clone() if isinstance(features, Tensor) else list(features)
    changed = step.transform(features)
    info = step.describe(CASES[name][1])
    assert same(before, features), "transform leaves its input as it is"
    if isinstance(changed, Tensor):
        assert changed.shape[1:] == info.shape
        assert changed.dtype == info.dtype
        assert not info.names or len(info.names) == changed.shape[1]
        if info.value_range is not None:
            low, high = (torch.as_tensor(bound) for bound in info.value_range)
            assert bool((changed >= low.reshape(-1, 1, 1) - 1e-5).all())
            assert bool((changed <= high.reshape(-1, 1, 1) + 1e-5).all())
    else:
        assert info.dtype is str


@pytest.mark.parametrize("name", CASES)
def test_what_was_learned_goes_through_files(name: str, tmp_path: Path) -> None:
    """G-75: fit, transform, save, restore; nothing is pickled."""
    step, features = fitted(name)
    step.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    other, _, _ = make(name)
    other.restore(tmp_path)
    assert same(other.transform(features), step.transform(features))
    for value in step.state().values():
        assert isinstance(value, np.ndarray | str | int | float | list)
    with pytest.raises(ValueError, match=f"A state of {name} holds"):
        other.restore({"nonsense": 1})


CHUNKED = [name for name in CASES if name != "kbest"]


@pytest.mark.parametrize("name", CHUNKED)
def test_fitting_in_chunks_gives_the_same(name: str) -> None:
    """G-22: fitted by sums over chunks."""
    whole, features = fitted(name)
    chunked, _, _ = make(name)
    size = 3
    chunked.fit_generator(
        (features[i : i + size], LABELS[i : i + size]) for i in range(0, len(features), size)
    )
    first, second = whole.transform(features), chunked.transform(features)
    if isinstance(first, Tensor) and first.is_floating_point():
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6, equal_nan=True)
    else:
        assert same(first, second)


@pytest.mark.parametrize(("name", "changes"), [("kbest", {}), ("impute", {"strategy": "median"})])
def test_what_cannot_be_summed_up_raises_naming_itself(name: str, changes: dict[str, Any]) -> None:
    step, _, features = make(name, **changes)
    with pytest.raises(NotImplementedError, match=f"{name} cannot be fitted in chunks"):
        step.fit_generator([(features, LABELS)])


@pytest.mark.parametrize("name", [n for n in CASES if preprocessors.get(n).learned])
def test_unfitted_ones_say_so(name: str) -> None:
    if name == "one_hot":
        pytest.skip("learns from the description")
    step, _, features = make(name)
    with pytest.raises(ValueError, match=f"{name} has not been fitted"):
        step.transform(features)


@pytest.mark.parametrize("name", CASES)
def test_features_that_do_not_fit_are_refused_by_the_description(name: str) -> None:
    accepts_text = CASES[name][1] is TEXT
    wrong = ROWS if accepts_text else TEXT
    with pytest.raises(ValueError, match="takes|features (here )?are|have no"):
        make(name)[0].describe(wrong)


def test_divide_and_its_range() -> None:
    assert Divide(4).transform(torch.tensor([8.0])).item() == 2  # type: ignore[union-attr]
    assert Divide(-255).describe(IMAGE).value_range == (-1.0, 0.0)
    ragged = Divide(2).transform([PIXELS[0], PIXELS[1, :, :2]])
    assert [image.dtype for image in ragged] == [torch.float32] * 2
    with pytest.raises(ValueError, match="factor is 0"):
        Divide(0)
    with pytest.raises(ValueError, match="town, size are categories. Put one_hot before"):
        Divide(2).describe(TABLE)


def test_replace() -> None:
    step, cells = fitted("replace")
    assert torch.equal(step.transform(cells).isnan(), torch.zeros(4, 3, dtype=torch.bool))  # type: ignore[union-attr]
    kind = preprocessors.get("replace")
    assert kind(from_val=2, to_val=-1).transform(torch.tensor([2, 3])).tolist() == [-1, 3]  # type: ignore[call-arg, union-attr]
    assert kind(from_val="a", to_val="b").transform(["a", "ab"]) == ["b", "ab"]  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="expected one kind"):
        kind(from_val=2, to_val="b")  # type: ignore[call-arg]


def test_the_scaler_gives_mean_zero_and_deviation_one_and_spares_constants() -> None:
    train = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 4 + 1000
    train[:, 1] = 7.1
    scaler = StandardScaler()
    scaler.fit(train)
    scaled = scaler.transform(train)
    assert scaled.dtype == torch.float32
    assert scaled.mean(dim=0).abs().max() < 1e-4
    torch.testing.assert_close(scaled.std(dim=0, correction=0)[[0, 2]], torch.ones(2))
    assert scaled[:, 1].abs().max() < 1e-5


def test_the_scaler_leaves_categories_and_missing_values() -> None:
    step, info, cells = StandardScaler(), TABLE, CELLS
    step.describe(info)
    step.fit(cells)
    scaled = step.transform(cells)
    torch.testing.assert_close(scaled[:, 1:], cells[:, 1:], equal_nan=True)
    assert scaled[1, 0].isnan()
    torch.testing.assert_close(scaled[[0, 2, 3], 0].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_normalize_by_channel_and_by_given_values() -> None:
    step, pixels = fitted("normalize")
    changed = step.transform(pixels)
    assert isinstance(changed, Tensor)
    torch.testing.assert_close(changed.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(changed.std(dim=(0, 2, 3), correction=0), torch.ones(3))
    given = preprocessors.get("normalize")(mean=[0.0, 10, 20], std=[1.0, 2, 5])  # type: ignore[call-arg]
    assert given.describe(IMAGE).value_range == ((0.0, -5.0, -4.0), (255.0, 122.5, 47.0))
    with pytest.raises(ValueError, match="give both"):
        preprocessors.get("normalize")(mean=[1.0])  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="images have 1 channels"):
        given.describe(Array((1, 2, 2), torch.uint8))


@pytest.mark.parametrize("scorer", ["f_classif", "f_regression", "mutual_info_classif"])
def test_kbest_keeps_what_says_most(scorer: str) -> None:
    rows = torch.rand(200, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(200) % 2
    rows[:, 3] += labels
    step = preprocessors.get("kbest")(scorer=scorer, k=1)  # type: ignore[call-arg]
    named = Array((5,), torch.float32, tuple("abcde"), ((),) * 5)
    assert step.describe(named).shape == (1,)
    step.fit(rows, labels)
    assert step.describe(named).names == ("d",)
    assert torch.equal(step.transform(rows), rows[:, [3]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kbest needs labels"):
        step.fit(rows)


def test_impute_takes_each_kind_of_column_by_its_own_rule() -> None:
    for strategy, number in (("mean", 4.0), ("median", 4.0), ("most_frequent", 1.0)):
        step, cells = fitted("impute", strategy=strategy)
        expected = CELLS.clone()
        expected[1, 0], expected[2, 1], expected[3, 2] = number, 2, 1
        assert torch.equal(step.transform(cells), expected)  # type: ignore[arg-type]
    step, cells = fitted("impute", strategy="constant", fill_value=-1.0)
    filled = step.transform(cells)
    assert filled[1, 0] == -1  # type: ignore[call-overload]
    assert filled[2, 1].isnan()  # type: ignore[call-overload]
    step, _, _ = make("impute")
    with pytest.raises(ValueError, match="age has no value in the training part"):
        step.fit(CELLS[1:2])


def test_one_hot_spreads_categories_and_gives_missing_ones_zeros() -> None:
    step, cells = fitted("one_hot")
    names = step.describe(TABLE).names
    assert names == ("age", "town=A", "town=B", "town=C", "size=L", "size=S")
    assert step.transform(cells)[2].tolist() == [4, 0, 0, 0, 1, 0]
    chosen, _ = fitted("one_hot", columns=["size"])
    assert chosen.describe(TABLE).categories == ((), ("A", "B", "C"), (), ())
    with pytest.raises(ValueError, match="age is no column of categories. Those are: town, size"):
        make("one_hot", columns=["age"])


def test_images_are_scaled_and_turned_grey_as_pillow_does() -> None:
    pillow = pytest.importorskip("PIL.Image")
    step, _ = fitted("image_resize")
    ragged: list[Any] = [PIXELS[0], PIXELS[1, :, :4, :3]]
    resized = step.transform(ragged)
    assert isinstance(resized, Tensor)
    for image, changed in zip(ragged, resized, strict=True):
        expected = pillow.fromarray(image.permute(1, 2, 0).numpy()).resize((5, 3), 2)
        assert np.array_equal(changed.permute(1, 2, 0).numpy(), np.asarray(expected))
    halves = step.transform(PIXELS.float() / 255)
    torch.testing.assert_close(halves, step.transform(PIXELS) / 255, atol=0.005, rtol=0)  # type: ignore[operator]
    gray = fitted("grayscale")[0].transform(PIXELS)
    expected = np.asarray(pillow.fromarray(PIXELS[0].permute(1, 2, 0).numpy()).convert("L"))
    assert np.abs(gray[0, 0].numpy().astype(int) - expected).max() <= 1  # type: ignore[call-overload]
    color = fitted("grayscale_to_color")[0].transform([PIXELS[0, :1], PIXELS[0, 1:2, :2]])
    assert [tuple(image.shape) for image in color] == [(3, 6, 8), (3, 2, 8)]


def test_texts_are_cleaned() -> None:
    assert fitted("alphanumeric")[0].transform(["on_the mat!?  über 9"]) == ["on the mat   über 9"]
    lemmas = fitted("lemmatization")[0].transform(["the cats were running"])
    assert lemmas == ["the cat be run"]
    with pytest.raises(ValueError, match="language is 'klingon'"):
        make("lemmatization", language="klingon")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_df": 2, "lowercase": False},
        {"max_df": 0.5, "ngram_range": (1, 2)},
        {"max_features": 2, "stop_words": "english"},
    ],
)
def test_words_are_counted_as_scikit_learn_does(options: dict[str, Any]) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    for name, kind in (("tfidf", text.TfidfVectorizer), ("binary_vectorizer", None)):
        step, texts = fitted(name, **options)
        reference = kind(**options) if kind else text.CountVectorizer(binary=True, **options)
        expected = torch.from_numpy(reference.fit_transform(texts).toarray()).float()
        torch.testing.assert_close(step.transform(texts), expected)
        assert step.describe(TEXT).names == tuple(reference.get_feature_names_out())


def test_no_word_left_is_told() -> None:
    step, texts = make("tfidf", min_df=5)[0], TEXTS
    with pytest.raises(ValueError, match="No word of the training part is left by min_df 5"):
        step.fit(texts)


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_tokens_are_numbered_cut_and_filled_up(kind: str) -> None:
    pytest.importorskip("tokenizers")
    step, texts = fitted("tokenizer", kind=kind)
    info = step.describe(TEXT)
    tokens = step.transform([*texts, "", "unseen zebra €"])
    assert isinstance(tokens, Tensor)
    assert tokens.shape == (6, 7)
    assert info.vocabulary_size is not None
    assert int(tokens.max()) < info.vocabulary_size <= 60
    assert tokens[4].tolist() == [0] * 7
    assert 1 in tokens[5].tolist()
    for _ in range(5):  # what occurs equally often is learned in the same order every time
        assert torch.equal(fitted("tokenizer", kind=kind)[0].transform(texts), tokens[:4])  # type: ignore[arg-type]


def test_characters_are_numbered_and_filled_up() -> None:
    step, texts = fitted("characters")
    known = sorted(set("".join(TEXTS)))
    info = step.describe(TEXT)
    assert info.tokens == ("<padding>", "<unknown>", *known)
    assert info.vocabulary_size == len(info.tokens)
    tokens = step.transform([*texts, "", "cat€"])
    assert isinstance(tokens, Tensor)
    shown = ["".join(info.tokens[token] for token in row if token) for row in tokens.tolist()]
    assert shown == [*TEXTS, "", "cat<unknown>"]
    with pytest.raises(ValueError, match=r"has 31 characters, and characters.max_length is 30"):
        step.transform(["x" * 31])
    with pytest.raises(ValueError, match="max_length is 0"):
        make("characters", max_length=0)


def test_the_spectrogram_is_that_of_scipy() -> None:
    scipy = pytest.importorskip("scipy.signal")
    time = torch.arange(2000) / 1000
    wave = torch.sin(2 * torch.pi * 125 * time)
    step = preprocessors.get("spectrogram")(frame_length=200, frame_step=50)  # type: ignore[call-arg]
    power = step.transform(wave[None])
    assert isinstance(power, Tensor)
    window = torch.hann_window(200).numpy()
    _, _, expected = scipy.stft(
        wave.numpy(), window=window, nperseg=200, noverlap=150, boundary=None, padded=False
    )
    expected = np.abs(expected * window.sum()) ** 2
    torch.testing.assert_close(
        power[0, 0].double(), torch.from_numpy(expected).double(), rtol=1e-3, atol=1e-3
    )
    assert int(power[0, 0].mean(dim=1).argmax()) == 25


def test_a_pipeline_runs_in_order_and_ends_in_numbers() -> None:
    """G-14: each step gets what those before it give."""
    pipeline = Pipeline([make("grayscale")[0], Divide(255), make("grayscale_to_color")[0]])
    info = pipeline.describe(IMAGE)
    assert (info.shape, info.value_range) == ((3, 6, 8), (0.0, 1.0))
    inputs = pipeline.transform(PIXELS)
    assert torch.equal(inputs[:, 0], inputs[:, 2])
    assert float(inputs.max()) <= 1
    assert Pipeline([]).transform(PIXELS).dtype == torch.float32
    with pytest.raises(ValueError, match="put image_resize into dataset.preprocessors"):
        Pipeline([]).transform([PIXELS[0], PIXELS[0, :, :2]])
    with pytest.raises(ValueError, match="end dataset.preprocessors with characters"):
        Pipeline([]).transform(TEXTS)
