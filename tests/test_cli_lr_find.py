"""The search for a learning rate from the command line, and for a declared experiment."""

import re
import sys
from pathlib import Path

import pytest

for _package in ("typer", "rich", "pydantic", "yaml", "sklearn", "matplotlib"):
    pytest.importorskip(_package)

from tiny import global_states  # noqa: E402

from loopwright.cli import main  # noqa: E402
from loopwright.experiment import Experiment  # noqa: E402

CONFIG = """\
dataset:
  dataset: {type: iris}
  samples: {train: 0.6, validation: 0.2, test: 0.2}
  preprocessors: [{type: standard_scaler}]
model:
  model: {type: mlp, hidden: [8]}
  training: {epochs: 2, batch_size: 16}
run: {seed: 1, threads: 1}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "iris.yaml"
    path.write_text(CONFIG)
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["loopwright", "lr-find", *map(str, arguments)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ([], "max_acc"),
        (["--method", "sobel", "--batches", 30], "sobel"),
        (["--set", "dataset.samples={train: 0.8, test: 0.2}"], "min_loss"),
        (["--set", "dataset.dataset.type=diabetes"], "min_loss"),
    ],
)
def test_it_prints_a_range_and_leaves_a_plot(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[object],
    method: str,
) -> None:
    before = global_states()
    assert call(monkeypatch, config, *options) == 0
    out = capsys.readouterr().out
    found = re.search(r"learning rate from (\S+) to (\S+) \((\w+)\); see lr-find.svg", out)
    assert found is not None, out
    assert 0 < float(found[1]) < float(found[2]) <= 1
    assert found[3] == method
    assert "<svg" in Path("lr-find.svg").read_text()
    assert {path.name for path in Path().iterdir()} == {"iris.yaml", "lr-find.svg"}
    assert global_states() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "sobbel"], "Did you mean 'sobel'"),
        (["--lr-min", 2], "lr_min=2.0 has to be below lr_max=1.0"),
        (["--batches", 0], "num_epochs is 0"),
        (["--set", "model.model.type=mpl"], "mlp"),
    ],
)
def test_mistakes_are_told(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[object],
    message: str,
) -> None:
    assert call(monkeypatch, config, *options) == 2
    assert message in capsys.readouterr().err
    assert not Path("lr-find.svg").exists()


def test_an_experiment_trains_as_if_nothing_was_searched(config: Path) -> None:
    searched, other = Experiment.from_yaml(config), Experiment.from_yaml(config)
    finder = searched.find_rate(max_batches=12)
    assert len(finder.acc_history) == 12
    first, second = searched.train(), other.train("others")
    assert first["metrics"] == second["metrics"]
