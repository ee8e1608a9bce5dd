"""Every example runs, on a small slice of its data."""

import gzip
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
DATA = Path(os.environ.get("LOOPWRIGHT_DATA", Path(__file__).parents[2] / "shared" / "data"))


def run_example(monkeypatch, capsys, name, *arguments):
    """Run an example as its command line would, and return what it printed."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def last_percentage(printed):
    """Return the last figure printed with a percent sign, as a fraction."""
    return float(printed.split("%")[-2].split()[-1]) / 100


def test_mnist_on_a_slice(monkeypatch, capsys):
    if not (DATA / "mnist").is_dir():
        pytest.skip(f"needs MNIST at {DATA / 'mnist'} (or below LOOPWRIGHT_DATA)")
    printed = run_example(
        monkeypatch, capsys, "mnist.py", DATA / "mnist", "--epochs", 1, "--limit", 1500
    )
    assert last_percentage(printed) > 0.7


def test_mnist_reads_the_original_format(monkeypatch, capsys, tmp_path):
    random = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = random.integers(0, 256, (80, 28, 28), dtype=np.uint8)
        labels = random.integers(0, 10, 80, dtype=np.uint8)
        for name, header, array in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
            with gzip.open(tmp_path / f"{part}-{name}-ubyte.gz", "wb") as file:
                file.write(bytes(header) + array.tobytes())
    printed = run_example(monkeypatch, capsys, "mnist.py", tmp_path, "--epochs", 1)
    assert 0 <= last_percentage(printed) <= 1


def test_metrics_example_p28(monkeypatch, capsys):
    """P-28: the documented example of metrics in a subclass."""
    pytest.importorskip("sklearn", reason="needs scikit-learn's digits")
    pytest.importorskip("torchmetrics", reason="needs torchmetrics")
    printed = run_example(monkeypatch, capsys, "metrics.py", "--epochs", 4, "--limit", 600)
    assert "precision:" in printed
    assert "recall:" in printed
    assert last_percentage(printed) > 0.6


def test_fine_tuning(monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="needs scikit-learn's digits")
    printed = run_example(monkeypatch, capsys, "fine_tuning.py", "--epochs", 1, "--limit", 64)
    accuracies = [float(line.split()[-1]) for line in printed.splitlines() if "accuracy " in line]
    assert len(accuracies) == 3
    assert accuracies[-1] > accuracies[-2]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_declared_example_is_a_valid_configuration(path):
    pytest.importorskip("pydantic")
    pytest.importorskip("sklearn", reason="one names an estimator")
    from loopwright.experiment import Experiment

    assert Experiment.from_yaml(path).name == path.stem


def declared(monkeypatch, tmp_path, name, *overrides):
    """Train an example, and return its figures."""
    pytest.importorskip("pydantic")
    pytest.importorskip("sklearn")
    from loopwright.experiment import Experiment

    monkeypatch.chdir(tmp_path)
    return Experiment.from_yaml(EXAMPLES / name, overrides).train(verbose=False)["metrics"]


def test_the_table_reaches_95_percent(monkeypatch, tmp_path):
    assert declared(monkeypatch, tmp_path, "table.yaml")["test_accuracy"] > 0.95
    baseline = declared(monkeypatch, tmp_path, "table.yaml", "model.model=logistic_regression")
    assert baseline["test_accuracy"] > 0.95


@pytest.mark.parametrize(
    ("name", "overrides", "accuracy"),
    [
        ("mnist.yaml", ["model.training.batch_size=32"], 0.8),
        ("baseline.yaml", ["model.model.n_estimators=10"], 0.75),
    ],
)
def test_declared_examples_on_a_slice_of_mnist(monkeypatch, tmp_path, name, overrides, accuracy):
    if not (DATA / "mnist").is_dir():
        pytest.skip(f"needs MNIST at {DATA / 'mnist'} (or below LOOPWRIGHT_DATA)")
    slices = ["dataset.samples.train=1500", "dataset.samples.test=500"]
    path = f"dataset.dataset.path={DATA / 'mnist'}"
    metrics = declared(monkeypatch, tmp_path, name, path, *slices, *overrides)
    assert metrics["test_accuracy"] > accuracy
