"""Saved experiments: one zip that predicts as before, and is refused when it was tampered with."""

import hashlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pydantic")
pytest.importorskip("sklearn")

from loopwright.artifact import read_artifact  # noqa: E402
from loopwright.errors import ArtifactError  # noqa: E402
from loopwright.experiment import Experiment, NotFittedError  # noqa: E402
from loopwright.inputs import from_images  # noqa: E402

NUM_MUTATIONS = 200


def digits(**model: Any) -> Experiment:
    return Experiment(
        dataset={
            "dataset": {"type": "digits"},
            "samples": {"train": 300, "test": 100},
            "preprocessors": [{"type": "divide", "factor": 16}, {"type": "standard_scaler"}],
        },
        model={
            "model": {"type": "cnn", "channels": [8], "hidden": 32} | model,
            "training": {"epochs": 8, "batch_size": 50, "optimizer": {"type": "adam", "lr": 0.01}},
        },
        run={"seed": 1, "threads": 1},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("runs"))
    try:
        experiment = digits()
        experiment.train()
        yield experiment
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def saved(trained: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "saved_trainer.zip"
    trained.save(path, licence="MIT")
    return path


@pytest.fixture(scope="module")
def raw(trained: Experiment) -> np.ndarray:
    images: np.ndarray = trained.dataset.dataset.tensors()[0][500:700].numpy()
    return images


def test_G_61_and_G_64_raw_samples_go_through_the_fitted_preprocessors(
    trained: Experiment, raw: np.ndarray
) -> None:
    truth = trained.dataset.dataset.tensors()[1][500:700].numpy()
    predicted = trained.predict(raw)
    assert predicted.dtype == np.int64
    assert (predicted == truth).mean() > 0.7
    unscaled = trained.model.model(torch.from_numpy(raw)).argmax(1).numpy()
    assert (unscaled != predicted).any()


def test_G_62_probabilities_of_classes(trained: Experiment, raw: np.ndarray) -> None:
    probabilities = trained.predict_proba(raw)
    assert probabilities.shape == (200, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    assert (probabilities.argmax(axis=1) == trained.predict(raw)).all()


def test_G_63_a_model_without_probabilities_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = Experiment(dataset={"dataset": "diabetes"}, model={"model": "mlp"})
    experiment.train()
    assert experiment.predict(np.zeros((3, 10))).shape == (3, 1)
    with pytest.raises(NotImplementedError, match="mean_squared_error"):
        experiment.predict_proba(np.zeros((3, 10)))


def test_inputs_of_another_shape_are_told(trained: Experiment) -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 8, 8\), expected \(samples, 1, 8, 8\)"):
        trained.predict(np.zeros((3, 8, 8)))
    with pytest.raises(ValueError, match="a single sample needs a dimension before"):
        trained.predict(np.zeros((1, 8, 8)))
    with pytest.raises(ValueError, match="no numbers"):
        trained.predict([["a", "b"], ["c"]])
    assert trained.predict(np.zeros((0, 1, 8, 8))).shape == (0,)


def test_before_training_there_is_nothing_to_use(tmp_path: Path) -> None:
    experiment = digits()
    for use in (
        lambda: experiment.predict([]),
        lambda: experiment.predict_proba([]),
        experiment.evaluate,
        lambda: experiment.save(tmp_path / "x.zip"),
    ):
        with pytest.raises(NotFittedError, match="Call train"):
            use()
    assert not (tmp_path / "x.zip").exists()


def test_G_65_and_G_66_the_file_holds_json_and_safetensors(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        names = archive.namelist()
        state = json.loads(archive.read("state.json"))
        card = archive.read("README.md").decode()
    assert {name.rpartition(".")[2] for name in names} == {"json", "safetensors", "md"}
    assert state["spec"].keys() == {"dataset", "model", "tracking", "run"}
    assert state["features"]["shape"] == {"$tuple": [1, 8, 8]}
    assert len(state["preprocessors"]) == 2
    assert "Licence: MIT" in card
    assert "test_accuracy" in card


def test_G_67_to_G_69_a_loaded_experiment_predicts_the_same_bits(
    saved: Path, trained: Experiment, raw: np.ndarray
) -> None:
    """G-67, G-68, G-69: with two fitted preprocessors; what goes in and comes out is known."""
    loaded = Experiment.load(saved)
    assert np.array_equal(loaded.predict_proba(raw), trained.predict_proba(raw))
    assert loaded.features_info == trained.features_info
    assert loaded.labels_info == trained.labels_info
    assert loaded.to_dict() == trained.to_dict()
    assert loaded.evaluate() == trained.evaluate()


def test_another_process_needs_no_data_set_and_no_training_code(
    saved: Path, trained: Experiment, raw: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "raw.npy", raw)
    program = """
import sys
import numpy as np
sys.modules["sklearn"] = None  # where the data set comes from
from loopwright.experiment import Experiment
experiment = Experiment.load(sys.argv[1])
np.save("out.npy", experiment.predict_proba(np.load("raw.npy")))
assert experiment.labels_info.names == tuple("0123456789")
"""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", program, saved], cwd=tmp_path, check=True, timeout=120
    )
    assert np.array_equal(np.load(tmp_path / "out.npy"), trained.predict_proba(raw))


def test_saving_a_loaded_experiment_changes_nothing(
    saved: Path, raw: np.ndarray, tmp_path: Path
) -> None:
    Experiment.load(saved).save(tmp_path / "again.zip")
    again = Experiment.load(tmp_path / "again.zip")
    assert np.array_equal(again.predict_proba(raw), Experiment.load(saved).predict_proba(raw))


def test_loading_draws_nothing(saved: Path) -> None:
    before = torch.random.get_rng_state()
    Experiment.load(saved)
    assert torch.equal(torch.random.get_rng_state(), before)


# ------------------------------------------------------------------- what is refused


def rewritten(saved: Path, path: Path, change: dict[str, bytes | None], **extra: bytes) -> Path:
    """Write a copy with members changed, left out (None) or added."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = change.get(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in extra.items():
            new.writestr(name, content)
    return path


def signed(saved: Path, path: Path, edit: Any) -> Path:
    """Write a copy with another state.json, whose checksum is right."""
    with zipfile.ZipFile(saved) as archive:
        state = json.loads(archive.read("state.json"))
        manifest = json.loads(archive.read("manifest.json"))
    edit(state)
    text = json.dumps(state).encode()
    digest = hashlib.sha256(text).hexdigest()
    manifest["files"]["state.json"] = {"bytes": len(text), "sha256": digest}
    change = {"state.json": text, "manifest.json": json.dumps(manifest).encode()}
    return rewritten(saved, path, change)  # type: ignore[arg-type]


def set_at(state: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        state = state[name]
    state[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("about.format", 9, "format 9"),
        ("spec.model.model.type", "os:system", "code of its own: 'os:system'"),
        ("spec.model.model.type", "vgg", "There is no model 'vgg'"),
        ("spec.model.model.hidden", 10**12, r"expected \[10{12}, 64\]|found"),
        ("spec.model.model.channels", [5], r"expected \[5"),
        ("features.dtype", "load", "no type of numbers"),
        ("features.kind", "Trainer", "KeyError"),
        ("spec.dataset.preprocessors", [], "does not fit together"),
        ("preprocessors", [{}, {}], "does not fit together"),
        ("sample.outputs", {"$tensor": "sample/none"}, "cannot be read"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    saved: Path, tmp_path: Path, path: str, value: Any, message: str
) -> None:
    file = signed(saved, tmp_path / "x.zip", lambda state: set_at(state, path, value))
    with pytest.raises(ArtifactError, match=message):
        Experiment.load(file)


def test_other_outputs_for_the_sample_are_refused(saved: Path, tmp_path: Path) -> None:
    def halve(state: Any) -> None:
        state["spec"]["dataset"]["preprocessors"][0]["factor"] = 8

    with pytest.raises(ArtifactError, match="does not give for its sample"):
        Experiment.load(signed(saved, tmp_path / "y.zip", halve))


def test_code_of_its_own_is_imported_only_where_that_very_name_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_net.py").write_text(
        "import pathlib\n"
        "from torch import nn\n"
        "pathlib.Path('imported').touch()\n"
        "def Net(input_shape, classes):\n"
        "    return nn.Linear(input_shape[0], classes)\n"
    )
    experiment = Experiment(dataset={"dataset": "iris"}, model={"model": "own_net:Net"})
    experiment.train()
    experiment.save("own.zip")
    (tmp_path / "imported").unlink()
    monkeypatch.delitem(sys.modules, "own_net")
    for trusted in ((), ["own_net"], ["own_net:Ne"], ["own_net:*"]):
        with pytest.raises(ArtifactError, match=r"load\(path, trusted=\['own_net:Net'\]\)"):
            Experiment.load("own.zip", trusted=trusted)
    assert not Path("imported").exists()
    loaded = Experiment.load("own.zip", trusted=["own_net:Net"])
    assert np.array_equal(loaded.predict(np.ones((2, 4))), experiment.predict(np.ones((2, 4))))


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil.json", "a/b.json", "weights.pkl", "x.pt", "evil.json"]
)
def test_other_members_are_refused(saved: Path, tmp_path: Path, name: str) -> None:
    """Among them a pickle, which stays closed."""
    evil = b"cos\nsystem\n(S'touch executed'\ntR."
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(tmp_path / "x.zip", "w") as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
        new.writestr(name, evil)
    with pytest.raises(ArtifactError, match="refused"):
        Experiment.load(tmp_path / "x.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.zip"]


def test_a_bomb_is_refused_before_it_grows(saved: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("state.json", b"0" * 100_000_000)
    assert (tmp_path / "x.zip").stat().st_size < 200_000
    with pytest.raises(ArtifactError, match="compressed"):
        read_artifact(tmp_path / "x.zip")


def test_a_member_that_claims_more_than_the_file_is_refused(saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    start = content.index(b"PK\x01\x02")  # the first entry of the central directory
    content[start + 24 : start + 28] = struct.pack("<I", 2**31)
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(ArtifactError, match="claim more than its"):
        read_artifact(tmp_path / "x.zip")


def test_a_link_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("state.json")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ArtifactError, match="no folder"):
        read_artifact(tmp_path / "x.zip")


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all", None])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"no saved experiment|There is no file"):
        read_artifact(path)


def test_mutated_files_are_refused_or_harmless(
    saved: Path, trained: Experiment, raw: np.ndarray, tmp_path: Path
) -> None:
    """Bits flipped, ends cut, bytes swapped: a refusal, or the same predictions to the bit."""
    whole, draw = saved.read_bytes(), random.Random(0)
    expected = trained.predict_proba(raw[:8])
    messages = []
    path = tmp_path / "x.zip"
    for number in range(NUM_MUTATIONS):
        content = bytearray(whole)
        if number % 4 == 0:
            del content[draw.randrange(len(content)) :]
        elif number % 4 == 1:
            a, b = (draw.randrange(len(content) - 64) for _ in range(2))
            content[a : a + 64], content[b : b + 64] = content[b : b + 64], content[a : a + 64]
        else:
            for _ in range(3):
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            loaded = Experiment.load(path)
        except ArtifactError as error:
            messages.append(str(error))
        else:
            assert np.array_equal(loaded.predict_proba(raw[:8]), expected)
    assert len(messages) > NUM_MUTATIONS / 2
    assert all("x.zip" in message for message in messages)


def test_a_file_appears_whole_or_not_at_all(
    trained: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.zip"
    trained.save(path)
    before = path.read_bytes()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        trained.save(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["x.zip"]
    assert zipfile.ZipFile(io.BytesIO(before)).testzip() is None


# --------------------------------------------------------- texts, and images of many sizes


def test_images_of_many_sizes_are_predicted_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_module = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name, brightest in (("cat", 80), ("dog", 255)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):
            pixels = draw.integers(0, brightest, (10 + number, 12, 3), dtype=np.uint8)
            image_module.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    experiment = Experiment(
        dataset={
            "dataset": {"type": "image_folder", "path": "images"},
            "preprocessors": [{"type": "image_resize", "width": 8, "height": 8}],
        },
        model={"model": {"type": "resnet", "depth": 9, "width": 2}},
    )
    experiment.train()
    experiment.save("images.zip")
    files = [f"images/{name}/{number}.png" for name in ("cat", "dog") for number in range(3)]
    samples = from_images((Path(each).read_bytes() for each in files), experiment.features_info)
    loaded = Experiment.load("images.zip")
    assert np.array_equal(loaded.predict_proba(samples), experiment.predict_proba(samples))


def test_how_many_tokens_there_are_shows_when_the_tokenizer_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    for name, words in (("good", "fine and good"), ("bad", "awful and bad")):
        (tmp_path / "texts" / name).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "texts" / name / f"{number}.txt").write_text(f"this is {words} {number}")
    experiment = Experiment(
        dataset={
            "dataset": {"type": "text_files", "path": "texts"},
            "preprocessors": [{"type": "tokenizer", "max_length": 8, "vocabulary_size": 60}],
        },
        model={"model": {"type": "text_cnn", "embedding": 4, "channels": 4}},
    )
    experiment.train()
    assert 0 < experiment.model.model.embedding.num_embeddings <= 60
    experiment.save("texts.zip")
    texts = ["this is good", "awful"]
    loaded = Experiment.load("texts.zip")
    assert np.array_equal(loaded.predict_proba(texts), experiment.predict_proba(texts))
