"""What is predicted, saved, loaded and served of models that were trained for an objective."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

for _package in ("pydantic", "sklearn", "yaml"):
    pytest.importorskip(_package)

from loopwright.cli import make_app  # noqa: E402
from loopwright.errors import NotSupportedError  # noqa: E402
from loopwright.experiment import Experiment, NotFittedError  # noqa: E402
from loopwright.fitted import Fitted  # noqa: E402
from loopwright.problems import ProblemsError  # noqa: E402
from loopwright.report import render_report  # noqa: E402
from loopwright.run_record import read_run  # noqa: E402
from loopwright.trainers import (  # noqa: E402
    AutoencoderInferrer,
    LanguageModelInferrer,
    Seq2SeqInferrer,
)

TEXT = "to be, or not to be: that is the question. " * 40


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)


def declared(kind: str, **training: Any) -> Experiment:
    values: dict[str, Any] = {
        "seq2seq": {
            "dataset": {
                "dataset": {"type": "reversal", "num_samples": 60, "max_length": 6},
                "samples": {"train": 40, "validation": 10, "test": 10},
                "preprocessors": [{"type": "characters", "max_length": 6}],
            },
            "model": {"type": "rnn_seq2seq", "width": 16},
            "callbacks": ["exact_match", "translations"],
        },
        "language_model": {
            "dataset": {
                "dataset": {"type": "text_files", "path": "text.txt", "block_length": 10},
                "samples": {"train": 100, "validation": 30, "test": 30},
                "shuffle": False,
            },
            "model": {"type": "gpt", "width": 16, "heads": 2, "layers": 1},
            "callbacks": [{"type": "continuations", "prompt": "to be", "count": 12}],
        },
    }.get(
        kind,
        {
            "dataset": {
                "dataset": "digits",
                "samples": {"train": 300, "test": 60},
                "preprocessors": [{"type": "divide", "factor": 16}],
            },
            "model": {"type": "vae" if kind == "vae" else "autoencoder", "hidden": [16]},
            "callbacks": [],
        },
    )
    return Experiment(
        dataset=values["dataset"],
        model={
            "model": values["model"],
            "training": {
                "epochs": 3,
                "objective": kind,
                "optimizer": {"type": "adam", "lr": 0.01},
            }
            | training,
        },
        run={"seed": 1, "threads": 1, "device": "cpu", "callbacks": values["callbacks"]},
    )


def saved_and_loaded(experiment: Experiment) -> Experiment:
    experiment.save("model.zip")
    return Experiment.load("model.zip", device="cpu")


@pytest.mark.parametrize("objective", ["autoencoder", "denoising_autoencoder", "vae"])
def test_an_autoencoder_reconstructs(objective: str) -> None:
    """Raw samples, in the values that the model gets, without noise or draws."""
    experiment = declared(objective)
    experiment.train()
    raw = experiment.dataset.dataset.tensors()[0][:5]
    model: Any = experiment.model.model
    with torch.no_grad():
        expected = torch.sigmoid(model.decode(model.encode(raw / 16))).numpy()
    found = experiment.predict(raw.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    loaded = saved_and_loaded(experiment)
    assert np.array_equal(loaded.predict(raw), found)
    assert isinstance(loaded.inferrer, AutoencoderInferrer)
    assert torch.equal(loaded.inferrer.reconstruct(raw / 16), torch.from_numpy(found))
    assert loaded.inferrer.generate(2, seed=0).shape == (2, 1, 8, 8)
    assert loaded.predict(raw[:0]).shape == (0, 1, 8, 8)
    with pytest.raises(NotImplementedError, match=f"it was trained as {objective}"):
        loaded.predict_proba(raw)
    assert loaded.evaluate()["test_loss"] == pytest.approx(
        experiment.evaluate()["test_loss"], rel=1e-6
    )


def test_an_own_loss_says_what_the_outputs_are() -> None:
    """Compared by squares, they are the values themselves."""
    experiment = declared("autoencoder", loss="mean_squared_error")
    experiment.train()
    raw = experiment.dataset.dataset.tensors()[0][:5]
    with torch.no_grad():
        expected = experiment.model.model(raw / 16).numpy()
    np.testing.assert_allclose(experiment.predict(raw), expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(saved_and_loaded(experiment).predict(raw), experiment.predict(raw))


def test_a_model_of_sequences_translates() -> None:
    """Texts into texts, with more beams by the inferrer; the report shows some."""
    experiment = declared("seq2seq", epochs=25)
    results = experiment.train()
    assert 0 <= results["metrics"]["test_exact_match"] <= 1
    words = ["abcd", "jjii", "fedcba"]
    found = experiment.predict(words)
    assert found.shape == (3,)
    assert set("".join(found)) <= set("abcdefghij")
    inferrer = experiment.inferrer
    assert isinstance(inferrer, Seq2SeqInferrer)
    assert inferrer.translate(words, max_length=7) == found.tolist()
    pipeline = experiment.dataset.spec.preprocessors
    assert [step.type for step in pipeline] == ["characters"]
    loaded = saved_and_loaded(experiment)
    assert loaded.predict(words).tolist() == found.tolist()
    assert loaded.predict(words, batch_size=1).tolist() == found.tolist()
    beams = loaded.inferrer.translate(words, max_length=7, beams=3)
    assert beams == inferrer.translate(words, max_length=7, beams=3)
    assert loaded.predict([]).shape == (0,)
    assert loaded.evaluate()["test_exact_match"] == results["metrics"]["test_exact_match"]
    with pytest.raises(ValueError, match="A text has 7 characters"):
        loaded.predict(["abcdefg"])
    page = render_report(read_run(results["run_folder"]))
    assert "translations-0025" in page
    shown = (results["run_folder"] / "pictures" / "translations-0025.txt").read_text()
    assert "→" in shown.splitlines()[0]
    assert shown.splitlines()[0] in page


def test_a_language_model_goes_on() -> None:
    """After texts of any length with the likeliest, of the length of a block."""
    experiment = declared("language_model")
    results = experiment.train()
    metrics = results["metrics"]
    assert metrics["test_perplexity"] == pytest.approx(np.exp(metrics["test_loss"]), rel=1e-6)
    prompts = ["to be, or", "t", "not to be: that is the"]
    found = experiment.predict(prompts)
    assert [len(text) for text in found] == [10, 10, 10]
    inferrer = experiment.inferrer
    assert isinstance(inferrer, LanguageModelInferrer)
    for prompt, text in zip(prompts, found, strict=True):
        assert inferrer.generate(prompt, 10, temperature=0) == text
    blocks = experiment.dataset.dataset.tensors()[0][:2]
    assert (
        experiment.predict(blocks).tolist() == experiment.predict([TEXT[:10], TEXT[10:20]]).tolist()
    )
    loaded = saved_and_loaded(experiment)
    assert loaded.predict(prompts).tolist() == found.tolist()
    assert loaded.inferrer.generate("to", 30, top_k=3, seed=4) == inferrer.generate(
        "to", 30, top_k=3, seed=4
    )
    assert loaded.predict([]).shape == (0,)
    assert loaded.evaluate()["test_perplexity"] == pytest.approx(metrics["test_perplexity"])
    with pytest.raises(ValueError, match="has the characters"):
        loaded.predict(["Zürich"])
    with pytest.raises(ValueError, match="A text is empty"):
        loaded.predict(["to", ""])
    written = results["run_folder"] / "pictures" / "continuation-0003.txt"
    assert written.read_text().startswith("to be|")
    assert "continuation-0003" in render_report(read_run(results["run_folder"]))


def test_the_command_predicts_texts() -> None:
    testing = pytest.importorskip("typer.testing")
    experiment = declared("seq2seq", max_steps=1)
    experiment.train()
    experiment.save("model.zip")
    Path("words.json").write_text('{"inputs": ["abc", "fade"]}')
    result = testing.CliRunner().invoke(
        make_app(), ["predict", "model.zip", "--json", "words.json", "--device", "cpu"]
    )
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    expected = experiment.predict(["abc", "fade"]).tolist()
    assert lines == [{"prediction": text} for text in expected]


def test_an_objective_without_a_prediction_says_so() -> None:
    info = declared("vae").features_info
    model = Fitted(torch.nn.Linear(1, 1), info, info, objective="other")
    with pytest.raises(NotSupportedError, match="trained as other has no prediction.*seq2seq"):
        model.predict([[0.0]])
    plain = Fitted(torch.nn.Linear(1, 1), info, info, device="cpu")
    assert plain.inferrer(torch.ones(2, 1)).shape == (2, 1)
    with pytest.raises(NotFittedError, match="Experiment.inferrer needs a trained model"):
        _ = declared("vae").inferrer


@pytest.mark.parametrize(
    ("kind", "training", "message"),
    [
        ("seq2seq", {"objective": {"type": "seq2seq", "teacher_forcing": 2.0}}, "teacher_forcing"),
        ("seq2seq", {"objective": "language_model"}, "does not go through model and loss"),
        ("language_model", {"objective": "vae"}, "does not go through model and loss"),
    ],
)
def test_mistakes_are_told_before_the_run(
    kind: str, training: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProblemsError, match=message):
        declared(kind, **training).train()
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("kind", "metric"), [("seq2seq", "exact_match"), ("language_model", "perplexity")]
)
def test_what_an_objective_records_can_be_watched(kind: str, metric: str) -> None:
    def values(watched: str) -> dict[str, Any]:
        values = declared(kind).to_dict()
        stopping = {"type": "early_stopping", "watch_metric": watched, "early_stopping_patience": 9}
        values["run"]["callbacks"] = [stopping, *values["run"]["callbacks"]]
        return values

    results = Experiment.from_dict(values(metric)).train()
    assert metric in results["metrics"]
    with pytest.raises(ProblemsError, match=rf"(?s)expected a metric of this run.*{metric}"):
        Experiment.from_dict(values("accuracy")).train()


def test_a_rate_is_found_by_the_loss() -> None:
    """Labels that are sequences of tokens are no classes of samples."""
    finder = declared("seq2seq").find_rate(num_epochs=4)
    low, high = finder.get_lr_range()
    assert 0 < low < high
    assert not finder.acc_test


EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", ["reversal", "addition", "tinyshakespeare"])
def test_the_examples_run(name: str) -> None:
    """On a few samples: their data, names and arguments fit together."""
    Path("tinyshakespeare.txt").write_text(TEXT * 20 + "ROMEO:")
    changes = ["model.training.max_steps=2", "model.model.width=8", "model.training.batch_size=8"]
    if name != "tinyshakespeare":
        samples = "{train: 40, validation: 10, test: 10}"
        changes += ["dataset.dataset.num_samples=60", f"dataset.samples={samples}"]
    experiment = Experiment.from_yaml(EXAMPLES / f"{name}.yaml", changes)
    results = experiment.train()
    metric = "test_perplexity" if name == "tinyshakespeare" else "test_exact_match"
    assert results["metrics"][metric] >= 0
    assert list((results["run_folder"] / "pictures").glob("*.txt"))
    prompt = {"reversal": "abc", "addition": "1+2", "tinyshakespeare": "to be"}[name]
    assert len(experiment.predict([prompt])) == 1


@pytest.mark.parametrize("objective", ["seq2seq", "language_model"])
def test_a_model_is_known_by_numbers(objective: str) -> None:
    """Not by the tokens that it chooses, which a last digit decides where two are near."""
    experiment = declared(objective, max_steps=1)
    experiment.train()
    fitted, sample = experiment._require_fitted("save"), experiment._sample
    before = fitted.evidence(sample)
    assert before.is_floating_point()
    with torch.no_grad():
        next(fitted.model.parameters()).mul_(1.5)
    assert not torch.allclose(before, fitted.evidence(sample), rtol=1e-4, atol=1e-5)
