"""Callbacks that save a TrainLoop's model: after epochs, between them, and at the end."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from loopwright.loop_callbacks.base import AbstractCallback
from loopwright.results import AbstractResultPackage
from loopwright.tracking import (
    HyperParamSourceReporter,
    LocalSubOptimalModelRemover,
    make_experiment_saver,
    make_model_saver,
)
from loopwright.tracking.uploads import make_uploader


class _Saves(AbstractCallback):
    """Saves the hyperparameters and the source beside the model."""

    def __init__(
        self,
        callback_name: str,
        project_name: str,
        experiment_name: str,
        local_model_result_folder_path: str | os.PathLike[str],
        hyperparams: dict[str, Any],
        cloud_save_mode: str | None,
        bucket_name: str,
        cloud_dir_prefix: str,
        execution_order: int,
    ) -> None:
        super().__init__(callback_name, execution_order, device_idx_execution=0)
        self.project_name = project_name
        self.experiment_name = experiment_name
        self.local_model_result_folder_path = os.path.expanduser(local_model_result_folder_path)
        self.cloud_save_mode = cloud_save_mode
        self.bucket_name = bucket_name
        self.cloud_dir_prefix = cloud_dir_prefix
        self.hyperparams = hyperparams
        self._has_saved_hyperparams = False

    def on_train_loop_registration(self) -> None:
        """Refuse an optimizer that cannot be saved.

        Raises:
            AttributeError: It has no `state_dict`.
        """
        optimizer = self.train_loop_obj.optimizer
        if not hasattr(optimizer, "state_dict"):
            raise AttributeError(
                f"The optimizer, a {type(optimizer).__name__}, has no state_dict(), so it cannot "
                "be saved. Give it one, or use TrainLoop, which saves nothing."
            )
        if not self.train_loop_obj.lazy_experiment_save:
            self._save_hyperparams()

    def _save_hyperparams(self) -> None:
        """Save them once, with the experiment's source."""
        if self._has_saved_hyperparams:
            return
        self._has_saved_hyperparams = True
        root = self.local_model_result_folder_path
        timestamp = self.train_loop_obj.experiment_timestamp
        reporter = HyperParamSourceReporter(
            self.project_name, self.experiment_name, timestamp, root
        )
        paths = (
            reporter.save_hyperparams_to_text_file(self.hyperparams),
            reporter.save_experiment_python_file(self.hyperparams),
            reporter.save_experiment_source_files(self.hyperparams),
        )
        uploader = make_uploader(self.cloud_save_mode, self.bucket_name, self.cloud_dir_prefix)
        if uploader is not None:
            for path in (Path(path) for path in paths if path is not None):
                uploader.upload(path, path.relative_to(root).as_posix())


class ModelCheckpoint(_Saves):
    """Saves the model after every epoch.

    Args:
        project_name: The folder of the project.
        experiment_name: The name of the experiment.
        local_model_result_folder_path: Where the project's folder is; `~` is expanded.
        hyperparams: Saved with the model.
        cloud_save_mode: Where else (see `TrainLoopCheckpoint`).
        bucket_name: The bucket there.
        cloud_dir_prefix: The folder in the bucket.
        rm_subopt_local_models: Keep the best models alone: those of the lowest "loss" for True,
            else by the metric of this name, lower being better where the name holds "loss".
        num_best_checkpoints_kept: How many those are.
    """

    def __init__(
        self,
        project_name: str,
        experiment_name: str,
        local_model_result_folder_path: str | os.PathLike[str],
        hyperparams: dict[str, Any],
        cloud_save_mode: str | None = None,
        bucket_name: str = "model-result",
        cloud_dir_prefix: str = "",
        rm_subopt_local_models: bool | str = False,
        num_best_checkpoints_kept: int = 2,
    ) -> None:
        super().__init__(
            "Saves the model after each epoch",
            project_name,
            experiment_name,
            local_model_result_folder_path,
            hyperparams,
            cloud_save_mode,
            bucket_name,
            cloud_dir_prefix,
            execution_order=100,
        )
        self.rm_subopt_local_models = rm_subopt_local_models
        self._saver = make_model_saver(
            cloud_save_mode,
            bucket_name,
            cloud_dir_prefix,
            self.local_model_result_folder_path,
            checkpoint_model=True,
        )
        metric = "loss" if rm_subopt_local_models is True else rm_subopt_local_models
        self._remover = metric and LocalSubOptimalModelRemover(metric, num_best_checkpoints_kept)

    def on_epoch_end(self) -> None:
        """Save, and remove what is no longer among the best."""
        self._keep_best([self._save()])

    def _save(self, iteration_idx: int | None = None) -> str:
        self._save_hyperparams()
        loop = self.train_loop_obj
        _, path = self._saver.save_model(
            loop.checkpoint_content(self.hyperparams),
            self.project_name,
            self.experiment_name,
            experiment_timestamp=loop.experiment_timestamp,
            epoch=loop.epoch,
            iteration_idx=iteration_idx,
        )
        return str(path)

    def _keep_best(self, paths: list[str]) -> None:
        if self._remover and paths:
            history = self.train_loop_obj.train_history
            self._remover.decide_if_remove_suboptimal_model(history, paths)


class ModelIterationCheckpoint(ModelCheckpoint):
    """Saves the model every so many batches, in place of every epoch.

    With gradient accumulation it waits until the update that the batch is in is complete. Which of
    the models stay is decided when the epoch's metrics are known.

    Args:
        save_frequency: The number of batches.
        args: As in `ModelCheckpoint`.
        kwargs: As in `ModelCheckpoint`.

    Raises:
        ValueError: `save_frequency` is not positive.
    """

    def __init__(self, save_frequency: int, *args: Any, **kwargs: Any) -> None:
        if save_frequency < 1:
            raise ValueError(f"save_frequency is {save_frequency}; expected 1 or more batches.")
        super().__init__(*args, **kwargs)
        self.callback_name = f"Saves the model every {save_frequency} batches"
        self.save_frequency = save_frequency
        self._is_due = False
        self._paths: list[str] = []

    def on_batch_end(self) -> None:
        """Save when it is due and no gradients wait."""
        loop = self.train_loop_obj
        index = loop.total_iteration_idx
        self._is_due |= index > 0 and index % self.save_frequency == 0
        if self._is_due and loop.should_execute_optimizer_update():
            self._is_due = False
            self._paths.append(self._save(iteration_idx=index))

    def on_epoch_end(self) -> None:
        """Remove what is no longer among the best."""
        self._keep_best(self._paths)
        self._paths = []


class ModelTrainEndSave(_Saves):
    """Evaluates the final model with result packages, and saves it with the results.

    Args:
        project_name: As in `ModelCheckpoint`; so are the next three.
        experiment_name: The name of the experiment.
        local_model_result_folder_path: Where the project's folder is.
        hyperparams: Saved with the model.
        val_result_package: Evaluated on the validation data; None leaves it out.
        test_result_package: Evaluated on the test data; None leaves it out.
        cloud_save_mode: Where else (see `TrainLoopCheckpoint`).
        bucket_name: The bucket there.
        cloud_dir_prefix: The folder in the bucket.

    Raises:
        ValueError: There is no result package.
        TypeError: One is no result package.
    """

    def __init__(
        self,
        project_name: str,
        experiment_name: str,
        local_model_result_folder_path: str | os.PathLike[str],
        hyperparams: dict[str, Any],
        val_result_package: AbstractResultPackage | None = None,
        test_result_package: AbstractResultPackage | None = None,
        cloud_save_mode: str | None = None,
        bucket_name: str = "model-result",
        cloud_dir_prefix: str = "",
    ) -> None:
        _check_packages(
            val_result_package=val_result_package, test_result_package=test_result_package
        )
        super().__init__(
            "Saves the model and its results at the end",
            project_name,
            experiment_name,
            local_model_result_folder_path,
            hyperparams,
            cloud_save_mode,
            bucket_name,
            cloud_dir_prefix,
            execution_order=101,
        )
        if test_result_package is val_result_package:
            test_result_package = deepcopy(test_result_package)
        self.val_result_package = val_result_package
        self.test_result_package = test_result_package
        self.result_package: AbstractResultPackage | None = None
        """The results, when training has ended."""
        self._saver = make_experiment_saver(
            cloud_save_mode,
            bucket_name,
            cloud_dir_prefix,
            project_name,
            experiment_name,
            self.local_model_result_folder_path,
        )

    def on_train_loop_registration(self) -> None:
        """Tell the packages where the experiment is."""
        super().on_train_loop_registration()
        for package in (self.val_result_package, self.test_result_package):
            if package is not None:
                package.set_experiment_dir_path_for_additional_results(
                    self.project_name,
                    self.experiment_name,
                    self.train_loop_obj.experiment_timestamp,
                    self.local_model_result_folder_path,
                )

    def on_train_end(self) -> None:
        """Evaluate and save."""
        self._save_hyperparams()
        loop = self.train_loop_obj
        evaluated = [
            self._evaluate(package, kind, suffix)
            for package, kind, suffix in (
                (self.test_result_package, "test", "_TEST"),
                (self.val_result_package, "validation", "_VAL"),
            )
            if package is not None
        ]
        self.result_package = evaluated[0] if len(evaluated) == 1 else evaluated[0] + evaluated[1]
        self._saver.save_experiment(
            loop.checkpoint_content(self.hyperparams),
            self.result_package,
            loop.train_history,
            experiment_timestamp=loop.experiment_timestamp,
            save_true_pred_labels=True,
        )

    def _evaluate(
        self, package: AbstractResultPackage, kind: str, suffix: str
    ) -> AbstractResultPackage:
        loop = self.train_loop_obj
        y_pred, y_true, additional = getattr(loop, f"predict_on_{kind}_set")()
        if package.requires_loss:
            evaluate = getattr(loop, f"evaluate_loss_on_{kind}_set")
            additional["loss"] = evaluate(float_dict_format=True)
        if not str(package.pkg_name).endswith(suffix):
            package.pkg_name = f"{package.pkg_name}{suffix}"
        package.prepare_result_package(
            y_true, y_pred, hyperparameters=self.hyperparams, additional_results=additional
        )
        return package


def _check_packages(**packages: Any) -> None:
    if all(package is None for package in packages.values()):
        raise ValueError(
            f"{' and '.join(packages)} are both None; give one of them, which says what is "
            "evaluated at the end."
        )
    for name, package in packages.items():
        if package is not None and not isinstance(package, AbstractResultPackage):
            kind = package.__name__ if isinstance(package, type) else type(package).__name__
            raise TypeError(
                f"{name} is {kind}; expected an instance of a subclass of "
                "loopwright.results.AbstractResultPackage."
            )
