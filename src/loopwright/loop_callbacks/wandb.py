"""A callback that sends metrics to Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from loopwright.extras import require, require_installed
from loopwright.loop_callbacks.base import AbstractExperimentCallback
from loopwright.loop_callbacks.history import experiment_folder
from loopwright.loop_callbacks.tensorboard import checked_frequency
from loopwright.loop_callbacks.trackers import BatchLosses, latest_metrics, without_harm
from loopwright.plain_values import mask_secrets, to_plain


@dataclass(frozen=True)
class AlertConfig:
    """Says when an alert is sent.

    Raises:
        ValueError: The objective is neither "maximize" nor "minimize".
    """

    metric_name: str
    """The name in the training history."""
    threshold_value: float
    objective: Literal["maximize", "minimize"] = "maximize"
    """An alert is sent when the value is below ("maximize") or above the threshold."""
    wandb_alert_level: Any = None
    """A `wandb.AlertLevel`."""

    def __post_init__(self) -> None:
        if self.objective not in ("maximize", "minimize"):
            raise ValueError(f"objective is {self.objective!r}; expected 'maximize' or 'minimize'.")

    def is_due(self, value: float) -> bool:
        """Tell whether a value is on the wrong side of the threshold."""
        if self.objective == "maximize":
            return value < self.threshold_value
        return value > self.threshold_value


class WandBTracking(AbstractExperimentCallback):
    """Sends metrics to Weights & Biases; a failure there is told and training goes on.

    Args:
        metric_names: Those of the training history to send; None sends all.
        batch_log_frequency: Every so many batches the loss is sent too; None does not.
        hyperparams: The configuration of the run; None takes the loop's. Secrets are masked.
        tags: Of the run.
        alerts: Alerts on metrics.
        wandb_pre_initialized: Whether `wandb.init` was called already.
        source_dirs: Folders whose Python files are stored with the run.
        log_dir: The folder of wandb's own files, for `is_project=False`.
        is_project: Whether that folder is the experiment's.
        project_name: None takes the loop's.
        experiment_name: None takes the loop's.
        local_model_result_folder_path: None takes the loop's.
        **kwargs: Arguments of `wandb.init`.

    Raises:
        MissingExtraError: wandb is not installed.
        TypeError: An alert is no `AlertConfig`.
    """

    def __init__(
        self,
        metric_names: Sequence[str] | None = None,
        batch_log_frequency: int | None = None,
        hyperparams: dict[str, Any] | None = None,
        tags: Sequence[str] | None = None,
        alerts: Sequence[AlertConfig] | None = None,
        wandb_pre_initialized: bool = False,
        source_dirs: Sequence[str] = (),
        log_dir: str | None = None,
        is_project: bool = True,
        project_name: str | None = None,
        experiment_name: str | None = None,
        local_model_result_folder_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        require_installed(["wandb"], extra="wandb")
        super().__init__(
            "Weights & Biases",
            project_name,
            experiment_name,
            local_model_result_folder_path,
            execution_order=97,
            device_idx_execution=0,
        )
        for alert in alerts or ():
            if not isinstance(alert, AlertConfig):
                raise TypeError(f"alerts holds a {type(alert).__name__}; expected AlertConfig.")
        if batch_log_frequency is not None:
            checked_frequency(batch_log_frequency)
        self.metric_names = metric_names
        self.batch_log_frequency = batch_log_frequency
        self.hyperparams = hyperparams
        self.tags = tags
        self.alerts = tuple(alerts or ())
        self.wandb_pre_initialized = wandb_pre_initialized
        self.source_dirs = source_dirs
        self.log_dir = None if log_dir is None else os.path.expanduser(log_dir)
        self.is_project = is_project
        self.wandb_params_kwargs = kwargs
        self._wandb: Any = None
        self._batch_losses = BatchLosses()

    def on_train_loop_registration(self) -> None:
        if self.is_project:
            self.try_infer_experiment_details(infer_cloud_details=False)
        if self.hyperparams is None:
            self.hyperparams = getattr(self.train_loop_obj, "hyperparams", None)
        without_harm(self._start, "Starting wandb")

    def _start(self) -> None:
        wandb = require("wandb", extra="wandb")
        if not self.wandb_pre_initialized:
            folder = self.log_dir
            if self.is_project:
                folder = str(experiment_folder(self).path)
                os.makedirs(folder, exist_ok=True)
            wandb.init(
                project=self.project_name,
                name=self.experiment_name,
                config=mask_secrets(to_plain(self.hyperparams or {})),
                tags=self.tags,
                dir=folder,
                **self.wandb_params_kwargs,
            )
        self._wandb = wandb
        for source in self.source_dirs:
            wandb.run.log_code(source, name=os.path.basename(os.path.normpath(source)))

    def on_epoch_begin(self) -> None:
        self._batch_losses.restart()

    def on_batch_end(self) -> None:
        loop, every = self.train_loop_obj, self.batch_log_frequency
        if self._wandb is not None and every and loop.total_iteration_idx % every == 0:
            self._log(self._batch_losses.read(loop.loss_batch_accum))

    def on_epoch_end(self) -> None:
        if self._wandb is None:
            return
        loop = self.train_loop_obj
        latest = latest_metrics(loop.train_history, self.metric_names)
        named = {
            f"{'loss_at_epoch_end' if 'loss' in name else 'metrics'}/{name}": value
            for name, value in latest.items()
        }
        self._log({"epoch": loop.epoch, **named})
        self._send_alerts()

    def on_train_end(self) -> None:
        if self._wandb is not None and not self.wandb_pre_initialized:
            without_harm(self._wandb.finish, "Finishing the run of wandb")
            self._wandb = None

    def _send_alerts(self) -> None:
        latest = latest_metrics(self.train_loop_obj.train_history, None)
        for alert in self.alerts:
            value = latest.get(alert.metric_name)
            if value is None or not alert.is_due(value):
                continue
            side = "low" if alert.objective == "maximize" else "high"
            send = partial(
                self._wandb.alert,
                title=f"{alert.metric_name} is too {side}",
                text=f"{alert.metric_name} is {value}; threshold {alert.threshold_value}",
                level=alert.wandb_alert_level,
            )
            without_harm(send, "Sending an alert by wandb")

    def _log(self, numbers: dict[str, Any]) -> None:
        step = self.train_loop_obj.total_iteration_idx
        without_harm(lambda: self._wandb.run.log(numbers, step=step), "Sending metrics to wandb")
