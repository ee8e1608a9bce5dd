"""Metrics over all samples of an epoch, with torchmetrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from loopwright.device import move_to_device
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
        self._lost: tuple[str, ...] = ()

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
        if trainer.progress.micro_batch == 0:
            _reset(self.train_metrics)
        elif self._lost:  # the run goes on in the middle of an epoch
            warnings.warn(
                f"The checkpoint holds no state of {', '.join(self._lost)}, so in this epoch they "
                "count from here. A metric with state_dict and load_state_dict goes on exactly.",
                stacklevel=2,
            )

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

    def state_dict(self) -> dict[str, Any]:
        """Return what the metrics of training have added up, for checkpoints."""
        states = {name: _state_of(metric) for name, metric in self.train_metrics.items()}
        return {"train": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on adding to what `state_dict` returned."""
        _reset(self.train_metrics)
        states = state["train"]
        self._lost = tuple(n for n in self.train_metrics if states.get(n) is None)
        for name, metric in self.train_metrics.items():
            if name not in self._lost:
                _load_state(metric, states[name])

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


def _state_of(metric: Any) -> Any:
    """Return the state of a metric; None for one that offers no way to read it.

    Modules keep theirs in buffers, and those of torchmetrics in attributes that `_defaults` lists,
    both of which their own `state_dict` leaves out unless asked.
    """
    if isinstance(metric, torch.nn.Module):
        return {
            name: {key: getattr(module, key) for key in _names_in(module)}
            for name, module in metric.named_modules()
        }
    return metric.state_dict() if hasattr(metric, "state_dict") else None


def _load_state(metric: Any, state: Mapping[str, Any]) -> None:
    if not isinstance(metric, torch.nn.Module):
        metric.load_state_dict(state)
        return
    device = next((buffer.device for buffer in metric.buffers()), torch.device("cpu"))
    device = getattr(metric, "device", device)  # as torchmetrics has it
    for name, module in metric.named_modules():
        for key in _names_in(module):
            setattr(module, key, move_to_device(state[name][key], device))


def _names_in(module: torch.nn.Module) -> list[str]:
    listed = [*getattr(module, "_defaults", ()), *dict(module.named_buffers(recurse=False))]
    return listed + (["_update_count"] if hasattr(module, "_update_count") else [])
