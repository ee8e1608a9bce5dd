"""Going on with the training of a model that a TrainLoop saved."""

from __future__ import annotations

import os
from typing import Any

from loopwright.experiment_folder import ExperimentFolder
from loopwright.loop_callbacks.base import AbstractExperimentCallback
from loopwright.tracking.model_loading import make_model_loader


class ModelLoadContinueTraining(AbstractExperimentCallback):
    """Restores a saved model, its optimizer and schedulers, and goes on from there.

    After a model that was saved at the end of an epoch the next one follows; one that was saved
    within an epoch goes on in its middle. The run ends with the bits of one that was never
    interrupted: weights, history, random states, the generators of the loaders, and what callbacks
    count. `fit` counts epochs in all, those before included.

    Args:
        saved_experiment_timestamp: Of the experiment that saved the model.
        saved_model_dir: "checkpoint_model" for a checkpoint, "model" for a final model.
        epoch_num: Of the checkpoint; None takes the newest one.
        ignore_saved_schedulers: Accept saved schedulers that this loop does not have.
        ignore_missing_saved_schedulers: Accept schedulers of which nothing was saved.
        used_data_parallel: Whether another program saved the model in its wrapper for several GPUs.
        custom_local_loader_class: Used in place of the loader for local files.
        project_name: None takes the loop's; so do the next five.
        experiment_name: The name of the experiment.
        local_model_result_folder_path: Where the project's folder is.
        cloud_save_mode: Where the model is otherwise (see `TrainLoopCheckpoint`).
        bucket_name: The bucket there.
        cloud_dir_prefix: The folder in the bucket.
        allow_changes: Accept another `grad_accumulation`, precision or optimizer than before.
        kwargs: Passed to the loader.

    Raises:
        CheckpointError: The file does not fit, or its schedulers do not.
    """

    def __init__(
        self,
        saved_experiment_timestamp: str,
        saved_model_dir: str = "checkpoint_model",
        epoch_num: int | None = None,
        ignore_saved_schedulers: bool = False,
        ignore_missing_saved_schedulers: bool = False,
        used_data_parallel: bool = False,
        custom_local_loader_class: Any = None,
        project_name: str | None = None,
        experiment_name: str | None = None,
        local_model_result_folder_path: str | os.PathLike[str] | None = None,
        cloud_save_mode: str | None = None,
        bucket_name: str | None = None,
        cloud_dir_prefix: str | None = None,
        *,
        allow_changes: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            "Goes on from a saved model",
            project_name,
            experiment_name,
            local_model_result_folder_path,
            cloud_save_mode,
            bucket_name,
            cloud_dir_prefix,
            execution_order=-10,
        )
        self.saved_experiment_timestamp = saved_experiment_timestamp
        self.saved_model_dir = saved_model_dir
        self.epoch_num = epoch_num
        self.ignore_saved_schedulers = ignore_saved_schedulers
        self.ignore_missing_saved_schedulers = ignore_missing_saved_schedulers
        self.used_data_parallel = used_data_parallel
        self.custom_local_loader_class = custom_local_loader_class
        self.allow_changes = allow_changes
        self.local_loader_kwargs = kwargs
        self._schedulers: list[Any] | None = None

    def on_train_loop_registration(self) -> None:
        """Read the saved model, and hand it to the loop."""
        self.try_infer_experiment_details(infer_cloud_details=True)
        content = self._loader().load_model(
            self.project_name,
            self.experiment_name,
            self.saved_experiment_timestamp,
            self.saved_model_dir,
            self.epoch_num,
            **self.local_loader_kwargs,
        )
        if self.used_data_parallel:
            weights = content["model_state_dict"]
            plain = {name.removeprefix("module."): value for name, value in weights.items()}
            content = {**content, "model_state_dict": plain}
        self._schedulers = content.get("schedulers_state_dict", [])
        self._send_what_is_left()
        self.train_loop_obj.continue_from(content, allow_changes=self.allow_changes)

    def on_train_begin(self) -> None:
        """Restore the schedulers, once: a later `fit` goes on as any other."""
        saved, self._schedulers = self._schedulers, None
        if saved is not None:
            self.train_loop_obj.load_schedulers(
                saved,
                ignore_saved=self.ignore_saved_schedulers,
                ignore_missing=self.ignore_missing_saved_schedulers,
            )

    def _send_what_is_left(self) -> None:
        """Complete the copy of the experiment that the model is of, if its process was killed."""
        uploader = self.make_uploader()
        if uploader is None:
            return
        assert self.project_name is not None
        assert self.experiment_name is not None
        folder = ExperimentFolder(
            self.project_name,
            self.experiment_name,
            self.saved_experiment_timestamp,
            self.local_model_result_folder_path or "",
        )
        uploader.catch_up(folder.path)

    def _loader(self) -> Any:
        assert self.local_model_result_folder_path is not None
        if self.custom_local_loader_class is not None:
            return self.custom_local_loader_class(self.local_model_result_folder_path)
        return make_model_loader(
            self.cloud_save_mode,
            self.bucket_name,
            self.cloud_dir_prefix,
            self.local_model_result_folder_path,
        )
