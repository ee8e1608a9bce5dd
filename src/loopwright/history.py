"""The history of a run: metric values by name, and the running mean of the loss."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch


class RunHistory(ABC):
    """Stores the values that metrics take during a run, and the epoch it is in.

    Subclass it to keep the history elsewhere; any subclass can be given to a `Trainer`.
    """

    @abstractmethod
    def get_metric_names(self) -> set[str]:
        """Return the names of all metrics that have a value."""

    @abstractmethod
    def get_metric_values(self, metric_name: str) -> Iterable[Any]:
        """Return the values of a metric in the order of recording; none for an unknown name."""

    @abstractmethod
    def get_latest_metric(self, metric_name: str) -> Any:
        """Return the value recorded last.

        Raises:
            ValueError: Nothing was recorded under this name.
        """

    @abstractmethod
    def set_metric_name_prefix(self, prefix: str = "") -> None:
        """Put `prefix` before the names of metrics that are recorded from now on."""

    @property
    @abstractmethod
    def metric_name_prefix(self) -> str:
        """The prefix in force."""

    @abstractmethod
    def update_metric(self, metric_name: str, metric_value: Any) -> None:
        """Record a value."""

    @abstractmethod
    def delete_metric(self, metric_name: str) -> None:
        """Forget a metric and its values."""

    @property
    @abstractmethod
    def current_epoch(self) -> int:
        """The epoch in progress, from 1."""

    @abstractmethod
    def _increment_epoch(self) -> None:
        """Count a finished epoch."""

    @abstractmethod
    def _set_epoch(self, epoch: int) -> None:
        """Go to an epoch, when a run is resumed."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all metrics and return to epoch 1."""


class InMemoryRunHistory(RunHistory):
    """Keeps the history in lists."""

    def __init__(self) -> None:
        self._current_epoch = 1
        self._metrics: dict[str, list[Any]] = {}
        self._prefix = ""

    def get_metric_names(self) -> set[str]:
        return set(self._metrics)

    def get_metric_values(self, metric_name: str) -> list[Any]:
        return list(self._metrics.get(metric_name, ()))

    def get_latest_metric(self, metric_name: str) -> Any:
        if metric_name not in self._metrics:
            known = ", ".join(sorted(self._metrics)) or "none so far"
            raise ValueError(
                f"No value was recorded for the metric {metric_name!r}. Recorded: {known}."
            )
        return self._metrics[metric_name][-1]

    def update_metric(self, metric_name: str, metric_value: Any) -> None:
        self._metrics.setdefault(f"{self._prefix}{metric_name}", []).append(metric_value)

    def set_metric_name_prefix(self, prefix: str = "") -> None:
        self._prefix = prefix

    def delete_metric(self, metric_name: str) -> None:
        self._metrics.pop(metric_name, None)

    @property
    def metric_name_prefix(self) -> str:
        return self._prefix

    @property
    def current_epoch(self) -> int:
        return self._current_epoch

    def _increment_epoch(self) -> None:
        self._current_epoch += 1

    def _set_epoch(self, epoch: int) -> None:
        self._current_epoch = epoch

    def reset(self) -> None:
        self._current_epoch = 1
        self._metrics = {}


class LossTracker:
    """Keeps the mean of losses, each weighted by the count it is a mean over.

    Fed with floats it sums in double precision on the host. Fed with tensors it sums on their
    device (float64 where the device has it) and reads nothing until `average` is asked for; a
    loss that is not finite stays visible in the sum, however much is added later.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again from nothing."""
        self.loss_value: float | torch.Tensor = 0
        self.total_loss: float | torch.Tensor = 0
        self.running_count: int | torch.Tensor = 0

    def update(
        self, loss_batch_value: float | torch.Tensor, batch_size: int | torch.Tensor = 1
    ) -> None:
        """Add the mean loss of a batch.

        Args:
            loss_batch_value: A float or a scalar tensor of any device.
            batch_size: How many samples or items the loss is a mean over.
        """
        if isinstance(loss_batch_value, torch.Tensor):
            self.loss_value = loss_batch_value
            self._add_on_device(loss_batch_value, batch_size)
        else:
            self.add(loss_batch_value, batch_size)

    def add(self, loss: float, count: int | torch.Tensor) -> None:
        """Add the mean loss of a batch, a number on the host."""
        self.loss_value = loss
        self.total_loss += loss * count
        self.running_count += count

    def _add_on_device(self, loss: torch.Tensor, count: int | torch.Tensor) -> None:
        if not isinstance(self.total_loss, torch.Tensor):
            dtype = torch.float32 if loss.device.type == "mps" else torch.float64
            self.total_loss = torch.full((), self.total_loss, dtype=dtype, device=loss.device)
        elif self.total_loss.device != loss.device:  # read from a checkpoint
            self.total_loss = self.total_loss.to(loss.device)
        if isinstance(count, torch.Tensor):
            total = self.total_loss
            self.total_loss = total.addcmul(loss.to(total), count.to(total))
        else:  # not in place: a step that is undone has kept the sum before it
            self.total_loss = self.total_loss.add(loss, alpha=count)
        self.running_count = self.running_count + count

    @property
    def average(self) -> float:
        """The mean loss so far; 0.0 before the first update. Reads the device when it has to."""
        count = float(self.running_count)
        return float(self.total_loss) / count if count else 0.0


def history_state(history: RunHistory) -> dict[str, list[Any]]:
    """Return the metrics of any history, for `restore_history`."""
    names = sorted(history.get_metric_names())  # a set has no order that two processes share
    return {name: list(history.get_metric_values(name)) for name in names}


def restore_history(history: RunHistory, metrics: dict[str, list[Any]], *, epoch: int) -> None:
    """Bring a history back to `metrics` and to an epoch."""
    prefix = history.metric_name_prefix
    history.reset()
    history.set_metric_name_prefix("")
    for name, values in metrics.items():
        for value in values:
            history.update_metric(name, value)
    history.set_metric_name_prefix(prefix)
    history._set_epoch(epoch)
