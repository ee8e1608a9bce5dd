"""The stages of a declared run: timed, logged, and told to callbacks."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = ["STAGES", "Callback", "Stages"]

STAGES = (
    "download_and_prepare_data",
    "load_data",
    "fit_preprocessors",
    "transform_data",
    "augment_data",
    "fit_model",
    "evaluate_model",
)
"""In the order of a run (G-46)."""

_logger = logging.getLogger("loopwright")


class Callback:
    """Is told when each stage of `Experiment.train` begins and ends; override what you need (G-57).

    For what happens inside `fit_model` give a `TrainerCallback`.
    """

    def on_train_begin(self) -> None:
        """Runs first of all."""

    def on_train_end(self) -> None:
        """Runs once, after the last stage; not when the run failed."""

    def on_download_and_prepare_data_begin(self) -> None:
        """Runs before the data set is brought within reach."""

    def on_download_and_prepare_data_end(self) -> None:
        """Runs after that."""

    def on_load_data_begin(self) -> None:
        """Runs before the samples are read and divided."""

    def on_load_data_end(self) -> None:
        """Runs after that."""

    def on_fit_preprocessors_begin(self) -> None:
        """Runs before each preprocessor learns from the training part."""

    def on_fit_preprocessors_end(self) -> None:
        """Runs after that."""

    def on_transform_data_begin(self) -> None:
        """Runs before each preprocessor is applied to all parts."""

    def on_transform_data_end(self) -> None:
        """Runs after that."""

    def on_augment_data_begin(self) -> None:
        """Runs before the augmentors of the training part are set up."""

    def on_augment_data_end(self) -> None:
        """Runs after that."""

    def on_fit_model_begin(self) -> None:
        """Runs before training."""

    def on_fit_model_end(self) -> None:
        """Runs after that."""

    def on_evaluate_model_begin(self) -> None:
        """Runs before the test."""

    def on_evaluate_model_end(self) -> None:
        """Runs after that."""


class Stages:
    """Notes when each stage began and ended, logs it, and tells the callbacks.

    A stage that runs in turns adds up to one entry.

    Args:
        callbacks: told in this order.
        verbose: whether a line is logged at the begin and the end of each stage (G-60).
    """

    def __init__(self, callbacks: Iterable[Callback] = (), *, verbose: bool = False) -> None:
        self.elapsed: dict[str, dict[str, float]] = {}
        """Start and end of each stage in seconds since the epoch, and its duration in seconds."""
        self._callbacks = tuple(callbacks)
        self._verbose = verbose

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Enclose the run; its time is the entry `total`."""
        self._tell("on_train_begin")
        with self._timed("total"):
            yield
        self._tell("on_train_end")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Enclose one stage."""
        self._tell(f"on_{name}_begin")
        self._log("%s begins", name)
        with self._timed(name):
            yield
        self._log("%s ended", name)
        self._tell(f"on_{name}_end")

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start, began = time.time(), time.perf_counter()
        try:
            yield
        finally:
            entry = self.elapsed.setdefault(name, {"start": start, "end": start, "duration": 0.0})
            entry["end"] = time.time()
            entry["duration"] += time.perf_counter() - began

    def _tell(self, method: str) -> None:
        for callback in self._callbacks:
            getattr(callback, method)()

    def _log(self, line: str, name: str) -> None:
        if self._verbose:
            _logger.info(line, name)
