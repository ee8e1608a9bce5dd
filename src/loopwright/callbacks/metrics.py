"""Metrics over all samples of an epoch, with torchmetrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from loopwright.events import TrainerCallback

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

Selection = Callable[[Any, Mapping[str, Any]], tuple[Any, ...]]


def outputs_and_targets(batch: Any, batch_output: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what most metrics take: the model's outputs and `batch[1]`."""
    return batch_output["model_outputs"], batch[1]


class MetricsCallback(TrainerCallback):
    """Records metrics that are computed from every sample of an epoch, not from means of batches.

    Values go into the run history under the metric's name after evaluation, and under
    `train_<name>` after training epochs where those are asked for. Place it before
    `LogMetricsCallback`, so that its values are printed with the others:
    `callbacks=[MetricsCallback(...), *DEFAULT_CALLBACKS]`.

    Args:
        metrics: A dict of metrics by name, a torchmetrics `MetricCollection`, or one metric, which
            gets the name of its class. A metric is anything with `update`, `compute`, `reset`.
        train_metrics: Likewise for training epochs; None records none. Give other instances.
        select: Called with a batch and its output; returns the arguments of `update`.
    """

    def __init__(
        self,
        metrics: Mapping[str, Any] | Any,
        *,
        train_metrics: Mapping[str, Any] | Any | None = None,
        select: Selection = outputs_and_targets,
    ) -> None:
        self.metrics = _by_name(metrics)
        self.train_metrics = {} if train_metrics is None else _by_name(train_metrics)
        shared = set(map(id, self.metrics.values())) & set(map(id, self.train_metrics.values()))
        if shared:
            raise ValueError("metrics and train_metrics share an instance; give each its own.")
        self.select = select

    def on_init_end(self, trainer: Trainer, **kwargs: Any) -> None:
        names = trainer.callback_handler.callback_list
        mine = names.index(type(self).__name__)
        if "LogMetricsCallback" in names[:mine]:
            warnings.warn(
                f"{type(self).__name__} comes after LogMetricsCallback, so its values are recorded "
                "after the others are printed. Put it first.",
                stacklevel=2,
            )

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._move(trainer.device)

    def on_evaluation_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._move(trainer.device)

    def on_train_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
        _reset(self.train_metrics)

    def on_train_step_end(
        self, trainer: Trainer, batch: Any, batch_output: Any, step: int, **kwargs: Any
    ) -> None:
        if self.train_metrics:
            self._update(self.train_metrics, batch, batch_output)

    def on_train_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        _record(self.train_metrics, trainer, "train_")

    def on_eval_epoch_start(
        self, trainer: Trainer, is_intermediate: bool = False, **kwargs: Any
    ) -> None:
        _reset(self.metrics)

    def on_eval_step_end(
        self, trainer: Trainer, batch: Any, batch_output: Any, **kwargs: Any
    ) -> None:
        self._update(self.metrics, batch, batch_output)

    def on_eval_epoch_end(
        self, trainer: Trainer, is_intermediate: bool = False, **kwargs: Any
    ) -> None:
        _record(self.metrics, trainer, "")

    def _move(self, device: torch.device) -> None:
        for metric in (*self.metrics.values(), *self.train_metrics.values()):
            if hasattr(metric, "to"):
                metric.to(device)

    @torch.no_grad()
    def _update(self, metrics: Mapping[str, Any], batch: Any, output: Mapping[str, Any]) -> None:
        arguments = self.select(batch, output)
        arguments = tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments)
        for metric in metrics.values():
            metric.update(*arguments)


def _by_name(metrics: Any) -> dict[str, Any]:
    if hasattr(metrics, "items"):
        return dict(metrics.items())
    return {type(metrics).__name__.lower(): metrics}


def _reset(metrics: Mapping[str, Any]) -> None:
    for metric in metrics.values():
        metric.reset()


def _record(metrics: Mapping[str, Any], trainer: Trainer, prefix: str) -> None:
    for name, metric in metrics.items():
        value = metric.compute()
        if isinstance(value, torch.Tensor):
            value = value.item() if value.numel() == 1 else value.tolist()
        trainer.run_history.update_metric(f"{prefix}{name}", value)
        metric.reset()
