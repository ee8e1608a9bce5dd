"""Asked to stop in any phase, a run saves where it stands and goes on to the same bits."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from faults.runner import FULL, Server
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.checkpoint_store import CheckpointStore

pytestmark = pytest.mark.faults

SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT]
PHASES: list[tuple[str, list[int], dict[str, Any]]] = [
    # phase, when (steps, batches, samples, writes), options
    ("training", [5, 38, 100], {}),
    ("training", [4, 20], {"accumulation": 3, "num_workers": 2}),
    ("evaluation", [3, 38], {}),
    ("data", [3, 700], {}),
    ("data", [40], {"data": "own"}),
    ("data", [40, 200], {"num_workers": 2}),
    ("saving", [1, 4], {}),
    ("saving twice", [2], {}),
]


@pytest.mark.parametrize("phase", range(len(PHASES)), ids=lambda i: f"{PHASES[i][0]} {i}")
def test_asked_to_stop(phase: int, server: Server, tmp_path: Path) -> None:
    name, moments, options = PHASES[phase]
    whole = server.run("train", folder=tmp_path / "whole", **options)["report"]
    number = SIGNALS[phase % len(SIGNALS)]
    cases = [(number, moments[0])]
    if FULL:
        cases = [(each, when) for each in SIGNALS for when in moments]
    for number, when in cases:
        if name == "saving twice" and number == signal.SIGINT:
            continue  # the second one is to end the run at once
        folder = tmp_path / f"{number.name}-{when}"
        arguments = {"folder": folder, "phase": name, "number": number, "when": when}
        ended = server.run("stop_in", timeout=30, **arguments, **options)
        check_stopped(ended, number, folder)
        later = server.run("train", folder=folder, **options)["report"]
        assert later["outcome"] == whole["outcome"], (number, when)
        assert later["log"] == whole["log"]


def check_stopped(ended: dict[str, Any], number: signal.Signals, folder: Path) -> None:
    report = ended["report"]
    assert report is not None, ended
    if number is signal.SIGINT:
        assert report["error"] == "KeyboardInterrupt", ended
    else:
        assert report["error"] == "RunInterrupted", ended
        assert report["signal"] == number.name
    assert json.loads((folder / "status.json").read_text())["status"] == "stopped"
    store = CheckpointStore(folder / "checkpoints", CheckpointPolicy(), print)
    found = store.read_latest()
    assert found is not None
    assert found[1]["progress"]["step"] == report["step"], "steps were lost"


def test_a_signal_to_all_processes_of_a_job(server: Server, tmp_path: Path) -> None:
    """Workers ignore it, so that the process that trains can save."""
    options = {"num_workers": 2}
    whole = server.run("train", folder=tmp_path / "whole", **options)["report"]
    ended = server.run("stop_group", folder=tmp_path / "run", when=20, timeout=60, **options)
    check_stopped(ended, signal.SIGTERM, tmp_path / "run")
    later = server.run("train", folder=tmp_path / "run", **options)["report"]
    assert later["outcome"] == whole["outcome"]


def test_a_signal_that_is_ignored_stays_ignored(server: Server, tmp_path: Path) -> None:
    """As under nohup."""
    ended = server.run("ignoring", folder=tmp_path / "run", when=20)
    assert ended["report"]["error"] is None, ended
    assert ended["report"]["step"] == 152
    assert os.listdir(tmp_path / "run" / "checkpoints")
