"""A run whose loss becomes NaN, killed before that and resumed, stops at the same bits."""

import signal
from pathlib import Path
from typing import Any

import pytest

from faults.runner import FULL, Server
from faults.task import BATCH, NUM_SAMPLES
from loopwright.checkpoint import read_state
from loopwright.data import epoch_order

pytestmark = pytest.mark.faults

BAD = 25
SAMPLE = int(epoch_order(NUM_SAMPLES, 11, 1)[BATCH * BAD + 3])
"""Comes first after 25 micro-batches."""


def meet(server: Server, **arguments: Any) -> dict[str, Any]:
    ended = server.run("meet_bad_sample", **arguments)
    report: dict[str, Any] | None = ended["report"]
    assert report is not None, ended
    return report


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_killed_before_a_bad_step(
    on_device: bool, accumulation: int, server: Server, tmp_path: Path
) -> None:
    """Weights, optimizer, random states and the batch that is saved are those of the whole run."""
    arguments = {"sample": SAMPLE, "on_device": on_device, "accumulation": accumulation}
    bad = BAD // accumulation
    whole = meet(server, folder=tmp_path / "whole", **arguments)
    assert whole["step"] == bad
    saved = read_state(tmp_path / "whole" / "forensics")
    assert len(saved["batch"]) == BAD % accumulation + 1
    assert saved["batch"][-1][0].isnan().any()
    for step in range(1, bad + 1) if FULL else (bad,):
        folder = tmp_path / str(step)
        killed = server.run("meet_bad_sample", folder=folder, kill_at=step, **arguments)
        assert killed["signal"] == signal.SIGKILL, killed
        report = meet(server, folder=folder, **arguments)
        for part in ("step", "outcome", "bad step"):
            assert report[part] == whole[part], f"{part} differs after {step}"


def test_stopped_at_a_bad_step_and_gone_on_it_stops_there_again(
    server: Server, tmp_path: Path
) -> None:
    arguments = {"sample": SAMPLE, "on_device": True, "folder": tmp_path}
    first, again = meet(server, **arguments), meet(server, **arguments)
    assert (first["started_at"], again["started_at"]) == (0, BAD)
    for part in ("step", "outcome", "bad step"):
        assert again[part] == first[part]
