"""What callbacks for trackers have in common: the numbers they send, and failing without harm."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch

from loopwright.plain_values import to_plain


class BatchLosses:
    """Gives the loss of the latest batch and the mean over the batches of the epoch.

    The sums stay on the device; only `read` waits for it.
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._num_seen = 0

    def read(self, loss_batch_accum: list[Any]) -> dict[str, float]:
        """Return `train_loss/last_batch_NAME` and `train_loss/accumulated_batch_NAME`.

        Args:
            loss_batch_accum: The losses of the epoch's batches so far.
        """
        if len(loss_batch_accum) < self._num_seen:
            self._sums, self._num_seen = {}, 0
        for loss in loss_batch_accum[self._num_seen :]:
            for name, value in _named(loss).items():
                self._sums[name] = self._sums.get(name, 0.0) + value.to(_sum_type(value))
        self._num_seen = count = len(loss_batch_accum)
        found = {}
        for name, value in _named(loss_batch_accum[-1]).items():
            found[f"train_loss/last_batch_{name}"] = float(value)
            found[f"train_loss/accumulated_batch_{name}"] = float(self._sums[name]) / count
        return found

    def restart(self) -> None:
        """Begin another epoch."""
        self._sums, self._num_seen = {}, 0


def latest_metrics(history: Any, metric_names: Iterable[str] | None) -> dict[str, float]:
    """Return the latest number of each metric.

    Args:
        history: The training history.
        metric_names: Those to return; None returns all.

    Raises:
        ValueError: The history has no such metric.
    """
    flat = history.get_train_history_dict(flatten_dict=True)
    names = list(flat) if metric_names is None else list(metric_names)
    if unknown := [name for name in names if name not in flat]:
        raise ValueError(
            f"The training history has no {', '.join(unknown)}. There are: {', '.join(flat)}."
        )
    plain = {name: to_plain(flat[name][-1]) for name in names if flat[name]}
    is_number = (int, float)
    return {name: float(value) for name, value in plain.items() if isinstance(value, is_number)}


def without_harm(action: Callable[[], Any], what: str) -> Any:
    """Run what may fail outside of this program; a failure is told and training goes on.

    Args:
        action: What to run.
        what: What it does, such as "Sending metrics to wandb".
    """
    try:
        return action()
    except Exception as error:  # a tracker may fail in any way, and none may end a run
        print(f"{what} failed: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def _sum_type(value: torch.Tensor) -> torch.dtype:
    return torch.float32 if value.device.type == "mps" else torch.float64


def _named(loss: Any) -> dict[str, torch.Tensor]:
    return dict(loss.items()) if hasattr(loss, "items") else {"loss": loss}
