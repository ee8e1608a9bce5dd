"""Ending training that gets no better, or that broke."""

from __future__ import annotations

import math
from typing import Any

from loopwright.loop_callbacks.base import AbstractCallback
from loopwright.loop_callbacks.history_values import NewValues, lower_is_better


class _Watching(AbstractCallback):
    """Looks at each new value of a metric; epochs that did not measure it do not count."""

    def __init__(self, callback_name: str, monitor: str, execution_order: int = 99) -> None:
        super().__init__(callback_name, execution_order=execution_order)
        self.monitor = monitor
        self._values = NewValues(monitor, type(self).__name__)

    def on_epoch_end(self) -> None:
        value = self._values.latest(self.train_loop_obj.train_history)
        if value is not None and (reason := self._reason_to_stop(float(value))):
            self.train_loop_obj.early_stop = True
            print(f"{type(self).__name__}: training ends after epoch {self.epoch}: {reason}")

    def _reason_to_stop(self, value: float) -> str | None:
        raise NotImplementedError

    @property
    def epoch(self) -> int:
        """The epoch that ended, from 0."""
        return int(self.train_loop_obj.epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return what the decision stands on, for checkpoints."""
        return {"num_seen": self._values.num_seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._values.num_seen = state["num_seen"]


class EarlyStopping(_Watching):
    """Ends training when a metric did not get better in `patience + 1` epochs.

    Args:
        monitor: The name in the training history; lower is better when it holds "loss" or "error".
        min_delta: A change has to be larger than this to count.
        patience: Epochs without improvement that are let pass.
    """

    def __init__(
        self, monitor: str = "val_loss", min_delta: float = 0.0, patience: int = 0
    ) -> None:
        super().__init__("EarlyStopping", monitor)
        self.min_delta = min_delta
        self.patience = patience
        self.patience_count = patience
        self.best_performance: float | None = None
        self.best_epoch = 0

    def _reason_to_stop(self, value: float) -> str | None:
        if self._improves(value):
            self.best_performance, self.best_epoch = value, self.epoch
            self.patience_count = self.patience
            return None
        self.patience_count -= 1
        if self.patience_count >= 0:
            return None
        best = f"{self.best_performance} in epoch {self.best_epoch}"
        return f"{self.monitor} is {value}, and was best with {best}"

    def _improves(self, value: float) -> bool:
        if self.best_performance is None or math.isnan(self.best_performance):
            return True
        gain = value - self.best_performance
        return (-gain if lower_is_better(self.monitor) else gain) > self.min_delta

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "patience_count": self.patience_count,
            "best_performance": self.best_performance,
            "best_epoch": self.best_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.patience_count = state["patience_count"]
        self.best_performance = state["best_performance"]
        self.best_epoch = state["best_epoch"]


class ThresholdEarlyStopping(_Watching):
    """Ends training when a metric was worse than a threshold in `patience + 1` epochs in a row.

    Args:
        monitor: The name in the training history; lower is better when it holds "loss" or "error".
        threshold: The value that has to be reached.
        patience: Epochs below it that are let pass.
    """

    def __init__(self, monitor: str, threshold: float, patience: int = 0) -> None:
        super().__init__("Threshold early stopping", monitor)
        self.threshold = threshold
        self.patience = patience
        self.patience_count = patience

    def _reason_to_stop(self, value: float) -> str | None:
        is_low = lower_is_better(self.monitor)
        if value <= self.threshold if is_low else value >= self.threshold:
            self.patience_count = self.patience
            return None
        self.patience_count -= 1
        if self.patience_count >= 0:
            return None
        return f"{self.monitor} is {value}, and did not reach {self.threshold}"

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"patience_count": self.patience_count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.patience_count = state["patience_count"]


class TerminateOnNaN(_Watching):
    """Ends training when a metric is not finite.

    Args:
        monitor: The name in the training history.
    """

    def __init__(self, monitor: str = "loss") -> None:
        super().__init__("TerminateOnNaN", monitor, execution_order=98)

    def _reason_to_stop(self, value: float) -> str | None:
        return None if math.isfinite(value) else f"{self.monitor} is {value}"
