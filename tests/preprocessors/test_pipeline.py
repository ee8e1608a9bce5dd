"""Tests of preparing data: the same rows from memory and from disk, and memory that is bounded."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from loopwright.datasets import Digits, Npz
from loopwright.datasets.splits import split_indices
from loopwright.events import TrainerCallback
from loopwright.experiment import Experiment
from loopwright.preprocessors import preprocessors
from loopwright.preprocessors.pipeline import Pipeline, Preparation
from loopwright.problems import ProblemsError
from loopwright.trainer import Trainer

pytest.importorskip("sklearn")
PARTS = {"train": 0.6, "validation": 0.1, "test": 0.2}


def prepare(chunk_size: int | None, folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    pipeline = Pipeline(
        [preprocessors.get("divide")(factor=16), preprocessors.get("standard_scaler")()]
    )  # type: ignore[call-arg]
    source = Digits()
    pipeline.describe(source.features_info)
    rows = split_indices(len(source), PARTS, shuffle=True, seed=3)
    preparation = Preparation(source, pipeline, rows, lambda y: y, lambda name: nullcontext())
    return (
        preparation.in_memory() if chunk_size is None else preparation.on_disk(folder, chunk_size)
    )


@pytest.mark.parametrize("chunk_size", [1, 100, 5000])
def test_G_22_chunks_give_the_rows_that_memory_gives(chunk_size: int, tmp_path: Path) -> None:
    if chunk_size == 1:
        torch.manual_seed(0)
    expected, found = prepare(None, tmp_path), prepare(chunk_size, tmp_path)
    for name, (features, labels) in expected.items():
        torch.testing.assert_close(found[name][0], features, rtol=1e-6, atol=1e-6)
        assert torch.equal(found[name][1], labels)
    assert len(list(tmp_path.iterdir())) == 6


class Watch(TrainerCallback):
    """Keeps the trainer."""

    trainer: Trainer

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self.trainer = trainer


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return {
        "dataset": {
            "dataset": {"type": "wine"},
            "preprocessors": ["standard_scaler"],
            "one_hot": True,
        },
        "model": {"model": {"type": "mlp", "hidden": [8]}, "training": {"epochs": 2}},
        "run": {"seed": 0, "device": "cpu"},
    }


def test_a_run_in_chunks_trains_as_one_in_memory(spec: dict[str, Any], tmp_path: Path) -> None:
    whole = Experiment.from_dict(spec).train()
    spec["dataset"]["chunk_size"] = 16
    chunked = Experiment.from_dict(spec).train()
    for name, value in whole["metrics"].items():
        assert chunked["metrics"][name] == pytest.approx(value, rel=1e-4)
    assert list((tmp_path / "cache/loopwright").iterdir()) == []


def test_what_cannot_be_fitted_in_chunks_is_told_before_anything_is_read(
    spec: dict[str, Any],
) -> None:
    spec["dataset"] |= {"chunk_size": 16, "preprocessors": ["standard_scaler", "kbest"]}
    with pytest.raises(ProblemsError, match="kbest cannot be fitted in chunks") as caught:
        Experiment.from_dict(spec).train()
    assert caught.value.problems[0].path == ("dataset", "preprocessors", 1)
    assert not Path("runs").exists()


def saved_and_loaded(experiment: Experiment) -> Experiment:
    experiment.save("saved.zip")
    return Experiment.load("saved.zip")


def test_images_of_many_sizes_and_every_pixel_s_scale_go_through_a_file(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    """G-66, G-68, G-69: several fitted steps, and what the data set was like."""
    pillow = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for i in range(16):
        folder = tmp_path / "images" / ("light" if i % 2 else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 100, (5 + i % 3, 6, 3)) + 100 * (i % 2)
        pillow.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    spec["dataset"] = {
        "dataset": {"type": "image_folder", "path": str(tmp_path / "images")},
        "preprocessors": [
            {"type": "image_resize", "width": 4, "height": 4},
            "normalize",
            "standard_scaler",
        ],
    }
    trained = Experiment.from_dict(spec)
    trained.train()
    loaded = saved_and_loaded(trained)
    images = [np.full((3, 5, 9), 30), np.full((3, 8, 4), 180)]
    assert np.array_equal(loaded.predict_proba(images), trained.predict_proba(images))
    assert loaded.features_info.shape == (3, None, None)
    assert loaded.labels_info.names == ("dark", "light")
    with pytest.raises(ValueError, match=r"the shape \(1, 5, 9\), expected \(3, None, None\)"):
        loaded.predict([np.zeros((1, 5, 9))])


def test_a_size_that_fitting_decides_reaches_the_model(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    """A table with categories and missing values, and texts, whose sizes are not declared."""
    pytest.importorskip("pyarrow")
    path = tmp_path / "table.csv"
    rows = [f"{i % 7},{'ab'[i % 2]},{'' if i % 5 else i},{'yn'[i % 2]}" for i in range(80)]
    path.write_text("\n".join(["x,kind,size,answer", *rows]))
    spec["dataset"] = {
        "dataset": {"type": "csv", "path": str(path), "target": "answer"},
        "preprocessors": ["impute", "one_hot", "standard_scaler", {"type": "kbest", "k": 3}],
    }
    watch = Watch()
    trained = Experiment.from_dict(spec)
    trained.train(callbacks=[watch])
    assert watch.trainer.train_dataset[0].shape == (60, 3)
    loaded = saved_and_loaded(trained)
    rows_to_predict = [{"x": 3, "kind": "a", "size": 10}, {"kind": "b"}]
    assert np.array_equal(
        loaded.predict_proba(rows_to_predict), trained.predict_proba(rows_to_predict)
    )
    assert loaded.features_info == trained.features_info
    for label, text in (("pos", "good film"), ("neg", "bad film")):
        (tmp_path / "texts" / label).mkdir(parents=True)
        for i in range(10):
            (tmp_path / "texts" / label / f"{i}.txt").write_text(f"{text} number {i}")
    spec["dataset"] = {
        "dataset": {"type": "text_files", "path": str(tmp_path / "texts")},
        "preprocessors": ["tfidf"],
    }
    watch = Watch()
    trained = Experiment.from_dict(spec)
    trained.train(callbacks=[watch])
    texts = ["a good film", "bad"]
    assert np.array_equal(
        saved_and_loaded(trained).predict_proba(texts), trained.predict_proba(texts)
    )
    with pytest.raises(ValueError, match="no list of texts"):
        trained.predict([1.0])
    features = watch.trainer.train_dataset[0]
    assert features.shape[0] == 15
    assert watch.trainer.get_model()[1].in_features == features.shape[1]


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"dataset": {"type": "npz", "path": "none.npz"}}, "dataset.dataset", "No such file"),
        ({"preprocessors": ["grayscale"]}, "dataset.preprocessors.0", "grayscale takes images"),
        ({"preprocessors": ["one_hot"]}, "dataset.preprocessors.0", "have none"),
        ({"preprocessors": [{"type": "divide", "factor": 0}]}, "dataset.preprocessors.0", "is 0"),
    ],
)
def test_data_and_steps_that_do_not_fit_are_told_with_all_else(
    spec: dict[str, Any], changes: dict[str, Any], path: str, message: str
) -> None:
    spec["dataset"] |= changes | {"one_hot": False}
    spec["model"]["training"]["optimizer"] = {"type": "adam", "lr": -1.0}
    with pytest.raises(ProblemsError, match=message) as caught:
        Experiment.from_dict(spec).train()
    paths = [".".join(map(str, problem.path)) for problem in caught.value.problems]
    assert set(paths) == {path, "model.training.optimizer"}


LIMITED = """
import resource, sys, yaml
from loopwright.experiment import Experiment
spec = yaml.safe_load(open("spec.yaml"))
Experiment.from_dict(yaml.safe_load(open("warm.yaml"))).train()
if sys.argv[1] == "limited":
    used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
    limit = used + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print("ACCURACY", Experiment.from_dict(spec).train()["metrics"]["test_accuracy"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA holds for mapped memory on Linux")
def test_memory_stays_bounded_on_a_set_ten_times_larger_than_the_limit(tmp_path: Path) -> None:
    """G-22: beyond the limit the system gives no memory; without chunks the same run fails."""
    limit = 24 * 2**20
    rows = 10 * limit // (1024 * 4)
    labels = np.arange(rows) % 2
    features = np.random.default_rng(0).normal(size=(rows, 1024)).astype(np.float32)
    features[:, 0] += 4 * labels
    assert features.nbytes >= 10 * limit
    np.savez(tmp_path / "data.npz", features=features, labels=labels.astype(np.uint8))
    np.savez(tmp_path / "warm.npz", features=features[:500], labels=labels[:500].astype(np.uint8))
    del features
    spec: dict[str, Any] = {
        "dataset": {
            "dataset": {"type": "npz", "path": "data.npz"},
            "preprocessors": ["standard_scaler"],
            "chunk_size": 100,
        },
        "model": {"model": {"type": "mlp", "hidden": []}, "training": {"batch_size": 100}},
        "run": {"seed": 0, "device": "cpu", "threads": 1},
    }
    spec["model"]["training"]["optimizer"] = {"type": "adam", "lr": 0.01}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    warm = spec | {"dataset": spec["dataset"] | {"dataset": {"type": "npz", "path": "warm.npz"}}}
    (tmp_path / "warm.yaml").write_text(yaml.safe_dump(warm))

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", LIMITED, "limited", str(limit)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    chunked = run()
    assert "ACCURACY" in chunked.stdout, chunked.stderr[-2000:]
    assert float(chunked.stdout.rsplit(None, 1)[1]) > 0.9
    del spec["dataset"]["chunk_size"]
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    whole = run()
    assert "ACCURACY" not in whole.stdout
    assert "memory" in whole.stderr.lower()


def test_an_npz_is_read_without_reading_it_all(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", features=np.eye(50), labels=np.arange(50))
    source = Npz(str(tmp_path / "a.npz"))
    rows = [source.read(i, i + 7)[0] for i in range(0, 50, 7)]
    assert torch.equal(torch.cat(rows), torch.eye(50))  # type: ignore[arg-type]
