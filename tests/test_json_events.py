"""`loopwright train --json`: each line of standard output is one JSON object."""

import json
import os
import signal
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

from test_cli import CONFIG, SOURCE, call  # noqa: E402

from loopwright.run_record import read_run  # noqa: E402

Events = list[dict[str, Any]]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "iris.yaml"
    path.write_text(CONFIG)
    return path


def parse(text: str) -> Events:
    """Return the events in a text that holds nothing else."""
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def test_a_run_as_json_lines(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--json", "--folder", "mine", "--seed", 3, "--device", "cpu", "--save", "iris.zip"]
    assert call(monkeypatch, "train", config, *options, "--set", "run.name=flowers") == 0
    out, err = capsys.readouterr()
    start, *epochs, end = parse(out)
    run = read_run("mine")
    assert (start["event"], start["run_folder"], start["device"]) == ("start", "mine", "cpu")
    assert (start["epochs"], start["steps"], start["steps_done"]) == (2, 6, 0)
    assert [(e["event"], e["epoch"], e["step"]) for e in epochs] == [
        ("epoch", 1, 3),
        ("epoch", 2, 6),
    ]
    assert [e["metrics"] for e in epochs] == [row.metrics for row in run.metrics if not row.event]
    assert end["event"] == "end"
    assert end["metrics"] == run.results["metrics"]
    assert end["fingerprint"] == run.results["fingerprint"]
    assert (end["run_folder"], end["report"]) == ("mine", "mine/report.html")
    times = [each["time"] for each in (start, *epochs, end)]
    assert times == sorted(times)
    assert "seed: 3" in run.config
    assert "The run ended with weights" in err
    assert Path("iris.zip").is_file()


def test_mistakes_as_json(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(CONFIG.replace("epochs: 2", "epoch: 2"))
    arguments = ["--set", "model.training.batch_size=.inf", "--set", "model.api_key=hunter2"]
    assert call(monkeypatch, "train", config, "--json", *arguments) == 2
    out, err = capsys.readouterr()
    (error,) = parse(out)
    assert (error["event"], error["type"], error["exit_code"]) == ("error", "ProblemsError", 2)
    problems = {each["path"]: each for each in error["problems"]}
    assert problems["model.training.batch_size"]["value"] == "Infinity"
    assert "hunter2" not in out + err
    assert call(monkeypatch, "train", config, "--json") == 2
    (error,) = parse(capsys.readouterr().out)
    (problem,) = error["problems"]
    assert problem["path"] == "model.training.epoch"
    assert (problem["source"], problem["value"]) == ("line 8", 2)
    assert problem["suggestion"] == "epochs"
    assert problem["message"].startswith("unknown key")


def test_a_failure_as_json(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--set", "model.training.optimizer={type: sgd, lr: 1e30}"]
    arguments += ["--set", "model.training.schedule=null"]
    assert call(monkeypatch, "train", config, "--json", *arguments) == 1
    start, *_, error = parse(capsys.readouterr().out)
    assert start["event"] == "start"
    assert (error["event"], error["type"], error["exit_code"]) == ("error", "DivergedError", 1)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interruption_and_going_on_as_json(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("signals_itself.py").write_text(
        "import os, signal\nfrom loopwright.events import TrainerCallback\n"
        "class Stop(TrainerCallback):\n"
        "    def on_train_epoch_end(self, trainer, **kwargs):\n"
        "        if trainer.progress.epoch == 2: os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    arguments = ["train", config, "--json", "--folder", "mine"]
    stop = [
        "--set",
        "run.callbacks=['signals_itself:Stop']",
        "--set",
        "run.checkpoint.every_epochs=1",
    ]
    assert call(monkeypatch, *arguments, *stop) == 75
    error = parse(capsys.readouterr().out)[-1]
    assert (error["type"], error["signal"]) == ("RunInterrupted", signal.SIGTERM.name)
    assert Path(error["checkpoint"]).is_dir()
    assert error["notes"][0].startswith("Go on with: loopwright train")
    assert call(monkeypatch, *arguments, "--resume", "--allow-changes") == 0
    start, *_, end = parse(capsys.readouterr().out)
    assert (start["event"], start["steps_done"]) == ("start", 6)
    assert end["event"] == "end"
    assert call(monkeypatch, *arguments, "--resume", "--allow-changes") == 0
    (again,) = parse(capsys.readouterr().out)
    assert again["fingerprint"] == end["fingerprint"]


@pytest.mark.system
def test_a_program_reads_along(config: Path) -> None:
    """Lines come while the run goes on, through a pipe."""
    command = [sys.executable, "-m", "loopwright", "train", str(config), "--json"]
    with subprocess.Popen(
        [*command, "--set", "model.training.epochs=1000000"],
        cwd=config.parent,
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())["event"] for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        rest = parse(process.stdout.read())
        assert process.wait(timeout=60) == 75
    assert seen == ["start", "epoch", "epoch"]
    assert rest[-1]["event"] == "error"


@pytest.mark.system
def test_a_program_that_stops_reading_ends_no_run(config: Path) -> None:
    command = [sys.executable, "-m", "loopwright", "train", str(config), "--json"]
    with subprocess.Popen(
        command,
        cwd=config.parent,
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read()
        assert process.wait(timeout=60) == 0
    assert told.count("Nobody reads the events any more") == 1
    (status,) = config.parent.rglob("status.json")
    assert json.loads(status.read_text())["status"] == "finished"
