"""Asked to stop in any phase, a run saves where it stands and goes on to the same bits."""

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from faults.jobs import SLOW_SAMPLE
from faults.runner import FULL, Server
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.checkpoint_store import CheckpointStore

pytestmark = pytest.mark.faults

SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT]
PHASES: list[tuple[str, int, dict[str, Any]]] = [
    # phase, how many moments there are (steps, batches, samples, writes, compilations), options
    ("training", 152, {}),
    ("training", 52, {"accumulation": 3, "num_workers": 2}),
    ("evaluation", 152, {}),
    ("data", 2400, {}),
    ("data", 1200, {"num_workers": 2}),
    ("data", 2400, {"data": "own"}),
    ("saving", 21, {}),  # the save after them is the one at the end
    ("saving twice", 21, {}),
    ("compiling", 3, {"compiled": True}),
]
TIMES = 20
"""How often SIGTERM comes in each phase, in the full form."""


@pytest.mark.parametrize("phase", range(len(PHASES)), ids=lambda i: f"{PHASES[i][0]} {i}")
def test_asked_to_stop(phase: int, server: Server, tmp_path: Path) -> None:
    name, num_moments, options = PHASES[phase]
    whole = server.run("train", folder=tmp_path / "whole", **options)["report"]
    draws = random.Random(phase)
    numbers = [SIGNALS[phase % len(SIGNALS)]]
    if FULL:
        num_alike = sum(each[0] == name for each in PHASES)
        numbers = [*SIGNALS, *[signal.SIGTERM] * (-(-TIMES // num_alike) - 1)]
    for trial, number in enumerate(numbers):
        if name == "saving twice" and number == signal.SIGINT:
            continue  # the second one is to end the run at once
        folder, when = tmp_path / str(trial), draws.randint(1, num_moments)
        arguments = {"folder": folder, "phase": name, "number": number, "when": when}
        ended = server.run("stop_in", timeout=60, **arguments, **options)
        check_stopped(ended, number, folder)
        waits_for_sample = SLOW_SAMPLE if options.get("data") == "own" else 0
        assert seconds_to_save(folder) < 5 + waits_for_sample, (number, when)
        waits_for_worker = SLOW_SAMPLE if name == "data" else 0  # to end, when all is saved
        assert ended["report"]["seconds"] < 5 + waits_for_worker, (number, when)
        later = server.run("train", folder=folder, **options)["report"]
        assert later["outcome"] == whole["outcome"], (number, when)
        assert later["log"] == whole["log"]


def test_asked_to_stop_while_the_last_checkpoint_is_written(server: Server, tmp_path: Path) -> None:
    """Nothing is left to do: the run is finished, and the caller told of the signal."""
    whole = server.run("train", folder=tmp_path / "whole")["report"]
    arguments = {"phase": "saving", "number": signal.SIGTERM, "when": 22}
    ended = server.run("stop_in", folder=tmp_path / "run", **arguments)
    assert ended["report"]["error"] == "RunInterrupted", ended
    assert read_status(tmp_path / "run") == "finished"
    later = server.run("train", folder=tmp_path / "run")["report"]
    assert later["outcome"] == whole["outcome"]


def seconds_to_save(folder: Path) -> float:
    """Return the time from the first signal to the end of the newest checkpoint's writing."""
    asked = folder.with_suffix(".asked").stat().st_mtime
    manifests = (folder / "checkpoints").glob("step-*/manifest.json")
    return max(path.stat().st_mtime for path in manifests) - asked


def read_status(folder: Path) -> str:
    status: str = json.loads((folder / "status.json").read_text())["status"]
    return status


def check_stopped(ended: dict[str, Any], number: signal.Signals, folder: Path) -> None:
    report = ended["report"]
    assert report is not None, ended
    if number is signal.SIGINT:
        assert report["error"] == "KeyboardInterrupt", ended
    else:
        assert report["error"] == "RunInterrupted", ended
        assert report["signal"] == number.name
    assert read_status(folder) == "stopped"
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


def test_a_worker_that_is_killed(server: Server, tmp_path: Path) -> None:
    """The run fails, says why and what to do, and goes on from its newest checkpoint."""
    options = {"num_workers": 2}
    whole = server.run("train", folder=tmp_path / "whole", **options)["report"]
    draws = random.Random(0)
    for trial in range(20 if FULL else 2):
        folder, when = tmp_path / str(trial), draws.randint(1, 1000)
        ended = server.run("lose_worker", folder=folder, when=when, timeout=60, **options)
        assert ended["report"] is not None, ended
        assert "lower num_workers" in "".join(ended["report"]["notes"]), ended
        assert read_status(folder) == "failed"
        assert not list(folder.glob(".*.tmp"))
        later = server.run("train", folder=folder, **options)["report"]
        assert later["outcome"] == whole["outcome"], when
        assert later["log"] == whole["log"]


def test_a_signal_that_is_ignored_stays_ignored(server: Server, tmp_path: Path) -> None:
    """As under nohup."""
    ended = server.run("ignoring", folder=tmp_path / "run", when=20)
    assert ended["report"]["error"] is None, ended
    assert ended["report"]["step"] == 152
    assert os.listdir(tmp_path / "run" / "checkpoints")
