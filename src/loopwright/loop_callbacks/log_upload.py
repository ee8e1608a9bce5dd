"""Copying a log file into the cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loopwright.loop_callbacks.base import AbstractExperimentCallback
from loopwright.loop_callbacks.history import experiment_folder
from loopwright.tracking.uploads import Uploader


class LogUpload(AbstractExperimentCallback):
    """Copies a log file into the experiment's folder in the cloud, after epochs and training.

    Args:
        log_file_path: The file, which something else writes.
        fail_if_cloud_missing: Whether a loop that saves locally raises rather than prints so.
        **kwargs: The details of the experiment, as in `AbstractExperimentCallback`.
    """

    def __init__(
        self,
        log_file_path: str = "~/project/training.log",
        fail_if_cloud_missing: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__("Upload of a log", execution_order=1500, device_idx_execution=0, **kwargs)
        self.log_file_path = Path(log_file_path).expanduser()
        self.fail_if_cloud_missing = fail_if_cloud_missing
        self.uploader: Uploader | None = None

    def on_train_loop_registration(self) -> None:
        self.try_infer_experiment_details(infer_cloud_details=True)
        self.uploader = self.make_uploader()
        if self.uploader is not None:
            return
        message = (
            f"cloud_save_mode is {self.cloud_save_mode!r}, so {self.log_file_path} stays on this "
            "machine. Set it to 's3' or 'gcs'."
        )
        if self.fail_if_cloud_missing:
            raise ValueError(message)
        print(message)

    def on_epoch_end(self) -> None:
        self.upload_log_file()

    def on_train_end(self) -> None:
        self.upload_log_file()

    def upload_log_file(self) -> None:
        """Queue the file for upload, if it is there."""
        if self.uploader is None:
            return
        if not self.log_file_path.is_file():
            print(f"There is no log at {self.log_file_path} to upload yet")
            return
        folder = experiment_folder(self)
        remote = folder.relative(folder.path / self.log_file_path.name)
        self.uploader.upload(self.log_file_path, remote)
