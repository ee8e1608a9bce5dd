"""Tests of `loopwright replay`: a declared run diverges, and the command names where it began."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("pydantic")
pytest.importorskip("yaml")
pytest.importorskip("sklearn")

from tiny import tiny_data, tiny_trainer  # noqa: E402

from loopwright.cli import main  # noqa: E402
from loopwright.default_callbacks import TerminateOnNaNCallback  # noqa: E402

SOURCE = Path(__file__).parents[1] / "src"
CONFIG = """\
dataset:
  dataset: {type: iris}
  samples: {train: 0.6, validation: 0.2, test: 0.2}
model:
  model: {type: mlp, hidden: [8], dropout: 0.2}
  training:
    epochs: 50
    optimizer: {type: sgd, lr: 1e30}
run: {seed: 1, threads: 1, folder: diverged}
"""
NETWORK = """\
import torch

class Root(torch.nn.Module):
    def forward(self, inputs):
        return inputs.sqrt()

class Network(torch.nn.Sequential):
    def __init__(self, width: int = 4):
        super().__init__(torch.nn.Linear(width, 3), Root())
        torch.nn.init.constant_(self[0].bias, -50.0)
"""


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["loopwright", *map(str, arguments)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iris.yaml").write_text(CONFIG)
    return tmp_path


def test_replay_names_where_it_began(there: Path, monkeypatch: Any, capsys: Any) -> None:
    assert call(monkeypatch, "train", "iris.yaml") == 1
    assert "To find where it began: loopwright replay diverged" in capsys.readouterr().err
    assert call(monkeypatch, "replay", "diverged") == 0
    out = capsys.readouterr().out
    assert "the loss became" in out
    assert re.search(r"The first output that is not finite is that of '[\w.]+' \(Linear\)", out)
    assert call(monkeypatch, "replay", Path("diverged", "forensics")) == 0


def test_what_cannot_be_replayed_is_told(there: Path, monkeypatch: Any, capsys: Any) -> None:
    assert call(monkeypatch, "replay", "nowhere") == 2
    assert "nowhere holds no step to replay" in capsys.readouterr().err
    trainer = tiny_trainer(callbacks=[TerminateOnNaNCallback], run_dir="mine", lr=1e38)
    trainer.print = lambda *args: None
    trainer.train((tiny_data()[0] * 1e30, tiny_data()[1]), 9)
    assert trainer.stop_reason
    assert call(monkeypatch, "replay", "mine") == 2
    assert "call loopwright.forensics.replay('mine', trainer)" in capsys.readouterr().err
    call(monkeypatch, "train", "iris.yaml")
    (there / "diverged" / "forensics" / "state.json").write_text("{}")
    capsys.readouterr()
    assert call(monkeypatch, "replay", "diverged") == 1
    assert "state.json is damaged" in capsys.readouterr().err


def test_code_is_imported_when_the_user_names_the_file(
    there: Path, monkeypatch: Any, capsys: Any
) -> None:
    """A folder that came from elsewhere runs nothing by the names in its configuration."""
    (there / "network_of_a_replay.py").write_text(NETWORK)
    arguments = ["--set", "model.model={type: 'network_of_a_replay:Network'}"]
    assert call(monkeypatch, "train", "iris.yaml", *arguments) == 1
    sys.modules.pop("network_of_a_replay")
    capsys.readouterr()
    assert call(monkeypatch, "replay", "diverged") == 2
    assert "names code, 'network_of_a_replay:Network'" in capsys.readouterr().err
    assert "network_of_a_replay" not in sys.modules
    assert call(monkeypatch, "replay", "diverged", "--config", "diverged/config.yaml") == 0
    assert "that of '1' (Root)" in capsys.readouterr().out


@pytest.mark.system
def test_a_whole_program_in_a_folder_that_was_moved(there: Path) -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "loopwright", *arguments],
            env={"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
        )

    assert run("train", "iris.yaml").returncode == 1
    shutil.move("diverged", "moved")
    ended = run("replay", "moved")
    assert ended.returncode == 0, ended.stderr
    assert "(Linear)" in ended.stdout
