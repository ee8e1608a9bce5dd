"""The bases of the callbacks of a TrainLoop."""

from __future__ import annotations

import os
from typing import Any

from loopwright.loop_callbacks.messages import MessageService
from loopwright.tracking.uploads import ExperimentUploader, make_uploader


class AbstractCallback:
    """Is the base of callbacks: override the methods that matter, the others cost nothing.

    Inside the methods `train_loop_obj` is the loop and `message_service` its messages. A callback
    that counts something has `state_dict()` and `load_state_dict(state)`, so that a run that goes
    on from a checkpoint goes on counting.

    Args:
        callback_name: A name to show.
        execution_order: Callbacks run in ascending order; equal ones in the order given.
        device_idx_execution: The GPU whose process runs this callback, where there are several.
    """

    def __init__(
        self,
        callback_name: str,
        execution_order: int = 0,
        device_idx_execution: int | None = None,
    ) -> None:
        self.callback_name = callback_name
        self.execution_order = execution_order
        self.device_idx_execution = device_idx_execution
        self.train_loop_obj: Any = None
        self.message_service: MessageService | None = None

    def register_train_loop_object(self, train_loop_obj: Any) -> AbstractCallback:
        """Take the loop, call `on_train_loop_registration`, and return this callback."""
        self.train_loop_obj = train_loop_obj
        self.message_service = train_loop_obj.message_service
        self.on_train_loop_registration()
        return self

    def on_train_loop_registration(self) -> None:
        """Runs when the loop takes the callback, before anything is trained."""

    def on_train_begin(self) -> None:
        """Runs before the first epoch."""

    def on_epoch_begin(self) -> None:
        """Runs before the first batch of an epoch."""

    def on_batch_begin(self) -> None:
        """Runs before a batch goes into the model."""

    def on_after_gradient_update(self, optimizer_idx: int) -> None:
        """Runs when the gradients of an update are complete, before the optimizer's step.

        Only where a callback sets `train_loop_obj.grad_cb_used`.

        Args:
            optimizer_idx: Which of several optimizers; 0 for a single one.
        """

    def on_after_optimizer_step(self) -> None:
        """Runs after the optimizer's step, under the same condition."""

    def on_batch_end(self) -> None:
        """Runs after a batch, its update included."""

    def on_epoch_end(self) -> None:
        """Runs after the losses of an epoch are in the history."""

    def on_train_end(self) -> None:
        """Runs after the last epoch."""

    def on_multiprocess_start(self) -> None:
        """Runs in each process of a run on several GPUs, before its training."""

    def on_after_batch_prediction(
        self, y_pred_batch: Any, y_test_batch: Any, metadata_batch: Any, dataset_info: Any
    ) -> None:
        """Runs after a batch of a prediction that was asked for with `execute_callbacks`.

        Args:
            y_pred_batch: What `get_predictions` returned: predictions,
            y_test_batch: targets,
            metadata_batch: and metadata.
            dataset_info: A dict with the `type` of the data: "train", "validation" or "test".
        """


class AbstractExperimentCallback(AbstractCallback):
    """Is the base of callbacks that write into the folder of an experiment.

    Args:
        callback_name: A name to show.
        project_name: None takes the loop's; so do the next five.
        experiment_name: The name of the experiment.
        local_model_result_folder_path: The folder in which the project's is.
        cloud_save_mode: Where else to save (see `TrainLoopCheckpoint`).
        bucket_name: The bucket there.
        cloud_dir_prefix: The folder inside the bucket.
        execution_order: As in `AbstractCallback`.
        device_idx_execution: As in `AbstractCallback`.
    """

    def __init__(
        self,
        callback_name: str,
        project_name: str | None = None,
        experiment_name: str | None = None,
        local_model_result_folder_path: str | os.PathLike[str] | None = None,
        cloud_save_mode: str | None = None,
        bucket_name: str | None = None,
        cloud_dir_prefix: str | None = None,
        execution_order: int = 0,
        device_idx_execution: int | None = None,
    ) -> None:
        super().__init__(callback_name, execution_order, device_idx_execution)
        folder = local_model_result_folder_path
        self.project_name = project_name
        self.experiment_name = experiment_name
        self.local_model_result_folder_path = None if folder is None else os.path.expanduser(folder)
        self.cloud_save_mode = cloud_save_mode
        self.bucket_name = bucket_name
        self.cloud_dir_prefix = cloud_dir_prefix

    def try_infer_experiment_details(self, infer_cloud_details: bool) -> None:
        """Take from the loop what was not given.

        Args:
            infer_cloud_details: Whether that holds for the cloud too; the loop's is taken where
                none of its three arguments was given.

        Raises:
            AttributeError: The loop has no such details.
        """
        self._infer("project_name", "experiment_name", "local_model_result_folder_path")
        cloud = ("cloud_save_mode", "bucket_name", "cloud_dir_prefix")
        if infer_cloud_details and all(getattr(self, name) is None for name in cloud):
            self._infer(*cloud)

    def make_uploader(self) -> ExperimentUploader | None:
        """Return what uploads the experiment's files; None where they stay on the disk."""
        folder = self.local_model_result_folder_path
        assert folder is not None
        return make_uploader(self.cloud_save_mode, self.bucket_name, self.cloud_dir_prefix, folder)

    def _infer(self, *names: str) -> None:
        missing = [name for name in names if getattr(self, name) is None]
        unknown = [name for name in missing if not hasattr(self.train_loop_obj, name)]
        if unknown:
            raise AttributeError(
                f"{type(self).__name__} needs {', '.join(unknown)}, which a "
                f"{type(self.train_loop_obj).__name__} does not have. Give them to the callback, "
                "or use TrainLoopCheckpoint, TrainLoopEndSave or TrainLoopCheckpointEndSave."
            )
        for name in missing:
            setattr(self, name, getattr(self.train_loop_obj, name))
