"""Callbacks that write for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loopwright.extras import require, require_installed
from loopwright.loop_callbacks.base import AbstractExperimentCallback
from loopwright.loop_callbacks.history import experiment_folder
from loopwright.loop_callbacks.trackers import BatchLosses, latest_metrics, without_harm
from loopwright.tracking.uploads import Uploader


class TensorboardReporterBaseCB(AbstractExperimentCallback):
    """Is the base of callbacks that write for TensorBoard, after the callbacks that evaluate.

    Args:
        callback_name: A name to show.
        log_dir: The folder, "tensorboard" by default.
        is_project: Whether `log_dir` lies in the folder of the experiment.
        project_name: None takes the loop's; so do the next five.
        experiment_name: The name of the experiment.
        local_model_result_folder_path: The root of all projects.
        cloud_save_mode: Where else to save.
        bucket_name: The bucket there.
        cloud_dir_prefix: The folder inside the bucket.
        **kwargs: Arguments of `torch.utils.tensorboard.SummaryWriter`.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(
        self,
        callback_name: str,
        log_dir: str | None = None,
        is_project: bool = True,
        project_name: str | None = None,
        experiment_name: str | None = None,
        local_model_result_folder_path: str | None = None,
        cloud_save_mode: str | None = None,
        bucket_name: str | None = None,
        cloud_dir_prefix: str | None = None,
        **kwargs: Any,
    ) -> None:
        require_installed(["tensorboard"], extra="tensorboard")
        super().__init__(
            callback_name,
            project_name,
            experiment_name,
            local_model_result_folder_path,
            cloud_save_mode,
            bucket_name,
            cloud_dir_prefix,
            execution_order=97,
            device_idx_execution=0,
        )
        self.log_dir = Path(log_dir or "tensorboard").expanduser()
        self.is_project = is_project
        self.tb_writer_kwargs = kwargs
        self.uploader: Uploader | None = None
        self._writer: Any = None
        self._batch_losses = BatchLosses()

    def on_train_loop_registration(self) -> None:
        if not self.is_project:
            suffix = f"_{self.train_loop_obj.experiment_timestamp}"
            self.tb_writer_kwargs.setdefault("filename_suffix", suffix)
            return
        self.try_infer_experiment_details(infer_cloud_details=True)
        self.log_dir = experiment_folder(self).path / self.log_dir
        self.uploader = self.make_uploader()

    @property
    def tb_writer(self) -> Any:
        """The `SummaryWriter`, which makes the folder when there is something to write."""
        if self._writer is None:
            module = require("torch.utils.tensorboard", extra="tensorboard")
            self._writer = module.SummaryWriter(str(self.log_dir), **self.tb_writer_kwargs)
        return self._writer

    def on_epoch_begin(self) -> None:
        self._batch_losses.restart()

    def on_train_end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self.upload_to_cloud()

    def log_mid_train_loss(self) -> None:
        """Write the loss of the batch and the mean so far, over all batches of the run."""
        loop = self.train_loop_obj
        losses = self._batch_losses.read(loop.loss_batch_accum)
        self._write(losses, loop.total_iteration_idx)

    def log_train_history_metrics(self, metric_names: Sequence[str] | None = None) -> None:
        """Write the latest values of metrics as `loss/NAME` or `metrics/NAME`, over epochs.

        Args:
            metric_names: Those to write; None writes all.
        """
        loop = self.train_loop_obj
        latest = latest_metrics(loop.train_history, metric_names)
        named = {f"{'loss' if 'loss' in n else 'metrics'}/{n}": v for n, v in latest.items()}
        self._write(named, loop.epoch)

    def end_epoch(self) -> None:
        """Let what was written reach the disk, and the cloud."""
        without_harm(lambda: self.tb_writer.flush(), "Writing for TensorBoard")
        self.upload_to_cloud()

    def upload_to_cloud(self) -> None:
        """Queue the files for upload, if the loop saves in a cloud."""
        if self.uploader is None:
            return
        folder = experiment_folder(self)
        for path in sorted(self.log_dir.rglob("*")):
            if path.is_file():
                self.uploader.upload(path, folder.relative(path))

    def _write(self, numbers: dict[str, float], step: int) -> None:
        def write() -> None:
            for name, number in numbers.items():
                self.tb_writer.add_scalar(name, number, step)

        without_harm(write, "Writing for TensorBoard")


class TensorboardTrainBatchLoss(TensorboardReporterBaseCB):
    """Writes the loss of batches.

    Args:
        batch_log_frequency: Every so many batches.
        log_dir: As in `TensorboardReporterBaseCB`, and so the others.
        is_project: Likewise.
        **kwargs: Likewise.
    """

    def __init__(
        self,
        batch_log_frequency: int = 1,
        log_dir: str | None = None,
        is_project: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__("TensorBoard: losses of batches", log_dir, is_project, **kwargs)
        self.batch_log_frequency = checked_frequency(batch_log_frequency)

    def on_batch_end(self) -> None:
        if self.train_loop_obj.total_iteration_idx % self.batch_log_frequency == 0:
            self.log_mid_train_loss()

    def on_epoch_end(self) -> None:
        self.end_epoch()


class TensorboardTrainHistoryMetric(TensorboardReporterBaseCB):
    """Writes the metrics of the training history after each epoch.

    Args:
        metric_names: Those to write; None writes all.
        log_dir: As in `TensorboardReporterBaseCB`, and so the others.
        is_project: Likewise.
        **kwargs: Likewise.
    """

    def __init__(
        self,
        metric_names: Sequence[str] | None = None,
        log_dir: str | None = None,
        is_project: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__("TensorBoard: metrics of epochs", log_dir, is_project, **kwargs)
        self.metric_names = metric_names

    def on_epoch_end(self) -> None:
        self.log_train_history_metrics(self.metric_names)
        self.end_epoch()


class TensorboardFullTracking(TensorboardTrainHistoryMetric):
    """Writes the loss of batches, and the metrics of the training history after each epoch.

    Args:
        metric_names: As in `TensorboardTrainHistoryMetric`.
        batch_log_frequency: As in `TensorboardTrainBatchLoss`.
        log_dir: As in `TensorboardReporterBaseCB`, and so the others.
        is_project: Likewise.
        **kwargs: Likewise.
    """

    def __init__(
        self,
        metric_names: Sequence[str] | None = None,
        batch_log_frequency: int = 1,
        log_dir: str | None = None,
        is_project: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(metric_names, log_dir, is_project, **kwargs)
        self.callback_name = "TensorBoard: batches and epochs"
        self.batch_log_frequency = checked_frequency(batch_log_frequency)

    def on_batch_end(self) -> None:
        if self.train_loop_obj.total_iteration_idx % self.batch_log_frequency == 0:
            self.log_mid_train_loss()


def checked_frequency(batch_log_frequency: int) -> int:
    """Return a number of batches, or raise a `ValueError` for less than 1."""
    if batch_log_frequency < 1:
        raise ValueError(f"batch_log_frequency is {batch_log_frequency}; expected 1 or more.")
    return batch_log_frequency
