"""Lightning's loops as books of what was done; the batches run on the loop of loopwright."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from loopwright.adapters.lightning.results import Results
from loopwright.adapters.lightning.upstream import (
    CombinedLoader,
    EpochLoopBase,
    EvaluationLoopBase,
    FitLoopBase,
    PredictionLoopBase,
    RunningStage,
    TrainerFn,
    check_iterable,
    is_overridden,
    parse_num_batches,
    process_dataloader,
    request_dataloader,
    resolve_overfit,
    sized_len,
)
from loopwright.data import DataLoaderSlice
from loopwright.loaders import innermost

_UNKNOWN = float("inf")
_END = object()
_MODE = "max_size_cycle"

Item = tuple[Any, int, int]
"""A batch, its index, and the index of its loader."""


class FitLoop(FitLoopBase):
    """Keeps the counters of epochs and batches, and hands training to the engine.

    Args:
        trainer: Lightning's trainer.
        limits: Its `min_epochs`, `max_epochs`, `min_steps` and `max_steps`.
    """

    _combined_loader: Any

    def __init__(self, trainer: Any, **limits: Any) -> None:
        super().__init__(trainer, limits["min_epochs"], limits["max_epochs"])
        self.batches: Any = None
        """What the engine iterates over: the user's loader itself wherever that can be."""
        self.epoch_loop = EpochLoopBase(trainer, limits["min_steps"], limits["max_steps"])
        self.epoch_loop._results = Results(training=True)
        self.epoch_loop.val_loop = EvaluationLoop(
            trainer,
            TrainerFn.FITTING,
            RunningStage.VALIDATING,
            verbose=False,
            inference_mode=False,
        )

    def setup_data(self) -> None:
        """Ask for the training data, where that is due, and count its batches."""
        trainer = self.trainer
        if self._combined_loader is not None and not self._should_reload_train_dl:
            return
        if trainer.limit_train_batches == 0 or not is_overridden(
            "training_step", trainer.lightning_module
        ):
            return
        given = request_dataloader(self._data_source)
        combined = given if isinstance(given, CombinedLoader) else CombinedLoader(given, _MODE)
        if combined._mode == "sequential":
            raise ValueError(
                'CombinedLoader(mode="sequential") gives one loader after the other, which is for '
                f'evaluation. For training choose another mode, such as "{_MODE}".'
            )
        if trainer.overfit_batches > 0:
            resolve_overfit(combined, mode=RunningStage.TRAINING)
        for loader in combined.flattened:
            check_iterable(loader, self._data_source, TrainerFn.FITTING)
        combined.flattened = [
            process_dataloader(trainer, TrainerFn.FITTING, RunningStage.TRAINING, loader)
            for loader in combined.flattened
        ]
        combined.limits = [
            parse_num_batches(RunningStage.TRAINING, _length(loader), trainer.limit_train_batches)
            for loader in combined.flattened
        ]
        self._combined_loader = combined
        self.batches = _batches_of(combined)
        self.max_batches = _combined_length(combined)
        self._last_train_dl_reload_epoch = trainer.current_epoch
        if self.max_batches:
            self._plan_validation()

    def _plan_validation(self) -> None:
        """Set after how many batches validation is due."""
        trainer, interval = self.trainer, self.trainer.val_check_interval
        if trainer._val_check_time_interval is not None:
            trainer.val_check_batch = None
            trainer._train_start_time = trainer._last_val_time = time.monotonic()
        elif isinstance(interval, int):
            trainer.val_check_batch = interval
            is_too_long = interval > self.max_batches and trainer.limit_val_batches > 0
            if is_too_long and trainer.check_val_every_n_epoch is not None:
                raise ValueError(
                    f"val_check_interval is {interval}, and an epoch has {self.max_batches} "
                    "training batches; expected at most as many. Set limit_val_batches=0 for no "
                    "validation, or check_val_every_n_epoch=None to count batches over epochs."
                )
        elif self.max_batches != float("inf"):
            trainer.val_check_batch = max(1, int(self.max_batches * interval))
        elif interval == 1.0:
            trainer.val_check_batch = float("inf")
        else:
            raise ValueError(
                f"val_check_interval is {interval}, and the length of the training data is not "
                "known; expected 1.0 or a whole number of batches."
            )

    def is_last(self, index: int) -> bool:
        """Whether the batch of this index is the last of its epoch."""
        loader = innermost(self.batches)
        is_at_end = isinstance(loader, LookingAhead) and loader.is_at_end
        return is_at_end or index + 1 == self.max_batches

    def run(self) -> None:
        """Train, unless nothing is left to do."""
        self.setup_data()
        if self.skip:
            return
        self.reset()
        self.trainer.engine_for_fit().fit()

    def teardown(self) -> None:
        """Bring logged values to the CPU."""
        self.epoch_loop.teardown()


def _length(loader: Any) -> float:
    length = sized_len(loader)
    return _UNKNOWN if length is None else length


def _batches_of(combined: Any) -> Any:
    loader, limit = combined.flattened[0], combined.limits[0]
    if combined.iterables is not loader:
        loader, limit = CombinedBatches(combined), _combined_length(combined)
    if _length(loader) == _UNKNOWN:
        return DataLoaderSlice(LookingAhead(loader), sys.maxsize if limit == _UNKNOWN else limit)
    return loader if limit >= _length(loader) else DataLoaderSlice(loader, limit)


def _combined_length(combined: Any) -> float:
    limits: list[float] = combined.limits
    return min(limits) if combined._mode == "min_size" else max(limits)


class CombinedBatches:
    """Gives the batches of several loaders side by side, as Lightning's `CombinedLoader` does."""

    def __init__(self, combined: Any) -> None:
        self.combined = combined

    def __len__(self) -> int:
        length = _combined_length(self.combined)
        if length == _UNKNOWN:
            raise TypeError("The length of this data is not known.")
        return int(length)

    def __iter__(self) -> Iterator[Any]:
        iter(self.combined)
        while (item := next(self.combined, None)) is not None:  # `for` would start it again
            yield item[0]


class LookingAhead:
    """Gives the batches of a loader of unknown length, and knows which is the last."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.is_at_end = False
        """Whether the batch given last was the last."""

    def __iter__(self) -> Iterator[Any]:
        self.is_at_end = False
        batches = iter(self.loader)
        upcoming = next(batches, _END)
        while upcoming is not _END:
            batch, upcoming = upcoming, next(batches, _END)
            self.is_at_end = upcoming is _END
            yield batch


class _Fetching:
    """Gives the batches of Lightning's fetcher, which knows the last one of several loaders."""

    def __iter__(self: Any) -> Iterator[Item]:
        fetcher = self._data_fetcher
        item: Any
        while (item := next(fetcher, _END)) is not _END:  # `for` would start it a second time
            self.batch_progress.is_last_batch = fetcher.done
            yield item

    def without_gradients(self: Any) -> Any:
        """Return the context in which no gradients are made."""
        return torch.inference_mode() if self.inference_mode else torch.no_grad()


class EvaluationLoop(_Fetching, EvaluationLoopBase):
    """Keeps the counters and logged values of an evaluation, and hands it to the engine."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._results = Results(training=False)

    def run(self) -> list[dict[str, Any]]:
        """Evaluate, and return what was logged for each loader."""
        with self.without_gradients():
            self.setup_data()
            logged: list[dict[str, Any]] = []
            return logged if self.skip else self.trainer.engine.evaluate_loop(self)

    def __iter__(self) -> Iterator[Item]:
        """Give each batch; logged values are put aside where a loader ends."""
        previous = 0
        for item in super().__iter__():
            if item[2] != previous:
                self._store_dataloader_outputs()
            previous = item[2]
            yield item
        self._store_dataloader_outputs()


class PredictionLoop(_Fetching, PredictionLoopBase):
    """Keeps the counters and outputs of a prediction, and hands it to the engine."""

    def run(self) -> Any:
        """Predict, and return the outputs."""
        with self.without_gradients():
            self.setup_data()
            return None if self.skip else self.trainer.engine.predict_loop(self)
