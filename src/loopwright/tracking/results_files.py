"""Saving the results of an experiment as JSON, with labels beside it, and reading them back."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopwright.checkpoint import write_aside, write_text_aside
from loopwright.experiment_folder import ExperimentFolder, new_timestamp
from loopwright.extras import require_installed
from loopwright.plain_values import mask_secrets, read_number, to_plain
from loopwright.results.arrays import as_plain_lists, to_array
from loopwright.tracking.history_reports import TrainingHistoryPlotter
from loopwright.tracking.model_files import DEFAULT_FOLDER
from loopwright.tracking.uploads import Uploader

Saved = list[list[str]]
"""[name, path] pairs; names are paths below the experiment's `results/`."""

_AS_JSON = ":json"


class LocalResultsSaver:
    """Writes results, hyperparameters, history and plots to `results/` of their experiment.

    Args:
        local_model_result_folder_path: The root of all projects.
        file_format: "json".
        uploader: Gets each file that was written.

    Raises:
        ValueError: Another format is asked for.
        MissingExtraError: matplotlib is not installed, which would else show after training.
    """

    def __init__(
        self,
        local_model_result_folder_path: str | PathLike[str] = DEFAULT_FOLDER,
        file_format: str = "json",
        *,
        uploader: Uploader | None = None,
    ) -> None:
        if file_format != "json":
            raise ValueError(
                f"file_format is {file_format!r}; only 'json' is written, since loading a pickle "
                "executes code."
            )
        require_installed(["matplotlib"], extra="plots")
        self.local_model_result_folder_path = Path(local_model_result_folder_path).expanduser()
        self.uploader = uploader

    def save_experiment_results(
        self,
        result_package: Any,
        training_history: Any,
        project_name: str,
        experiment_name: str,
        experiment_timestamp: str | None = None,
        save_true_pred_labels: bool = False,
        protect_existing_folder: bool = True,
    ) -> Saved:
        """Write everything into `results_hyperParams_hist_EXPERIMENT_TIMESTAMP.json`.

        Args:
            result_package: An evaluated package.
            training_history: The history.
            project_name: The name of the project.
            experiment_name: The name of the experiment.
            experiment_timestamp: When it began; now by default.
            save_true_pred_labels: Whether labels and predictions go to an `.npz` beside it.
            protect_existing_folder: Nothing in a folder that exists is removed either way.

        Returns:
            What was written: the results first, then labels, the package's files and plots.
        """
        folder, stem = self._folder_and_stem(project_name, experiment_name, experiment_timestamp)
        content = {
            **self._about(folder),
            "results": result_package.get_results(),
            "hyperparameters": result_package.get_hyperparameters(),
            "training_history": training_history.get_train_history(),
            "report": _without_loss(result_package.report_dict, "report", {}),
        }
        name = f"results_hyperParams_hist_{stem}"
        saved: Saved = []
        if save_true_pred_labels:
            content["labels_file"] = f"{name}.npz"
            saved.append(_write_labels(folder.results / f"{name}.npz", result_package))
        saved.insert(0, _write_json(folder.results / f"{name}.json", content))
        return self._finish(folder, saved, result_package, training_history)

    def save_experiment_results_separate_files(
        self,
        result_package: Any,
        training_history: Any,
        project_name: str,
        experiment_name: str,
        experiment_timestamp: str | None = None,
        save_true_pred_labels: bool = False,
        protect_existing_folder: bool = True,
    ) -> Saved:
        """Write results, hyperparameters and history to a JSON file each; else as the other."""
        folder, stem = self._folder_and_stem(project_name, experiment_name, experiment_timestamp)
        parts: dict[str, dict[str, Any]] = {
            "results": {
                "results": result_package.get_results(),
                "report": _without_loss(result_package.report_dict, "report", {}),
            },
            "hyperparams": {"hyperparameters": result_package.get_hyperparameters()},
            "train_history": {"training_history": training_history.get_train_history()},
        }
        saved = [
            _write_json(folder.results / f"{part}_{stem}.json", {**self._about(folder), **content})
            for part, content in parts.items()
        ]
        if save_true_pred_labels:
            saved.append(_write_labels(folder.results / f"labels_{stem}.npz", result_package))
        return self._finish(folder, saved, result_package, training_history)

    def _folder_and_stem(
        self, project_name: str, experiment_name: str, experiment_timestamp: str | None
    ) -> tuple[ExperimentFolder, str]:
        timestamp = experiment_timestamp or new_timestamp()
        root = self.local_model_result_folder_path
        folder = ExperimentFolder(project_name, experiment_name, timestamp, root)
        return folder, f"{experiment_name}_{timestamp}"

    @staticmethod
    def _about(folder: ExperimentFolder) -> dict[str, Any]:
        return {
            "experiment_name": folder.experiment_name,
            "experiment_results_local_path": str(folder.results),
        }

    def _finish(
        self, folder: ExperimentFolder, saved: Saved, result_package: Any, training_history: Any
    ) -> Saved:
        """Add plots and the package's own files, and upload all."""

        def draw() -> Saved:
            drawn = TrainingHistoryPlotter(folder.results).generate_report(training_history)
            plotted = result_package.save_plots(folder.results / "plots")
            return drawn + [[f"plots/{path.name}", str(path)] for path in plotted]

        saved += result_package.get_additional_results_dump_paths() or []
        saved += _without_loss(draw, "plots", [])
        if self.uploader is not None:
            below = folder.relative(folder.results)
            for name, path in saved:
                self.uploader.upload(Path(path), f"{below}/{name}")
        return saved


def load_results(path: str | PathLike[str]) -> dict[str, Any]:
    """Read saved results, with `y_true` and `y_predicted` where they were saved.

    Args:
        path: The file `results_hyperParams_hist_EXPERIMENT_TIMESTAMP.json`.

    Returns:
        What was saved; numbers that are not finite are numbers again. Labels of a wrapper of
        packages are dicts by the packages' names.
    """
    path = Path(path)
    content: dict[str, Any] = _read_numbers(json.loads(path.read_text(encoding="utf-8")))
    name = content.get("labels_file")
    if name is None:
        return content
    if Path(name).name != name:
        raise ValueError(f"{path} names labels outside of its folder: {name!r}.")
    return content | _read_labels(path.with_name(name))


def _without_loss(make: Callable[[], Any], what: str, otherwise: Any) -> Any:
    """Return what is made; where that fails, warn and save the results without it."""
    try:
        return make()
    except Exception as error:  # training has ended: nothing here is worth losing its results
        warnings.warn(f"The results are saved without {what}: {error}", stacklevel=4)
        return otherwise


def _write_json(path: Path, content: Mapping[str, Any]) -> list[str]:
    plain = mask_secrets(to_plain(as_plain_lists(content)))
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    write_text_aside(path, f"{text}\n")
    return [path.name, str(path)]


def _write_labels(path: Path, result_package: Any) -> list[str]:
    arrays: dict[str, NDArray[Any]] = {}
    for side in ("y_true", "y_predicted"):
        values = getattr(result_package, side)
        parts = values.items() if isinstance(values, dict) else [(None, values)]
        for name, part in parts:
            if part is not None:
                key, array = _storable(side if name is None else f"{side}/{name}", part)
                arrays[key] = array

    def write(aside: Path) -> None:
        with aside.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_aside(path, write)
    return [path.name, str(path)]


def _storable(key: str, values: Any) -> tuple[str, NDArray[Any]]:
    """Return an array that needs no pickle; rows of different lengths become JSON."""
    try:
        array = to_array(values)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind != "O":
        return key, array
    return f"{key}{_AS_JSON}", np.asarray(json.dumps(to_plain(as_plain_lists(list(values)))))


def _read_labels(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            values = arrays[key]
            if key.endswith(_AS_JSON):
                key, values = key.removesuffix(_AS_JSON), json.loads(str(values))
            side, _, name = key.partition("/")
            if name:
                found.setdefault(side, {})[name] = values
            else:
                found[side] = values
    return found


def _read_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _read_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_read_numbers(item) for item in value]
    return read_number(value)
