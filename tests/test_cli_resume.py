"""Tests of `loopwright train --resume`: programs that real signals end, and what goes on after."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("pydantic")
pytest.importorskip("yaml")
pytest.importorskip("sklearn")

from loopwright.cli import main  # noqa: E402
from loopwright.run_record import RunRecord, read_run  # noqa: E402

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

SOURCE = Path(__file__).parents[1] / "src"

# 90 rows in batches of 8: 12 steps in an epoch, the last of them ragged; 60 steps in all.
CONFIG = """\
dataset:
  dataset: {type: iris}
  samples: {train: 0.6, validation: 0.2, test: 0.2}
  preprocessors: [{type: standard_scaler}]
model:
  model: {type: mlp, hidden: [8], dropout: 0.3}
  training:
    epochs: 5
    batch_size: 8
    optimizer: {type: adam, lr: 1e-2}
    schedule: {type: cosine}
run:
  threads: 1
  checkpoint: {every_steps: 7}
  callbacks: [{type: "ends:SendSignal"}, {type: save_best_model}]
"""

# Sends a signal to its own process, once: SIGNAL_AT="SIGTERM train 23" at the 23rd such moment.
ENDS = """\
import os, signal, time
from loopwright.events import TrainerCallback

class SendSignal(TrainerCallback):
    def __init__(self):
        name, self.moment, count = os.environ.get("SIGNAL_AT", "SIGTERM never 0").split()
        self.signal, self.left = getattr(signal, name), int(count)

    def _pass(self, moment):
        if moment != self.moment:
            return
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.signal)

    def on_training_run_start(self, trainer, **kwargs):
        self._pass("start")

    def on_train_step_end(self, trainer, **kwargs):
        self._pass("train")
        time.sleep(0.005 if self.moment == "slowly" else 0)

    def on_eval_step_end(self, trainer, **kwargs):
        self._pass("eval" if trainer.progress.step < 60 else "test")

    def on_training_run_epoch_end(self, trainer, **kwargs):
        self._pass("epoch")
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("iris.yaml").write_text(CONFIG)
    Path("ends.py").write_text(ENDS)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run `loopwright train iris.yaml` in this process, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["loopwright", "train", "iris.yaml", *map(str, arguments)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "ends", raising=False)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as caught:
        main()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    return int(caught.value.code or 0)


def start(*arguments: object, signal_at: str = "SIGTERM never 0") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "loopwright", "train", "iris.yaml", *map(str, arguments)],
        env=os.environ
        | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "SIGNAL_AT": signal_at},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def last_checkpoint(run: str | Path) -> dict[str, Any]:
    newest = max(Path(run).glob("checkpoints/step-*/manifest.json"))
    manifest: dict[str, Any] = json.loads(newest.read_text())
    return manifest


def log_without_times(run: str | Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "time"} for row in rows]


def assert_same_run(one: str | Path, other: str | Path) -> None:
    """Compare final weights, history, log and figures of two runs."""
    weights = [last_checkpoint(run)["files"]["model.safetensors"]["sha256"] for run in (one, other)]
    assert weights[0] == weights[1]
    assert log_without_times(one) == log_without_times(other)
    runs: list[RunRecord] = [read_run(one), read_run(other)]
    assert all(run.status["status"] == "finished" for run in runs)
    for name in ("metrics", "history", "steps", "epochs", "samples"):
        assert runs[0].results[name] == runs[1].results[name], name


@pytest.mark.parametrize(
    ("signal_at", "code", "step"),
    [
        ("SIGTERM train 30", 75, 30),
        ("SIGHUP eval 2", 75, 12),
        ("SIGUSR1 epoch 3", 75, 36),
        ("SIGINT train 1", 130, 1),
    ],
)
def test_a_run_that_a_signal_ends_goes_on_to_the_same_end(
    signal_at: str,
    code: int,
    step: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The seed is drawn in the first run, and taken from its folder by the second."""
    monkeypatch.setenv("SIGNAL_AT", signal_at)
    assert call(monkeypatch, "--folder", "cut") == code
    monkeypatch.delenv("SIGNAL_AT")
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert f"cut/checkpoints/step-{step:08d}" in err
    assert "Go on with: loopwright train iris.yaml --resume --folder cut\n" in err
    run = read_run("cut")
    assert run.status["status"] == "stopped"
    assert last_checkpoint("cut")["step"] == step
    assert call(monkeypatch, "--resume", "--folder", "cut") == 0
    seed = read_run("cut").config.split("  seed: ")[1].split()[0]
    assert call(monkeypatch, "--seed", seed, "--folder", "whole") == 0
    assert_same_run("cut", "whole")


def test_a_signal_during_the_test_leaves_only_the_test_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The last evaluation of the training comes at step 60 too, in 4 batches.
    monkeypatch.setenv("SIGNAL_AT", "SIGTERM test 5")
    assert call(monkeypatch, "--seed", 1, "--folder", "cut") == 75
    monkeypatch.delenv("SIGNAL_AT")
    err = capsys.readouterr().err
    assert "SIGTERM ended the program" in err
    assert "--resume --seed 1 --folder cut" in err
    assert "test_accuracy" not in read_run("cut").results["metrics"]
    trained = last_checkpoint("cut")
    assert call(monkeypatch, "--seed", 1, "--resume", "--folder", "cut") == 0
    assert last_checkpoint("cut") == trained
    assert call(monkeypatch, "--seed", 1, "--folder", "whole") == 0
    assert_same_run("cut", "whole")


@pytest.mark.system
def test_a_program_stopped_from_outside_goes_on_with_the_command_it_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["--seed", "5", "--set", "model.training.epochs=80", "--set", "run.name=one"]
    process = start(*options, signal_at="SIGTERM slowly 0")
    for _ in range(2000):
        if list(Path().glob("runs/*/metrics.jsonl")) or process.poll() is not None:
            break
        time.sleep(0.03)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("one-")
    assert 0 < last_checkpoint(folder)["step"] < 80 * 12
    command = shlex.split(err.split("Go on with: ")[1])
    assert command[:4] == ["loopwright", "train", "iris.yaml", "--resume"]
    assert call(monkeypatch, *command[3:]) == 0
    assert call(monkeypatch, *options, "--folder", "whole") == 0
    assert_same_run(folder, "whole")


@pytest.mark.system
def test_a_killed_program_goes_on_from_its_newest_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start("--seed", 2, signal_at="SIGKILL train 40")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    (folder,) = Path("runs").iterdir()
    assert read_run(folder).status["status"] == "running"
    # The run is found by its name; another name finds nothing.
    assert call(monkeypatch, "--seed", 2, "--resume") == 0
    out = capsys.readouterr().out
    assert f"Going on from {folder}/checkpoints/step-000000" in out
    assert call(monkeypatch, "--seed", 2, "--folder", "whole") == 0
    assert_same_run(folder, "whole")
    assert len(list(Path("runs").iterdir())) == 1


def short(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run one epoch of three steps, in this process."""
    sets = ["model.training.max_steps=3", "run.callbacks=[save_best_model]"]
    return call(monkeypatch, *[part for each in sets for part in ("--set", each)], *arguments)


def unfinish(folder: str | Path) -> None:
    """Make a folder look like that of a program that was killed at its end."""
    path = Path(folder, "status.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "running"}))


def test_a_finished_run_says_so_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert short(monkeypatch, "--folder", "done") == 0
    # after what says how a step is executed, save_best_model and the weights
    summary = capsys.readouterr().out.split("\n", 3)[3]
    before = {path: path.read_bytes() for path in Path("done").rglob("*") if path.is_file()}
    assert short(monkeypatch, "--folder", "done", "--resume") == 0
    out = capsys.readouterr().out
    assert out.startswith("The run in done is finished: nothing to resume\n")
    assert out.endswith(summary)
    after = {path: path.read_bytes() for path in Path("done").rglob("*") if path.is_file()}
    assert after == before


def test_nothing_to_resume_starts_anew_in_a_new_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert short(monkeypatch, "--resume") == 0
    said = "Nothing to resume in runs/ under the name iris: starting anew"
    assert said in capsys.readouterr().out
    assert short(monkeypatch, "--resume", "--folder", "mine") == 0
    assert "Nothing to resume in mine: starting anew" in capsys.readouterr().out
    assert read_run("mine").status["status"] == "finished"
    # The one of this name is finished, and another name has none.
    assert short(monkeypatch, "--resume") == 0
    assert "is finished: nothing to resume" in capsys.readouterr().out
    assert short(monkeypatch, "--resume", "--set", "run.name=other") == 0
    assert "under the name other: starting anew" in capsys.readouterr().out
    assert len(list(Path("runs").iterdir())) == 2


def damage(folder: str) -> None:
    for path in Path(folder).glob("checkpoints/*/manifest.json"):
        path.unlink()


def test_a_run_without_a_checkpoint_starts_anew_in_its_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert short(monkeypatch, "--folder", "mine", "--seed", 1) == 0
    unfinish("mine")
    damage("mine")
    assert short(monkeypatch, "--folder", "mine", "--seed", 1, "--resume") == 2
    assert "Every checkpoint in mine/checkpoints is damaged" in capsys.readouterr().err
    assert "seed: 1" in read_run("mine").config
    shutil.rmtree("mine/checkpoints")
    assert short(monkeypatch, "--folder", "mine", "--seed", 2, "--resume") == 0
    assert "starting anew" in capsys.readouterr().out
    run = read_run("mine")
    assert "seed: 2" in run.config
    assert [row.event for row in run.metrics] == [None, "evaluation"]


def test_the_newest_unfinished_run_of_the_name_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["iris-20250101-000000", "iris-20250101-000000-2", "iris-20250102-000000"]
    names += ["iris-20250103-000000", "iris-big-20250104-000000"]
    for name in names:
        assert short(monkeypatch, "--folder", f"runs/{name}", "--seed", 1) == 0
    for name in (names[0], names[1], names[4]):
        unfinish(Path("runs", name))
    capsys.readouterr()
    for name in (names[1], names[0]):
        assert short(monkeypatch, "--resume", "--seed", 1) == 0
        assert f"Going on from runs/{name}/checkpoints/step-00000003" in capsys.readouterr().out
    assert short(monkeypatch, "--resume", "--seed", 1) == 0
    assert f"The run in runs/{names[3]} is finished" in capsys.readouterr().out


def test_another_configuration_is_refused_with_the_difference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert short(monkeypatch, "--folder", "mine", "--seed", 1) == 0
    unfinish("mine")
    before = {path: path.read_bytes() for path in Path("mine").rglob("*") if path.is_file()}
    changes = ["model.training.optimizer.lr=0.02", "model.training.gradient_clip_norm=1.0"]
    changes += ["model.training.schedule=null", "model.model.hidden=[8]"]
    # Without effect on the result: may differ, and are not told.
    changes += ["run.name=other", "tracking.tags.a=b", "run.checkpoint.every_steps=3"]
    sets = [part for change in changes for part in ("--set", change)]
    capsys.readouterr()
    assert short(monkeypatch, "--folder", "mine", "--resume", *sets) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[:4] == [
        "mine holds a run with another configuration:",
        "  model.training.optimizer.lr: 0.01 -> 0.02",
        "  model.training.schedule.type: 'cosine' -> nothing",
        "  model.training.gradient_clip_norm: nothing -> 1.0",
    ]
    assert "--allow-changes" in err
    after = {path: path.read_bytes() for path in Path("mine").rglob("*") if path.is_file()}
    assert after == before
    assert short(monkeypatch, "--folder", "mine", "--resume", *sets[-6:]) == 0


def test_allowed_changes_are_announced_and_stored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert short(monkeypatch, "--folder", "mine", "--seed", 1) == 0
    unfinish("mine")
    capsys.readouterr()
    more = ["--folder", "mine", "--resume", "--set", "model.training.max_steps=5"]
    assert short(monkeypatch, *more, "--allow-changes") == 0
    out = capsys.readouterr().out
    assert "ends with other weights" in out.splitlines()[0]
    assert "  model.training.max_steps: 3 -> 5" in out
    run = read_run("mine")
    assert run.results["steps"] == 5
    assert "max_steps: 5" in run.config
    assert "seed: 1" in run.config


def test_changes_that_no_run_can_take_are_refused_even_if_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert short(monkeypatch, "--folder", "mine", "--seed", 1) == 0
    unfinish("mine")
    config = Path("mine/config.yaml").read_bytes()
    go_on = ["--folder", "mine", "--resume", "--allow-changes"]
    assert short(monkeypatch, *go_on, "--seed", 2) == 2
    assert "run.seed: 1 -> 2" in capsys.readouterr().err
    assert short(monkeypatch, *go_on, "--set", "model.model.hidden=[9]") == 2
    err = capsys.readouterr().err
    assert "expected [9, 4], found [8, 4]" in err
    assert "Traceback" not in err
    assert Path("mine/config.yaml").read_bytes() == config


def test_allow_changes_without_resume_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert short(monkeypatch, "--allow-changes") == 2
    assert "--resume" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_run_whose_loss_is_not_finite_fails_and_fails_again_when_resumed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    diverge = ["--folder", "mine", "--set", "model.training.optimizer={type: sgd, lr: 1e30}"]
    diverge += ["--set", "model.training.schedule=null", "--set", "model.training.max_steps=9"]
    assert short(monkeypatch, *diverge) == 1
    assert read_run("mine").status["status"] == "failed"
    assert short(monkeypatch, *diverge, "--resume") == 1
    assert "Traceback" not in capsys.readouterr().err


def test_callbacks_write_below_the_run_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path.cwd())
    before = set(Path().iterdir())
    assert call(monkeypatch, "--folder", "mine", "--set", "model.training.epochs=1") == 0
    assert Path("mine/best_model.pt").is_file()
    compiled = Path("__pycache__")  # of the configuration's own module
    assert set(Path().iterdir()) - before - {compiled} == {Path("mine")}
