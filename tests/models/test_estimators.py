"""Scikit-learn estimators in declared runs: fitted as by hand, saved without code, served."""

import io
import os
import signal
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pydantic")
sklearn = pytest.importorskip("sklearn")
skops = pytest.importorskip("skops.io")

from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.linear_model import LogisticRegression, SGDClassifier  # noqa: E402

from loopwright.artifact import read_artifact  # noqa: E402
from loopwright.datasets.base import classes  # noqa: E402
from loopwright.errors import (  # noqa: E402
    ArtifactError,
    MissingExtraError,
    NotSupportedError,
    RunInterrupted,
)
from loopwright.events import TrainerCallback  # noqa: E402
from loopwright.experiment import Experiment  # noqa: E402
from loopwright.models.estimators import SHORT_FORMS, EstimatorModel  # noqa: E402
from loopwright.problems import ProblemsError  # noqa: E402
from loopwright.run_folder import read_run  # noqa: E402


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def declared(model: Any, data: str = "iris", **dataset: Any) -> Experiment:
    return Experiment(
        dataset={"dataset": data, "preprocessors": ["standard_scaler"], "seed": 0} | dataset,
        model={"model": model},
        run={"seed": 0, "threads": 1},
    )


def prepared(experiment: Experiment) -> tuple[np.ndarray, ...]:
    """Return the training and the test part as the estimator gets them."""
    assert experiment._fitted is not None
    rows = [
        (
            experiment._fitted.transform(experiment.samples(part)).numpy(),
            experiment.labels(part).numpy(),
        )
        for part in ("train", "test")
    ]
    return rows[0] + rows[1]


@pytest.mark.parametrize(
    ("model", "by_hand"),
    [
        ("sklearn.linear_model:LogisticRegression", LogisticRegression()),
        ({"type": "logistic_regression", "C": 0.1}, LogisticRegression(C=0.1)),
        (
            {"type": "random_forest_classifier", "n_estimators": 10},
            RandomForestClassifier(n_estimators=10, random_state=0),
        ),
    ],
    ids=["path", "short form", "seeded"],
)
def test_a_run_fits_what_scikit_learn_fits_g74(model: Any, by_hand: Any) -> None:
    """G-74: fit, predict, predict_proba and evaluate; the same numbers as without loopwright."""
    experiment = declared(model)
    results = experiment.train()
    x, y, test_x, test_y = prepared(experiment)
    by_hand.fit(x, y)
    rows = experiment.samples("test")
    assert np.array_equal(experiment.predict(rows), by_hand.predict(test_x))
    np.testing.assert_allclose(
        experiment.predict_proba(rows), by_hand.predict_proba(test_x), rtol=1e-5, atol=1e-7
    )
    accuracy = by_hand.score(test_x, test_y)
    assert results["metrics"]["test_accuracy"] == pytest.approx(accuracy)
    assert experiment.evaluate()["test_accuracy"] == pytest.approx(accuracy)
    assert 0 < results["metrics"]["test_loss"] < 1
    run = read_run(results["run_folder"])
    assert run.results["steps"] == run.results["epochs"] == 1
    assert (results["run_folder"] / "report.html").is_file()


@pytest.mark.parametrize("name", SHORT_FORMS)
def test_every_short_form_is_saved_without_code_and_predicts_the_same(name: str) -> None:
    """Bit for bit, with nothing trusted beside what the library lists."""
    numeric = name.endswith(("_regressor", "ridge", "linear_regression"))
    experiment = declared(name, "diabetes" if numeric else "iris")
    experiment.train()
    experiment.save("model.zip")
    with zipfile.ZipFile("model.zip") as archive:
        assert {Path(member).suffix for member in archive.namelist()} <= {
            ".json",
            ".md",
            ".safetensors",
        }
    loaded = Experiment.load("model.zip")
    raw = experiment.dataset.dataset.tensors()[0][:40]
    assert np.array_equal(loaded.predict(raw), experiment.predict(raw))
    assert loaded._fitted is not None
    assert experiment._fitted is not None
    assert torch.equal(loaded._fitted.forward(raw), experiment._fitted.forward(raw))
    assert loaded.evaluate() == experiment.evaluate()


def test_the_same_run_ends_with_the_same_bytes() -> None:
    """No address and no time is in them."""
    states = []
    for _ in range(2):
        experiment = declared({"type": "random_forest_classifier", "n_estimators": 3})
        experiment.train()
        states.append(experiment.model.model.state_dict()["_extra_state"])
    assert torch.equal(*states)


def test_what_gives_no_probabilities_says_so_g63() -> None:
    experiment = declared("linear_svc")
    results = experiment.train()
    with pytest.raises(NotImplementedError, match="no probabilities"):
        experiment.predict_proba(np.zeros((1, 4)))
    metrics = results["metrics"]
    assert metrics["test_loss"] == pytest.approx(1 - metrics["test_accuracy"])
    with pytest.raises(NotSupportedError, match="LinearSVC has no learning rate"):
        experiment.find_rate()


def test_chunks_are_fitted_by_partial_fit_g23() -> None:
    """G-23: as a loop over chunks by hand; what cannot be so fitted is refused by its name."""
    experiment = Experiment(
        dataset={"dataset": "iris", "chunk_size": 20, "seed": 0},
        model={"model": "sklearn.linear_model:SGDClassifier", "training": {"epochs": 3}},
        run={"seed": 0, "threads": 1},
    )
    experiment.train()
    x, y, test_x, _ = prepared(experiment)
    by_hand = SGDClassifier(random_state=0)
    for _ in range(3):
        for start in range(0, len(x), 20):
            rows = slice(start, start + 20)
            by_hand.partial_fit(x[rows], y[rows], classes=[0, 1, 2])
    assert np.array_equal(experiment.predict(test_x), by_hand.predict(test_x))
    with pytest.raises(ProblemsError, match="LogisticRegression learns from all rows at once"):
        declared("logistic_regression", chunk_size=20).train()


def test_an_estimator_of_ones_own_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its class was named in the configuration; of other classes inside it that says nothing."""
    (tmp_path / "my_own.py").write_text(
        "from sklearn.linear_model import SGDClassifier\nclass Own(SGDClassifier):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    class StopInSecond(TrainerCallback):
        def on_train_epoch_end(self, trainer: Any, **kwargs: Any) -> None:
            if trainer.progress.epoch == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    def own(folder: str) -> Experiment:
        return Experiment(
            dataset={"dataset": "iris", "chunk_size": 20, "seed": 0},
            model={"model": "my_own:Own", "training": {"epochs": 3}},
            run={"seed": 0, "threads": 1, "folder": folder},
        )

    whole = own("whole").train()
    with pytest.raises(RunInterrupted):
        own("cut").train(callbacks=[StopInSecond()])
    assert own("cut").train(resume=True)["fingerprint"] == whole["fingerprint"]


def test_a_baseline_is_one_line_away(capsys: pytest.CaptureFixture[str]) -> None:
    """What the settings of a network would do is told to have no effect."""
    values = Experiment(
        dataset={"dataset": "digits", "preprocessors": ["standard_scaler"]},
        model={"model": "mlp", "training": {"epochs": 5, "optimizer": "sgd"}},
    ).to_dict()
    values["model"]["model"] = "logistic_regression"
    results = Experiment.from_dict(values).train()
    assert results["metrics"]["test_accuracy"] > 0.9
    assert "LogisticRegression fits itself, without epochs, optimizer" in capsys.readouterr().out


def test_texts_and_unseen_classes(tmp_path: Path) -> None:
    for name, text in (("cold", "snow ice frost"), ("hot", "sun fire sand"), ("rare", "fog")):
        folder = tmp_path / "texts" / name
        folder.mkdir(parents=True)
        for number in range(1 if name == "rare" else 12):
            (folder / f"{number}.txt").write_text(text)
    experiment = Experiment(
        dataset={
            "dataset": {"type": "text_files", "path": "texts"},
            "preprocessors": ["tfidf"],
            "samples": {"train": 24, "test": 1},
            "shuffle": False,
        },
        model={"model": "logistic_regression"},
        run={"seed": 0},
    )
    assert experiment.train()["metrics"]["test_accuracy"] == 0.0
    found = experiment.predict_proba(["ice and snow", "sun"])
    assert found.shape == (2, 3)
    assert found.argmax(axis=1).tolist() == [0, 1]
    assert found[:, 2].max() < 1e-30
    experiment.save("model.zip")
    assert Experiment.load("model.zip").predict(["frost"]).tolist() == [0]


def test_a_function_of_ones_own_may_return_an_estimator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_baselines.py").write_text(
        "from sklearn.linear_model import LogisticRegression\n"
        "from sklearn.pipeline import make_pipeline\n"
        "from sklearn.preprocessing import PolynomialFeatures\n"
        "def squares(degree: int = 2):\n"
        "    return make_pipeline(PolynomialFeatures(degree), LogisticRegression(max_iter=500))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    experiment = declared("my_baselines:squares")
    assert experiment.train()["metrics"]["test_accuracy"] > 0.9
    experiment.save("model.zip")
    with pytest.raises(ArtifactError, match="my_baselines:squares"):
        Experiment.load("model.zip")
    loaded = Experiment.load("model.zip", trusted=["my_baselines:squares"])
    raw = experiment.dataset.dataset.tensors()[0]
    assert np.array_equal(loaded.predict_proba(raw), experiment.predict_proba(raw))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"type": "ridge", "alhpa": 1}}, 'Did you mean "alpha"'),
        ({"model": "sklearn.linear_model:LogisticRegresion"}, "LogisticRegression"),
        ({"augment": True}, "augmentors"),
        ({"objective": "vae"}, "leave out model.training.objective"),
        ({"model": "ridge"}, "Ridge predicts numbers, and the labels are classes"),
    ],
    ids=["argument", "class", "augmentors", "objective", "kind"],
)
def test_what_does_not_fit_is_told_before_work(changes: dict[str, Any], message: str) -> None:
    augmentors = [{"type": "invert", "probability": 1.0}] if "augment" in changes else []
    training = {"objective": changes["objective"]} if "objective" in changes else {}
    with pytest.raises(ProblemsError, match=message):
        Experiment(
            dataset={"dataset": "digits", "data_augmentors": augmentors},
            model={"model": changes.get("model", "logistic_regression"), "training": training},
        ).train()
    assert not Path("runs").exists()


def test_sequences_of_classes_are_refused() -> None:
    """Their places are no classes, which a row of zeros and a one would be."""
    Path("text.txt").write_text("to be or not to be " * 20)
    with pytest.raises(ProblemsError, match=r"LinearSVC predicts one class .* the shape \(5,\)"):
        Experiment(
            dataset={"dataset": {"type": "text_files", "path": "text.txt", "block_length": 5}},
            model={"model": "linear_svc"},
        ).train()


def test_without_scikit_learn_the_command_that_installs_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtraError, match=r'pip install "loopwright\[sklearn\]"'):
        declared("logistic_regression")


def fitted(estimator: Any) -> EstimatorModel:
    model = EstimatorModel(estimator, classes(("a", "b")))
    model.learn(torch.randn(20, 3), torch.arange(20) % 2)
    return model


def as_state(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


class Hostile(LogisticRegression):
    """Is no part of scikit-learn."""


def compressed(estimator: Any) -> bytes:
    content: bytes = skops.dumps(estimator, compression=zipfile.ZIP_DEFLATED)
    return content


def flipped() -> bytes:
    content = bytearray(skops.dumps(LogisticRegression()))
    content[content.index(b"__class__")] ^= 1
    return bytes(content)


def bomb() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * 10_000_000)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: skops.dumps(Hostile().fit([[0.0], [1.0]], [0, 1])), "holds the types .*Hostile"),
        (lambda: skops.dumps(np.load), "holds the types .*"),
        (lambda: skops.dumps(SGDClassifier()), "Expected a LogisticRegression, found a SGD"),
        (lambda: compressed(LogisticRegression()), "compressed"),
        (bomb, "compressed"),
        (lambda: b"no archive", "LogisticRegression is damaged: File is not a zip file"),
        (flipped, r"LogisticRegression is damaged: schema\.json"),
    ],
    ids=["own class", "function", "other class", "compressed", "bomb", "noise", "flipped"],
)
def test_hostile_estimators_are_refused(content: Any, message: str) -> None:
    model = fitted(LogisticRegression())
    with pytest.raises(ArtifactError, match=message):
        model.load_state_dict({"_extra_state": as_state(content())})


def test_an_artifact_with_another_estimator_inside_is_refused(tmp_path: Path) -> None:
    """The declared class is the one that is read, and no other path of sklearn is called."""
    experiment = declared("logistic_regression")
    experiment.train()
    experiment.model.model.estimator = SGDClassifier().fit([[0.0] * 4, [1.0] * 4], [0, 1])
    experiment.save("model.zip")
    with pytest.raises(ArtifactError, match="Expected a LogisticRegression"):
        read_artifact("model.zip")
    calls = declared("logistic_regression")
    calls.train()
    assert calls._fitted is not None
    from loopwright.artifact import write_artifact

    spec = calls.to_dict()
    for path in ("sklearn.datasets:load_iris", "sklearn.cluster:KMeans"):
        spec["model"]["model"] = {"type": path}
        write_artifact("model.zip", calls._fitted, spec, calls.dataset.dataset.tensors()[0])
        with pytest.raises(ArtifactError, match="code of its own"):
            read_artifact("model.zip")
