"""Loaders that the user made: standing again where they stood."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tiny import MapData, global_states
from torch.utils.data import DataLoader, RandomSampler

from loopwright.checkpoint import take_snapshot
from loopwright.positions import ReplayedLoader
from loopwright.seed import preserved_random_states


@pytest.fixture(autouse=True)
def _states() -> Iterator[None]:
    with preserved_random_states():
        yield


def seeded() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def loader_of(kind: str) -> Any:
    data = MapData(12, noise=True)
    if kind == "shuffled":
        return DataLoader(data, batch_size=2, shuffle=True)
    if kind == "own generator":
        return DataLoader(data, batch_size=2, shuffle=True, generator=torch.Generator())
    sampler = RandomSampler(data, generator=torch.Generator())
    return DataLoader(data, batch_size=2, sampler=sampler)


def used(batches: Iterator[Any], count: int) -> list[Any]:
    """Take batches, and draw between them as a model with dropout does."""
    taken = []
    for _ in range(count):
        taken.append(next(batches))
        torch.rand(7)
    return taken


def same_batches(first: list[Any], second: list[Any]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


@pytest.mark.parametrize("kind", ["shuffled", "own generator", "own sampler"])
@pytest.mark.parametrize("num_used", [1, 4, 6])
def test_an_epoch_goes_on_as_it_would_have(kind: str, num_used: int) -> None:
    seeded()
    following = ReplayedLoader(loader_of(kind), print)
    batches = following.enter(0, None)
    used(batches, num_used)
    position, then = following.position(), global_states()
    with preserved_random_states():
        expected = used(batches, 6 - num_used)
    take_snapshot({"loader": position})  # a checkpoint can hold it

    said: list[str] = []
    other = ReplayedLoader(loader_of(kind), said.append)
    again = other.enter(num_used, position)
    assert global_states() == then
    assert same_batches(used(again, 6 - num_used), expected)
    assert next(again, None) is None
    assert said == [
        f"Making {num_used} batches of your loader again to stand where the run stopped"
    ]


def test_a_position_can_be_taken_again_after_a_replay() -> None:
    seeded()
    following = ReplayedLoader(loader_of("shuffled"), print)
    batches = following.enter(0, None)
    used(batches, 2)
    second = ReplayedLoader(loader_of("shuffled"), print)
    again = second.enter(2, following.position())
    used(again, 2)
    position = second.position()
    with preserved_random_states():
        expected = used(again, 2)
    third = ReplayedLoader(loader_of("shuffled"), print)
    assert same_batches(used(third.enter(4, position), 2), expected)


class Counting:
    """Keeps its own position."""

    def __init__(self) -> None:
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]

    def __iter__(self) -> Iterator[int]:
        while self.at < 6:
            self.at += 1
            yield self.at
        self.at = 0


def test_a_loader_that_keeps_its_position_is_asked_for_it() -> None:
    said: list[str] = []
    following = ReplayedLoader(Counting(), said.append)
    batches = following.enter(0, None)
    assert [next(batches) for _ in range(4)] == [1, 2, 3, 4]
    assert following.position() == {"loader": {"at": 4}}
    other = ReplayedLoader(Counting(), said.append)
    assert list(other.enter(4, following.position())) == [5, 6]
    assert list(other.enter(0, None)) == [1, 2, 3, 4, 5, 6]
    assert not said
