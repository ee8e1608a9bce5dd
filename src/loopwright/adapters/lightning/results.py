"""What `self.log` sums up, at less cost: a value that comes again is added and no more."""

from typing import Any

import torch
from torch import Tensor

from loopwright.adapters.lightning.hooks import Hooks
from loopwright.adapters.lightning.upstream import (
    LightningModule,
    ResultCollectionBase,
    ResultMetric,
)


class Results(ResultCollectionBase):
    """Sums up what is logged; of each name the first call is checked, and those that differ."""

    def __init__(self, training: bool) -> None:
        super().__init__(training)
        self._options: dict[str, dict[str, Any]] = {}
        self.last_options: dict[str, Any] = {}
        """What the last call of `log` was given beside the value."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # as Lightning's
    def log(
        self, fx: str, name: str, value: Any, *, batch_size: int | None = None, **options: Any
    ) -> None:
        """Take in a value, as `LightningModule.log` hands it over."""
        self.last_options = {"batch_size": batch_size, **options}
        key = f"{fx}.{name}"
        if options.get("add_dataloader_idx", True) and self.dataloader_idx is not None:
            key += f".{self.dataloader_idx}"
        metric = self.get(key)
        is_known = metric is not None and self._options.get(key) == options
        if not is_known or not isinstance(value, Tensor) or options.get("enable_graph"):
            super().log(fx, name, value, batch_size=batch_size, **options)
            self._options[key] = options
            return
        assert metric is not None
        if metric.value.device != value.device:
            metric.to(value.device)
        metric._computed = None
        metric._update_count += 1
        ResultMetric.update(
            metric, value, self._extract_batch_size(metric, batch_size, metric.meta)
        )
        metric.has_reset = False


class LoggedAgain:
    """Logs a value of `training_step` after each program of it, as the module does.

    By Lightning's `log` that is checked the first time.

    Args:
        module: The module that logged it.
        hooks: The hooks of the run.
        name: Under which name.
        given: Further arguments of `log` after the value.
        options: Those by name.
    """

    def __init__(self, module: Any, hooks: Hooks, name: str, *given: Any, **options: Any) -> None:
        self._module, self._hooks, self._name = module, hooks, name
        self._given, self._options = given, options
        self._checked: dict[str, Any] = {}

    def __call__(self, value: Tensor) -> None:
        """Log the value of the program that just ran."""
        trainer = self._module.trainer
        results, connector = trainer._results, trainer._logger_connector
        if not self._checked:
            log = self._module.log
            self._hooks.under(_STEP, log, self._name, value, *self._given, **self._options)
            if getattr(log, "__func__", None) is LightningModule.log:
                self._checked = results.last_options
            return
        if connector.should_reset_tensors(_STEP):
            results.reset(metrics=False, fx=_STEP)
        results.log(_STEP, self._name, value, **self._checked)
        connector._current_fx = _STEP


_STEP = "training_step"
