"""Where a loader that the user made stands in its epoch, and how to stand there again."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch

from loopwright.lean_loader import lean_loader
from loopwright.seed import random_states, restore_random_states


class ReplayedLoader:
    """Follows a loader of the user's through an epoch, so that a run can go on in its middle.

    A loader with `state_dict` and `load_state_dict` keeps its own position. Any other is replayed:
    the random states from before the epoch are put back, the batches that were used are made
    again and dropped, and the random states of the saved moment are put back.

    Args:
        loader: The loader.
        tell: Called with a line for the user.
    """

    def __init__(self, loader: Any, tell: Callable[[str], None]) -> None:
        self.loader = loader
        self._tell = tell
        self._keeps_position = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
        self._before: dict[str, Any] | None = None

    def position(self) -> dict[str, Any]:
        """Return what `enter` needs, as a tree for a checkpoint."""
        if self._keeps_position:
            return {"loader": self.loader.state_dict()}
        return {"before": self._before}

    def between_epochs(self) -> dict[str, Any]:
        """Return what `enter` needs to start the next epoch, in a form for a checkpoint."""
        return {"generators": generator_states(self.loader)}

    def enter(self, num_used: int, position: dict[str, Any] | None) -> Iterator[Any]:
        """Iterate over the epoch, after the batches that were used before.

        Args:
            num_used: How many those are.
            position: What `position` or `between_epochs` returned then, for a resumed run.
        """
        if position is not None and "generators" in position:
            set_generator_states(self.loader, position["generators"])
        if not num_used or position is None:
            self._before = {"random": random_states(), "generators": generator_states(self.loader)}
            return iter(lean_loader(self.loader))
        if self._keeps_position:
            self.loader.load_state_dict(position["loader"])
            return iter(self.loader)
        return self._replay(num_used, position["before"])

    def _replay(self, num_used: int, before: dict[str, Any]) -> Iterator[Any]:
        self._tell(f"Making {num_used} batches of your loader again to stand where the run stopped")
        now = random_states()
        restore_random_states(before["random"])
        set_generator_states(self.loader, before["generators"])
        self._before = before
        batches: Iterator[Any] = iter(lean_loader(self.loader))
        for _ in islice(batches, num_used):
            pass
        restore_random_states(now)
        return batches


def _generators(loader: Any) -> list[torch.Generator]:
    """Return the generators that a loader and its samplers own, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    inner = getattr(batch_sampler, "sampler", None)
    owners = (loader, getattr(loader, "sampler", None), batch_sampler, inner)
    found = [getattr(owner, "generator", None) for owner in owners]
    unique = {id(each): each for each in found if isinstance(each, torch.Generator)}
    return list(unique.values())


def generator_states(loader: Any) -> list[torch.Tensor]:
    """Return the states of the generators that a loader and its samplers own."""
    return [generator.get_state() for generator in _generators(loader)]


def set_generator_states(loader: Any, states: list[torch.Tensor]) -> None:
    """Put those generators into states that `generator_states` returned."""
    for generator, state in zip(_generators(loader), states, strict=True):
        generator.set_state(state)
