"""TrainLoops that keep the experiment: checkpoints, and the final model with its results."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from loopwright.execution.report import StepMode
from loopwright.loop_callbacks.saving import (
    ModelCheckpoint,
    ModelIterationCheckpoint,
    ModelTrainEndSave,
)
from loopwright.results import AbstractResultPackage
from loopwright.tracking import with_source_paths
from loopwright.trainloop.predictions import append_predictions, torch_cat_transf
from loopwright.trainloop.train_loop import TrainLoop


class _TrackingLoop(TrainLoop):
    """Has the details of an experiment, which callbacks take from it."""

    project_name: str
    experiment_name: str
    local_model_result_folder_path: str
    hyperparams: dict[str, Any]
    cloud_save_mode: str | None
    bucket_name: str
    cloud_dir_prefix: str
    source_dirs: tuple[str, ...] | list[str]

    def _set_experiment(
        self,
        project_name: str,
        experiment_name: str,
        local_model_result_folder_path: str | os.PathLike[str],
        hyperparams: dict[str, Any],
        cloud_save_mode: str | None,
        bucket_name: str,
        cloud_dir_prefix: str,
        source_dirs: tuple[str, ...] | list[str],
    ) -> None:
        self.project_name = project_name
        self.experiment_name = experiment_name
        self.local_model_result_folder_path = os.path.expanduser(local_model_result_folder_path)
        self.hyperparams = with_source_paths(hyperparams, source_dirs)
        self.cloud_save_mode = cloud_save_mode
        self.bucket_name = bucket_name
        self.cloud_dir_prefix = cloud_dir_prefix
        self.source_dirs = source_dirs

    def _save_checkpoints(
        self,
        rm_subopt_local_models: bool | str,
        num_best_checkpoints_kept: int,
        iteration_save_freq: int,
    ) -> None:
        if iteration_save_freq < 0:
            raise ValueError(
                f"iteration_save_freq is {iteration_save_freq}; expected a number of batches, or 0 "
                "to save after every epoch."
            )
        self.rm_subopt_local_models = rm_subopt_local_models
        self.iteration_save_freq = iteration_save_freq
        arguments = (
            self.project_name,
            self.experiment_name,
            self.local_model_result_folder_path,
            self.hyperparams,
            self.cloud_save_mode,
            self.bucket_name,
            self.cloud_dir_prefix,
            rm_subopt_local_models,
            num_best_checkpoints_kept,
        )
        callback = (
            ModelIterationCheckpoint(iteration_save_freq, *arguments)
            if iteration_save_freq
            else ModelCheckpoint(*arguments)
        )
        self.callbacks_handler.register_callbacks([callback], cache_callbacks=True)


class TrainLoopCheckpoint(_TrackingLoop):
    """Is a TrainLoop that saves the model after every epoch.

    Args:
        model: As in `TrainLoop`; so are the next five.
        train_loader: Gives the batches of training.
        validation_loader: Gives those of the evaluation after each epoch.
        test_loader: Gives those of the evaluation at the end.
        optimizer: The optimizer, or a `MultiOptimizer`; it has a `state_dict`.
        criterion: Handed to the model's `get_loss`.
        project_name: The folder of the project.
        experiment_name: The name of the experiment, whose folder has the time in its name too.
        local_model_result_folder_path: Where the project's folder is; `~` is expanded.
        hyperparams: Saved as a table and with the model; it is not changed.
        cloud_save_mode: None saves locally alone; "s3" (or "aws", "aws_s3") to Amazon S3 too,
            "gcs" (or "google_storage", "google storage") to Google Cloud Storage, a URL of fsspec
            to that place.
        bucket_name: The bucket there; a URL has its own.
        cloud_dir_prefix: The folder in the bucket.
        source_dirs: Folders of source code to save.
        rm_subopt_local_models: Keep the best models alone (see `ModelCheckpoint`).
        num_best_checkpoints_kept: How many those are.
        iteration_save_freq: Save every so many batches in place of every epoch; 0 does not.
        collate_batch_pred_fn: As in `TrainLoop`; so are the next eight.
        pred_transform_fn: Makes the predictions for a loader.
        end_auto_eval: Whether the losses of all loaders are evaluated.
        lazy_experiment_save: Whether a folder is made only when there is something to save.
        print_callbacks: Whether `fit` lists the callbacks.
        gpu_mode: "single" or "dp".
        cuda_device_idx: Which GPU.
        use_amp: Mixed precision in fp16.
        step_mode: How a step is executed.

    Raises:
        ValueError: A number is out of its range.
        AttributeError: The optimizer has no `state_dict`; raised when `fit` starts.
    """

    def __init__(
        self,
        model: Any,
        train_loader: Any,
        validation_loader: Any,
        test_loader: Any,
        optimizer: Any,
        criterion: Any,
        project_name: str,
        experiment_name: str,
        local_model_result_folder_path: str | os.PathLike[str],
        hyperparams: dict[str, Any],
        cloud_save_mode: str | None = None,
        bucket_name: str = "model-result",
        cloud_dir_prefix: str = "",
        source_dirs: tuple[str, ...] | list[str] = (),
        rm_subopt_local_models: bool | str = False,
        num_best_checkpoints_kept: int = 2,
        iteration_save_freq: int = 0,
        collate_batch_pred_fn: Callable[..., Any] = append_predictions,
        pred_transform_fn: Callable[..., Any] = torch_cat_transf,
        end_auto_eval: bool | int = True,
        lazy_experiment_save: bool = False,
        print_callbacks: bool = False,
        gpu_mode: str = "single",
        cuda_device_idx: int | None = None,
        use_amp: bool | dict[str, Any] = False,
        *,
        step_mode: StepMode = "eager",
    ) -> None:
        super().__init__(
            model,
            train_loader,
            validation_loader,
            test_loader,
            optimizer,
            criterion,
            collate_batch_pred_fn,
            pred_transform_fn,
            end_auto_eval,
            lazy_experiment_save,
            print_callbacks,
            gpu_mode,
            cuda_device_idx,
            use_amp,
            step_mode=step_mode,
        )
        self._set_experiment(
            project_name,
            experiment_name,
            local_model_result_folder_path,
            hyperparams,
            cloud_save_mode,
            bucket_name,
            cloud_dir_prefix,
            source_dirs,
        )
        self._save_checkpoints(
            rm_subopt_local_models, num_best_checkpoints_kept, iteration_save_freq
        )


class TrainLoopEndSave(_TrackingLoop):
    """Is a TrainLoop that evaluates the final model, and saves it with the results.

    Args:
        model: As in `TrainLoopCheckpoint`; so are all but the two packages.
        train_loader: Gives the batches of training.
        validation_loader: Gives those of the evaluation after each epoch.
        test_loader: Gives those of the evaluation at the end.
        optimizer: The optimizer, or a `MultiOptimizer`; it has a `state_dict`.
        criterion: Handed to the model's `get_loss`.
        project_name: The folder of the project.
        experiment_name: The name of the experiment.
        local_model_result_folder_path: Where the project's folder is.
        hyperparams: Saved as a table and with the model; it is not changed.
        val_result_package: Evaluated on the validation data at the end; None leaves it out.
        test_result_package: Evaluated on the test data at the end; None leaves it out.
        cloud_save_mode: Where else to save.
        bucket_name: The bucket there.
        cloud_dir_prefix: The folder in the bucket.
        source_dirs: Folders of source code to save.
        collate_batch_pred_fn: As in `TrainLoop`; so are the next eight.
        pred_transform_fn: Makes the predictions for a loader.
        end_auto_eval: Whether the losses of all loaders are evaluated.
        lazy_experiment_save: Whether a folder is made only when there is something to save.
        print_callbacks: Whether `fit` lists the callbacks.
        gpu_mode: "single" or "dp".
        cuda_device_idx: Which GPU.
        use_amp: Mixed precision in fp16.
        step_mode: How a step is executed.

    Raises:
        ValueError: There is no result package, or one without its loader.
        TypeError: A result package is something else.
        AttributeError: The optimizer has no `state_dict`; raised when `fit` starts.
    """

    def __init__(
        self,
        model: Any,
        train_loader: Any,
        validation_loader: Any,
        test_loader: Any,
        optimizer: Any,
        criterion: Any,
        project_name: str,
        experiment_name: str,
        local_model_result_folder_path: str | os.PathLike[str],
        hyperparams: dict[str, Any],
        val_result_package: AbstractResultPackage | None = None,
        test_result_package: AbstractResultPackage | None = None,
        cloud_save_mode: str | None = None,
        bucket_name: str = "model-result",
        cloud_dir_prefix: str = "",
        source_dirs: tuple[str, ...] | list[str] = (),
        collate_batch_pred_fn: Callable[..., Any] = append_predictions,
        pred_transform_fn: Callable[..., Any] = torch_cat_transf,
        end_auto_eval: bool | int = True,
        lazy_experiment_save: bool = False,
        print_callbacks: bool = False,
        gpu_mode: str = "single",
        cuda_device_idx: int | None = None,
        use_amp: bool | dict[str, Any] = False,
        *,
        step_mode: StepMode = "eager",
    ) -> None:
        super().__init__(
            model,
            train_loader,
            validation_loader,
            test_loader,
            optimizer,
            criterion,
            collate_batch_pred_fn,
            pred_transform_fn,
            end_auto_eval,
            lazy_experiment_save,
            print_callbacks,
            gpu_mode,
            cuda_device_idx,
            use_amp,
            step_mode=step_mode,
        )
        self._set_experiment(
            project_name,
            experiment_name,
            local_model_result_folder_path,
            hyperparams,
            cloud_save_mode,
            bucket_name,
            cloud_dir_prefix,
            source_dirs,
        )
        _check_loader("val_result_package", val_result_package, validation_loader)
        _check_loader("test_result_package", test_result_package, test_loader)
        saving = ModelTrainEndSave(
            project_name,
            experiment_name,
            self.local_model_result_folder_path,
            self.hyperparams,
            val_result_package,
            test_result_package,
            cloud_save_mode,
            bucket_name,
            cloud_dir_prefix,
        )
        self.val_result_package = saving.val_result_package
        self.test_result_package = saving.test_result_package
        self.callbacks_handler.register_callbacks([saving], cache_callbacks=True)


class TrainLoopCheckpointEndSave(TrainLoopEndSave):
    """Is a TrainLoop that saves after every epoch, and evaluates and saves at the end.

    Args:
        model: As in `TrainLoopEndSave` and `TrainLoopCheckpoint`, which it joins.
        train_loader: Gives the batches of training.
        validation_loader: Gives those of the evaluation after each epoch.
        test_loader: Gives those of the evaluation at the end.
        optimizer: The optimizer, or a `MultiOptimizer`; it has a `state_dict`.
        criterion: Handed to the model's `get_loss`.
        project_name: The folder of the project.
        experiment_name: The name of the experiment.
        local_model_result_folder_path: Where the project's folder is.
        hyperparams: Saved as a table and with the model; it is not changed.
        val_result_package: Evaluated on the validation data at the end; None leaves it out.
        test_result_package: Evaluated on the test data at the end; None leaves it out.
        cloud_save_mode: Where else to save.
        bucket_name: The bucket there.
        cloud_dir_prefix: The folder in the bucket.
        source_dirs: Folders of source code to save.
        rm_subopt_local_models: Keep the best models alone (see `ModelCheckpoint`).
        num_best_checkpoints_kept: How many those are.
        iteration_save_freq: Save every so many batches in place of every epoch; 0 does not.
        collate_batch_pred_fn: As in `TrainLoop`; so are the next eight.
        pred_transform_fn: Makes the predictions for a loader.
        end_auto_eval: Whether the losses of all loaders are evaluated.
        lazy_experiment_save: Whether a folder is made only when there is something to save.
        print_callbacks: Whether `fit` lists the callbacks.
        gpu_mode: "single" or "dp".
        cuda_device_idx: Which GPU.
        use_amp: Mixed precision in fp16.
        step_mode: How a step is executed.

    Raises:
        ValueError: A number is out of its range; there is no result package, or one without its
            loader.
        TypeError: A result package is something else.
        AttributeError: The optimizer has no `state_dict`; raised when `fit` starts.
    """

    def __init__(
        self,
        model: Any,
        train_loader: Any,
        validation_loader: Any,
        test_loader: Any,
        optimizer: Any,
        criterion: Any,
        project_name: str,
        experiment_name: str,
        local_model_result_folder_path: str | os.PathLike[str],
        hyperparams: dict[str, Any],
        val_result_package: AbstractResultPackage | None = None,
        test_result_package: AbstractResultPackage | None = None,
        cloud_save_mode: str | None = None,
        bucket_name: str = "model-result",
        cloud_dir_prefix: str = "",
        source_dirs: tuple[str, ...] | list[str] = (),
        rm_subopt_local_models: bool | str = False,
        num_best_checkpoints_kept: int = 2,
        iteration_save_freq: int = 0,
        collate_batch_pred_fn: Callable[..., Any] = append_predictions,
        pred_transform_fn: Callable[..., Any] = torch_cat_transf,
        end_auto_eval: bool | int = True,
        lazy_experiment_save: bool = False,
        print_callbacks: bool = False,
        gpu_mode: str = "single",
        cuda_device_idx: int | None = None,
        use_amp: bool | dict[str, Any] = False,
        *,
        step_mode: StepMode = "eager",
    ) -> None:
        super().__init__(
            model,
            train_loader,
            validation_loader,
            test_loader,
            optimizer,
            criterion,
            project_name,
            experiment_name,
            local_model_result_folder_path,
            hyperparams,
            val_result_package,
            test_result_package,
            cloud_save_mode,
            bucket_name,
            cloud_dir_prefix,
            source_dirs,
            collate_batch_pred_fn,
            pred_transform_fn,
            end_auto_eval,
            lazy_experiment_save,
            print_callbacks,
            gpu_mode,
            cuda_device_idx,
            use_amp,
            step_mode=step_mode,
        )
        self._save_checkpoints(
            rm_subopt_local_models, num_best_checkpoints_kept, iteration_save_freq
        )


def _check_loader(name: str, package: object, loader: object) -> None:
    if package is not None and loader is None:
        data = "validation" if name.startswith("val") else "test"
        raise ValueError(
            f"{name} is given, and there is no {data} loader to evaluate it on. Give both, or "
            "neither."
        )
