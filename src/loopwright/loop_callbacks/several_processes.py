"""Callbacks for runs with a process for each GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loopwright.loop_callbacks.base import AbstractCallback


class DistributedSamplerSetEpoch(AbstractCallback):
    """Tells samplers the epoch before it begins, so that each has an order of its own.

    Args:
        train_sampler: The sampler of the train loader, or None.
        validation_sampler: Likewise.
        test_sampler: Likewise.
    """

    def __init__(self, train_sampler: Any, validation_sampler: Any, test_sampler: Any) -> None:
        super().__init__("Epoch of distributed samplers", execution_order=-100)
        self.train_sampler = train_sampler
        self.validation_sampler = validation_sampler
        self.test_sampler = test_sampler

    def on_epoch_begin(self) -> None:
        for sampler in (self.train_sampler, self.validation_sampler, self.test_sampler):
            if sampler is not None:
                sampler.set_epoch(self.train_loop_obj.epoch)


class InMultiProcessDataLoad(AbstractCallback):
    """Makes the loaders inside each process.

    Args:
        train_loader_build_fn: Returns the train loader; None or False leaves it as it is.
        val_loader_build_fn: Likewise for the validation loader.
        test_loader_build_fn: Likewise for the test loader.
    """

    def __init__(
        self,
        train_loader_build_fn: Callable[[], Any] | None = None,
        val_loader_build_fn: Callable[[], Any] | None = None,
        test_loader_build_fn: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__("Loaders made in each process")
        self.build_functions = {
            "train_loader": train_loader_build_fn,
            "validation_loader": val_loader_build_fn,
            "test_loader": test_loader_build_fn,
        }

    def on_multiprocess_start(self) -> None:
        for name, build in self.build_functions.items():
            if build:
                setattr(self.train_loop_obj, name, build())
