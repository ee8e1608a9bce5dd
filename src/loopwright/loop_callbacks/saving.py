"""Callbacks that save a TrainLoop's model: after epochs, between them, and at the end."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from loopwright.experiment_folder import ExperimentFolder
from loopwright.loop_callbacks.base import AbstractCallback
from loopwright.results import AbstractResultPackage
from loopwright.tracking import (
    HyperParamSourceReporter,
    LocalSubOptimalModelRemover,
    make_experiment_saver,
    make_model_saver,
)
from loopwright.tracking.model_files import model_file_name
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
        folder = self.local_model_result_folder_path
        where = cloud_save_mode, bucket_name, cloud_dir_prefix, folder
        self._uploader = make_uploader(*where)
        self._saver = make_model_saver(*where, checkpoint_model=True)

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
        folder = self._folder
        reporter = HyperParamSourceReporter(
            folder.project_name,
            folder.experiment_name,
            folder.experiment_timestamp,
            folder.local_model_result_folder_path,
        )
        paths = (
            reporter.save_hyperparams_to_text_file(self.hyperparams),
            reporter.save_experiment_python_file(self.hyperparams),
            reporter.save_experiment_source_files(self.hyperparams),
        )
        if self._uploader is not None:
            for path in (Path(path) for path in paths if path is not None):
                self._uploader.upload(path, folder.relative(path))

    def save_interrupted(self) -> Path:
        """Save a checkpoint because a signal ends training, and return its path."""
        loop = self.train_loop_obj
        iteration = loop.total_iteration_idx if loop.is_inside_epoch else None
        path = self._checkpoint_path(iteration)
        if iteration is not None or not path.exists():
            self._save_checkpoint(iteration)
        return path

    @property
    def _folder(self) -> ExperimentFolder:
        """The folder of the experiment."""
        return ExperimentFolder(
            self.project_name,
            self.experiment_name,
            self.train_loop_obj.experiment_timestamp,
            self.local_model_result_folder_path,
        )

    def _checkpoint_path(self, iteration_idx: int | None) -> Path:
        """Return where the model of this epoch, or of a batch in it, is saved."""
        loop, folder = self.train_loop_obj, self._folder
        about = (self.experiment_name, loop.experiment_timestamp, loop.epoch, iteration_idx)
        return folder.checkpoints / model_file_name(*about)

    def _save_checkpoint(self, iteration_idx: int | None) -> None:
        self._save_hyperparams()
        loop = self.train_loop_obj
        self._saver.save_model(
            loop.checkpoint_content(self.hyperparams),
            self.project_name,
            self.experiment_name,
            experiment_timestamp=loop.experiment_timestamp,
            epoch=loop.epoch,
            iteration_idx=iteration_idx,
        )


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
        metric = "loss" if rm_subopt_local_models is True else rm_subopt_local_models
        self._remover = metric and LocalSubOptimalModelRemover(metric, num_best_checkpoints_kept)
        self._undecided: list[str] = []
        """Models of this epoch, which are ranked when its metrics are known."""

    def on_epoch_end(self) -> None:
        """Save, and remove what is no longer among the best."""
        self._save()
        self._keep_best()

    def _save(self, iteration_idx: int | None = None) -> None:
        self._undecided.append(str(self._checkpoint_path(iteration_idx)))
        self._save_checkpoint(iteration_idx)

    def _keep_best(self) -> None:
        paths, self._undecided = self._undecided, []
        if self._remover and paths:
            history = self.train_loop_obj.train_history
            self._remover.decide_if_remove_suboptimal_model(history, paths)

    def state_dict(self) -> dict[str, Any]:
        """Return the names of the models that retention has to decide on."""
        kept = self._remover.model_save_history if self._remover else []
        return {
            "kept": [[_names(paths), value] for paths, value in kept],
            "undecided": _names(self._undecided),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on deciding on those that are in this experiment's folder.

        Those of an experiment that this one goes on from stay: they are in a folder of their own.
        """
        folder = self._folder.checkpoints

        def here(names: list[str]) -> list[str]:
            paths = (folder / Path(name).name for name in names)
            return [str(path) for path in paths if path.exists()]

        self._undecided = here(state["undecided"])
        if self._remover:
            kept = [(here(names), value) for names, value in state["kept"]]
            self._remover.model_save_history = [each for each in kept if each[0]]
        if self._undecided and not self.train_loop_obj.is_inside_epoch:
            self._keep_best()


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

    def on_batch_end(self) -> None:
        """Save when it is due and no gradients wait."""
        loop = self.train_loop_obj
        index = loop.total_iteration_idx
        self._is_due |= index > 0 and index % self.save_frequency == 0
        if self._is_due and loop.should_execute_optimizer_update():
            self._is_due = False
            self._save(iteration_idx=index)

    def on_epoch_end(self) -> None:
        """Remove what is no longer among the best."""
        self._keep_best()


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
        self._experiment_saver = make_experiment_saver(
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
        """Save the model, then evaluate it, which can fail, and save the results."""
        self._save_hyperparams()
        loop, saver = self.train_loop_obj, self._experiment_saver
        where = self.project_name, self.experiment_name, loop.experiment_timestamp
        saver.model_saver.save_model(loop.checkpoint_content(self.hyperparams), *where)
        evaluated = [
            self._evaluate(package, kind, suffix)
            for package, kind, suffix in (
                (self.test_result_package, "test", "_TEST"),
                (self.val_result_package, "validation", "_VAL"),
            )
            if package is not None
        ]
        self.result_package = evaluated[0] if len(evaluated) == 1 else evaluated[0] + evaluated[1]
        saver.results_saver.save_experiment_results(
            self.result_package, loop.train_history, *where, save_true_pred_labels=True
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


def _names(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


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
