"""The batches of a trainer: on its device, from where it stands in an epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from loopwright.device import copied_ahead, fits_in_memory, move_to_device
from loopwright.errors import CheckpointError
from loopwright.lean_loader import lean_loader
from loopwright.loaders import (
    EpochLoader,
    IterableLoader,
    TensorLoader,
    innermost,
)
from loopwright.positions import ReplayedLoader

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

_END = object()


class Feed:
    """Gives batches, and knows where the loader of training stands."""

    def __init__(self) -> None:
        self.replayed: ReplayedLoader | None = None
        """Follows a training loader that the user made; None for loaders of ours."""
        self.is_ahead = False
        """Whether the loader has given batches that come again when the run goes on."""

    def train_batches(self, trainer: Trainer, loader: Any) -> Iterator[Any]:
        """Give the batches that are left of this epoch, and measure the wait for them."""
        batches = self.batches(trainer, loader, start=trainer.progress.micro_batch)
        inner, keeper = innermost(loader), trainer._keeper
        is_kept = keeper.store is not None
        can_drop = is_kept and isinstance(inner, EpochLoader) and not _keeps_position(inner)
        while True:
            waiting_since = time.perf_counter()
            if can_drop and not trainer._accumulation.is_open:
                batch = keeper.requests.next(batches, _END)
            else:
                batch = next(batches, _END)
            if batch is _END:
                return
            trainer.seconds_waiting += time.perf_counter() - waiting_since
            yield batch

    def batches(self, trainer: Trainer, loader: Any, *, start: int | None = None) -> Iterator[Any]:
        """Give the batches of this epoch on the device.

        Args:
            trainer: The trainer.
            loader: The loader.
            start: Batches that were used already, for the loader of training.
        """
        inner = innermost(loader)
        if isinstance(inner, EpochLoader):
            inner.seed, inner.epoch = trainer._run_seed, trainer.run_history.current_epoch
            inner.start = start or 0
            if isinstance(inner, IterableLoader):
                _enter_stream(trainer, inner)
            batches = iter(inner)
        elif start is None:
            batches = iter(lean_loader(inner))
        else:
            batches = self._enter(trainer, inner, start)
        if inner is not loader:
            batches = islice(batches, max(0, loader.slice_size - (start or 0)))
        return self.moved(trainer, inner, batches)

    def moved(self, trainer: Trainer, inner: Any, batches: Iterator[Any]) -> Iterator[Any]:
        """Return the batches of a loader on the trainer's device."""
        if trainer.device.type == "cpu":
            return batches
        if isinstance(inner, TensorLoader) and inner.device is not None:
            return batches
        is_ours = isinstance(inner, EpochLoader) and not _keeps_position(inner)
        if trainer.device.type == "cuda" and is_ours:
            return copied_ahead(batches, trainer.device)
        return (move_to_device(batch, trainer.device) for batch in batches)

    def position(self, trainer: Trainer) -> dict[str, Any] | None:
        """Return where the training loader stands, if that takes more than a number."""
        if trainer.progress.phase != "train" or trainer.progress.epoch_is_trained:
            return None if self.replayed is None else self.replayed.between_epochs()
        # Asked for inside a step, or after steps that were undone.
        has_next_batch = trainer._micro_batch is not None or self.is_ahead
        inner = innermost(trainer._train_dataloader)
        if isinstance(inner, IterableLoader):
            return {"dataset": None if has_next_batch else inner.position()}
        if self.replayed is None:
            return None
        return {"unknown": True} if has_next_batch else self.replayed.position()

    def _enter(self, trainer: Trainer, loader: Any, start: int) -> Iterator[Any]:
        """Iterate over the user's own loader, from where a resumed run stands in its epoch."""
        if self.replayed is None or self.replayed.loader is not loader:
            self.replayed = ReplayedLoader(loader, trainer.print)
        position = trainer._keeper.take_loader_position()
        if start and position is not None and "unknown" in position:
            raise CheckpointError(
                "This state was saved inside a step, when the next batch of your own loader was "
                "made already, so the loader cannot stand there again. Resume from the end of an "
                "epoch, or save with Trainer(checkpoint=CheckpointPolicy(...))."
            )
        return self.replayed.enter(start, position)


def place(loader: Any, device: torch.device, *, share: float) -> None:
    """Move data in memory to an accelerator, where they take less than a share of what is free."""
    if not isinstance(loader, TensorLoader) or device.type == "cpu":
        return
    if fits_in_memory(loader.num_bytes, device, share=share):
        loader.move_to(device)


def _keeps_position(loader: Any) -> bool:
    """Whether a stream tells where it stands, so that it must not run ahead of what is used."""
    return isinstance(loader, IterableLoader) and loader.keeps_position


def _enter_stream(trainer: Trainer, loader: IterableLoader) -> None:
    position = trainer._keeper.take_loader_position() if loader.start else None
    loader.dataset_state = (position or {}).get("dataset")
    if loader.start and loader.dataset_state is None:
        trainer.print(f"Making {loader.start} batches of the stream again, to go on after them")
