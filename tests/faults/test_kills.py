"""Killed at any step and resumed, the run ends with the same bits."""

import random
import signal
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from faults.runner import FULL, Server
from faults.task import NUM_STEPS

pytestmark = pytest.mark.faults

# A pairwise cover of what a run can be like (two rows of data in memory beside it). The noise of a
# loader of the user's own and of a stream depends on their workers, so only map-style data and data
# in memory may go on with another number.
FACTORS = ("data", "workers", "workers_later", "num_optimizers", "accumulation", "kills")
CASES: list[tuple[str, int, int, int, int, int]] = [
    ("map", 0, 2, 1, 3, 1),
    ("map", 2, 4, 2, 3, 5),
    ("map", 4, 0, 2, 1, 1),
    ("map", 4, 4, 1, 3, 1),
    ("own", 0, 0, 2, 1, 1),
    ("own", 2, 2, 1, 3, 1),
    ("own", 4, 4, 1, 1, 5),
    ("stream", 0, 0, 1, 1, 5),
    ("stream", 2, 2, 2, 1, 1),
    ("stream", 4, 4, 2, 3, 1),
    ("memory", 0, 0, 1, 3, 1),
    ("memory", 2, 4, 2, 1, 5),
]


def test_the_cases_cover_every_pair() -> None:
    def pairs(data: str, workers: int, later: int, *others: int) -> set[Any]:
        named = enumerate((data, workers, workers != later, *others))
        return set(combinations(named, 2))

    possible = product(("map", "own", "stream"), (0, 2, 4), (0, 1), (1, 2), (1, 3), (1, 5))
    covered = set().union(*(pairs(*case) for case in CASES))
    for data, workers, changes, *others in possible:
        if data == "map" or not changes:
            assert pairs(data, workers, workers + changes, *others) <= covered


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


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_every_pair_of_factors(
    case: tuple[str, int, int, int, int, int], server: Server, tmp_path: Path
) -> None:
    data, workers, later, num_optimizers, accumulation, kills = case
    options = {"data": data, "num_optimizers": num_optimizers, "accumulation": accumulation}
    whole = reference(server, tmp_path, num_workers=workers, **options)
    draws = random.Random(str(case))
    for trial in range(15 if FULL else 1):
        steps = sorted(draws.sample(range(1, whole["step"] + 1), kills if FULL else min(kills, 3)))
        folder = tmp_path / str(trial)
        first = server.run("train", folder=folder, kill_at=steps[0], num_workers=workers, **options)
        assert first["signal"] == signal.SIGKILL, first
        check(server, folder, whole, steps[1:], num_workers=later, **options)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["capture", "compile"])
def test_every_step_mode(
    mode: str, server: Server, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed before its program is there, in the middle of an epoch and of an update, and late."""
    cache = str(tmp_path_factory.getbasetemp() / "cache")
    options = {"step_mode": mode, "cache": cache, "data": "memory", "accumulation": 2}
    whole = reference(server, tmp_path, **options)
    check(server, tmp_path / "killed", whole, [1, 30, 61], **options)
