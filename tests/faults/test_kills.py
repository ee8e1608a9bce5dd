"""Killed at any step and resumed, the run ends with the same bits."""

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from faults.runner import FULL, Server
from faults.task import NUM_STEPS

pytestmark = pytest.mark.faults

Variant = dict[str, Any]
# A pairwise cover. A stream and a loader of the user's own keep their workers, on which what they
# draw depends; other data may change them.
VARIANTS: list[tuple[str, Variant, int, int]] = [
    # name, options, workers when resumed, kills in a row
    ("map, 2 workers", {"num_workers": 2}, 2, 1),
    ("map, 4 to 0 workers", {"num_workers": 4, "accumulation": 3}, 0, 3),
    ("map, 0 to 2 workers, two", {"num_optimizers": 2, "accumulation": 3}, 2, 1),
    ("memory", {"data": "memory", "accumulation": 3}, 0, 1),
    (
        "memory, 2 to 4 workers, two",
        {"data": "memory", "num_optimizers": 2, "num_workers": 2},
        4,
        5,
    ),
    ("own", {"data": "own", "num_optimizers": 2}, 0, 3),
    ("own, 2 workers", {"data": "own", "accumulation": 3, "num_workers": 2}, 2, 1),
    ("own, 4 workers", {"data": "own", "num_workers": 4}, 4, 1),
    ("stream", {"data": "stream", "accumulation": 3}, 0, 3),
    ("stream, 2 workers, two", {"data": "stream", "num_optimizers": 2, "num_workers": 2}, 2, 1),
    ("stream, 4 workers", {"data": "stream", "num_workers": 4}, 4, 1),
]


def reference(server: Server, tmp_path: Path, **options: Any) -> dict[str, Any]:
    report: dict[str, Any] | None = server.run("train", folder=tmp_path / "whole", **options)[
        "report"
    ]
    assert report is not None
    return report


def check(
    server: Server, folder: Path, whole: dict[str, Any], steps: list[int], **options: Any
) -> None:
    """Kill a run at these steps in turn, go on, and compare."""
    for step in steps:
        ended = server.run("train", folder=folder, kill_at=step, timeout=120, **options)
        assert ended["signal"] == signal.SIGKILL, ended
    ended = server.run("train", folder=folder, timeout=120, **options)
    assert ended["report"] is not None, ended
    for part, value in whole["outcome"].items():
        assert ended["report"]["outcome"][part] == value, f"{part} differs after {steps}"
    assert ended["report"]["log"] == whole["log"]


def test_killed_at_steps(server: Server, tmp_path: Path) -> None:
    whole = reference(server, tmp_path)
    assert whole["step"] == NUM_STEPS
    picked = [1, 7, 8, 38, 39, 75, 120, 152]  # first, at a save, at an epoch's end, last
    for step in range(1, NUM_STEPS + 1) if FULL else picked:
        check(server, tmp_path / str(step), whole, [step])


@pytest.mark.parametrize(("name", "options", "workers", "kills"), VARIANTS, ids=lambda v: str(v))
def test_every_pair_of_factors(
    name: str, options: Variant, workers: int, kills: int, server: Server, tmp_path: Path
) -> None:
    whole = reference(server, tmp_path, **options)
    draws = random.Random(name)
    for trial in range(15 if FULL else 1):
        kills = 5 if FULL and kills > 1 else kills
        steps = sorted(draws.sample(range(1, whole["step"] + 1), kills))
        folder = tmp_path / str(trial)
        first = server.run("train", folder=folder, kill_at=steps[0], timeout=120, **options)
        assert first["signal"] == signal.SIGKILL, first
        later = {**options, "num_workers": workers}
        check(server, folder, whole, steps[1:], **later)
