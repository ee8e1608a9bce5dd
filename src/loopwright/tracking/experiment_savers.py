"""Saving a whole experiment: its model and its results, on the disk and in a cloud."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from loopwright.experiment_folder import new_timestamp
from loopwright.tracking.model_files import DEFAULT_FOLDER, PyTorchLocalModelSaver
from loopwright.tracking.results_files import LocalResultsSaver
from loopwright.tracking.uploads import Uploader, make_uploader


class FullPyTorchExperimentLocalSaver:
    """Writes the final model and the results of an experiment.

    Args:
        project_name: The name of the project.
        experiment_name: The name of the experiment.
        local_model_result_folder_path: The root of all projects.
        uploader: Gets each file that was written.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(
        self,
        project_name: str,
        experiment_name: str,
        local_model_result_folder_path: str | PathLike[str] = DEFAULT_FOLDER,
        *,
        uploader: Uploader | None = None,
    ) -> None:
        self.project_name = project_name
        self.experiment_name = experiment_name
        folder = local_model_result_folder_path
        self.model_saver = PyTorchLocalModelSaver(folder, uploader=uploader)
        self.results_saver = LocalResultsSaver(folder, uploader=uploader)

    def save_experiment(
        self,
        model: Mapping[str, Any],
        result_package: Any,
        training_history: Any,
        experiment_timestamp: str | None = None,
        save_true_pred_labels: bool = False,
        separate_files: bool = False,
        protect_existing_folder: bool = True,
    ) -> list[str]:
        """Write everything and return the paths, the model's first.

        Args:
            model: As in `PyTorchLocalModelSaver.save_model`.
            result_package: An evaluated package.
            training_history: The history.
            experiment_timestamp: When the experiment began; now by default.
            save_true_pred_labels: Whether labels and predictions are saved too.
            separate_files: Whether results, hyperparameters and history get a file each.
            protect_existing_folder: Nothing in a folder that exists is removed either way.
        """
        timestamp = experiment_timestamp or new_timestamp()
        where = self.project_name, self.experiment_name, timestamp
        _, model_path = self.model_saver.save_model(model, *where)
        saver = self.results_saver
        save = (
            saver.save_experiment_results_separate_files
            if separate_files
            else saver.save_experiment_results
        )
        saved = save(result_package, training_history, *where, save_true_pred_labels)
        return [model_path, *(path for _, path in saved)]


def make_model_saver(
    cloud_save_mode: str | None,
    bucket_name: str | None,
    cloud_dir_prefix: str | None,
    local_model_result_folder_path: str | PathLike[str],
    checkpoint_model: bool = False,
) -> PyTorchLocalModelSaver:
    """Return a saver that also uploads, where the mode says so."""
    folder = local_model_result_folder_path
    uploader = make_uploader(cloud_save_mode, bucket_name, cloud_dir_prefix, folder)
    return PyTorchLocalModelSaver(folder, checkpoint_model, uploader=uploader)


def make_experiment_saver(
    cloud_save_mode: str | None,
    bucket_name: str | None,
    cloud_dir_prefix: str | None,
    project_name: str,
    experiment_name: str,
    local_model_result_folder_path: str | PathLike[str],
) -> FullPyTorchExperimentLocalSaver:
    """Return a saver that also uploads, where the mode says so."""
    folder = local_model_result_folder_path
    uploader = make_uploader(cloud_save_mode, bucket_name, cloud_dir_prefix, folder)
    return FullPyTorchExperimentLocalSaver(project_name, experiment_name, folder, uploader=uploader)
