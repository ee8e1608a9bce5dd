"""Saving, loading and removing models in the folder of an experiment."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from loopwright.errors import CheckpointError
from loopwright.experiment_folder import ExperimentFolder, new_timestamp
from loopwright.exports import save_export
from loopwright.tracking.uploads import Uploader

REQUIRED = ("model_state_dict", "optimizer_state_dict", "epoch", "hyperparams")
DEFAULT_FOLDER = "~/project/model_result"


class PyTorchLocalModelSaver:
    """Writes models to `model/`, or to `checkpoint_model/`, of their experiment.

    Args:
        local_model_result_folder_path: The root of all projects.
        checkpoint_model: Whether models go to `checkpoint_model/`.
        uploader: Gets each file that was written.
    """

    def __init__(
        self,
        local_model_result_folder_path: str | PathLike[str] = DEFAULT_FOLDER,
        checkpoint_model: bool = False,
        *,
        uploader: Uploader | None = None,
    ) -> None:
        self.local_model_result_folder_path = Path(local_model_result_folder_path).expanduser()
        self.checkpoint_model = checkpoint_model
        self.uploader = uploader

    def save_model(
        self,
        model: Mapping[str, Any],
        project_name: str,
        experiment_name: str,
        experiment_timestamp: str | None = None,
        epoch: int | None = None,
        iteration_idx: int | None = None,
        protect_existing_folder: bool = True,
    ) -> tuple[str, str]:
        """Write a model as a file that loads with `weights_only`, whole or not at all.

        Args:
            model: `model_state_dict`, `optimizer_state_dict`, `epoch`, `hyperparams` and more.
            project_name: The name of the project.
            experiment_name: The name of the experiment.
            experiment_timestamp: When it began; now by default.
            epoch: Names the file of an epoch; None is the final model.
            iteration_idx: Names the file of a batch of that epoch.
            protect_existing_folder: Nothing in a folder that exists is removed either way.

        Returns:
            The name of the file and its path.

        Raises:
            ValueError: The dict lacks an entry.
            CheckpointError: An entry is of a type that a safe load refuses.
        """
        self.check_model_dict_contents(model)
        timestamp = experiment_timestamp or new_timestamp()
        folder = ExperimentFolder(
            project_name, experiment_name, timestamp, self.local_model_result_folder_path
        )
        name = model_file_name(experiment_name, timestamp, epoch, iteration_idx)
        path = (folder.checkpoints if self.checkpoint_model else folder.model) / name
        save_export(dict(model), path)
        if self.uploader is not None:
            self.uploader.upload(path, folder.relative(path))
        return name, str(path)

    @staticmethod
    def check_model_dict_contents(model: Mapping[str, Any]) -> None:
        """Raise a `ValueError` that names what a model's dict lacks."""
        missing = [name for name in REQUIRED if name not in model]
        if missing:
            raise ValueError(
                f"The model's dict lacks {', '.join(missing)}; it has {', '.join(model)}. Save "
                "what TrainLoop.checkpoint_content returns, or add these entries."
            )


def model_file_name(
    experiment_name: str,
    experiment_timestamp: str,
    epoch: int | None = None,
    iteration_idx: int | None = None,
) -> str:
    """Return model_EXPERIMENT_TIMESTAMP[_E<epoch>[_ITER<n>]].pth; epochs count from 0."""
    name = f"model_{experiment_name}_{experiment_timestamp}"
    if epoch is not None:
        name += f"_E{epoch}"
        name += "" if iteration_idx is None else f"_ITER{iteration_idx}"
    return f"{name}.pth"


class PyTorchLocalModelLoader:
    """Reads what `PyTorchLocalModelSaver` wrote, executing nothing.

    Args:
        local_model_result_folder_path: The root of all projects.
    """

    def __init__(self, local_model_result_folder_path: str | PathLike[str]) -> None:
        self.local_model_result_folder_path = Path(local_model_result_folder_path).expanduser()
        self.model_representation: dict[str, Any] | None = None

    def load_model(
        self,
        project_name: str,
        experiment_name: str,
        experiment_timestamp: str,
        model_save_dir: str = "checkpoint_model",
        epoch_num: int | None = None,
        map_location: Any = None,
    ) -> dict[str, Any]:
        """Return the dict of a saved model and keep it for the `init_` methods.

        Args:
            project_name: The name of the project.
            experiment_name: The name of the experiment.
            experiment_timestamp: When it began.
            model_save_dir: "checkpoint_model" or "model".
            epoch_num: The epoch, from 0; None takes the final model, else the newest checkpoint.
            map_location: The device of the tensors; the CPU by default.

        Raises:
            FileNotFoundError: There is no such file; the message says which there are.
            CheckpointError: The file is no saved model, or holds what only code could load.
        """
        folder = ExperimentFolder(
            project_name,
            experiment_name,
            experiment_timestamp,
            self.local_model_result_folder_path,
        )
        name = model_file_name(experiment_name, experiment_timestamp, epoch_num)
        models = folder.path / model_save_dir
        if epoch_num is None:
            name = newest_model((path.name for path in models.glob("*.pth")), name) or name
        if not (models / name).exists():
            present = ", ".join(sorted(path.name for path in models.glob("*.pth"))) or "no models"
            raise FileNotFoundError(f"There is no {name} in {models}. There are: {present}.")
        return self.load_model_from_path(models / name, map_location)

    def load_model_from_path(
        self, model_path: str | PathLike[str], map_location: Any = None
    ) -> dict[str, Any]:
        """Return the dict of a file, as `load_model` does."""
        try:
            content = torch.load(model_path, map_location=map_location or "cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:  # torch raises several kinds for a damaged or an unsafe file
            raise CheckpointError(
                f"{model_path} cannot be read without executing code, or is damaged: {error}"
            ) from None
        missing = [name for name in REQUIRED if name not in content]
        if missing:
            raise CheckpointError(f"{model_path} is no saved model: it lacks {', '.join(missing)}.")
        content.setdefault("schedulers_state_dict", [])
        self.model_representation = content
        return dict(content)

    def check_if_model_loaded(self) -> dict[str, Any]:
        """Return the dict that was loaded.

        Raises:
            ValueError: None was.
        """
        if self.model_representation is None:
            raise ValueError("No model was loaded yet. Call load_model first.")
        return self.model_representation

    def init_model(
        self, model: torch.nn.Module, used_data_parallel: bool = False
    ) -> torch.nn.Module:
        """Load the weights into a model and return it.

        Args:
            model: The model.
            used_data_parallel: Whether the saved one was wrapped, so that names begin with
                `module.`, which is taken off.
        """
        weights = self.check_if_model_loaded()["model_state_dict"]
        if used_data_parallel:
            weights = {name.removeprefix("module."): value for name, value in weights.items()}
        model.load_state_dict(weights)
        return model

    def init_optimizer(self, optimizer: Any, device: Any = None) -> Any:
        """Load the state of an optimizer, onto the devices of its parameters, and return it."""
        optimizer.load_state_dict(self.check_if_model_loaded()["optimizer_state_dict"])
        return optimizer

    def init_scheduler(
        self,
        scheduler_callbacks_list: Sequence[Any],
        ignore_saved: bool = False,
        ignore_missing_saved: bool = False,
    ) -> Sequence[Any]:
        """Load the states of schedulers, in order, and return these.

        Args:
            scheduler_callbacks_list: What `TrainLoop.get_schedulers` returns.
            ignore_saved: Whether saved states may stay unused.
            ignore_missing_saved: Whether schedulers may stay as they are.

        Raises:
            KeyError: There are schedulers and no saved states.
            ValueError: There are saved states and no schedulers, or another number of them.
        """
        saved, given = (
            self.check_if_model_loaded()["schedulers_state_dict"],
            scheduler_callbacks_list,
        )
        if given and not saved:
            if ignore_missing_saved:
                return given
            raise KeyError(
                f"There are {len(given)} schedulers and no saved states of any. Pass "
                "ignore_missing_saved_schedulers=True to start them anew."
            )
        if saved and not given:
            if ignore_saved:
                return given
            raise ValueError(
                f"There are {len(saved)} saved schedulers and none in the loop. Add them, or pass "
                "ignore_saved_schedulers=True."
            )
        if len(saved) != len(given):
            raise ValueError(f"There are {len(saved)} saved schedulers and {len(given)} given.")
        for scheduler, state in zip(given, saved, strict=True):
            scheduler.load_state_dict(state)
        return given

    def init_amp(self, amp_scaler: Any) -> Any:
        """Load the state of a gradient scaler and return it."""
        amp_scaler.load_state_dict(self.check_if_model_loaded()["amp"])
        return amp_scaler


def newest_model(present: Iterable[str], final: str) -> str | None:
    """Return the newest of the files present: the final model, else that of the highest epoch.

    Args:
        present: The names of files.
        final: The name of the final model. An epoch's own file comes after those of its batches.
    """
    present = list(present)
    if final in present:
        return final
    pattern = re.compile(re.escape(final.removesuffix(".pth")) + r"_E(\d+)(?:_ITER(\d+))?\.pth")
    found = [match for name in present if (match := pattern.fullmatch(name))]
    newest = max(
        found,
        key=lambda match: (int(match[1]), math.inf if match[2] is None else int(match[2])),
        default=None,
    )
    return newest and newest[0]


class LocalSubOptimalModelRemover:
    """Keeps the files of the best models and removes the others that it was told of.

    Args:
        metric_name: Of the training history; lower is better when the name holds "loss".
        num_best_kept: How many models are kept.
    """

    def __init__(self, metric_name: str, num_best_kept: int = 2) -> None:
        if num_best_kept < 1:
            raise ValueError(f"num_best_kept is {num_best_kept}; expected 1 or more.")
        self.metric_name = metric_name
        self.num_best_kept = num_best_kept
        self.decrease_metric = "loss" in metric_name
        self.model_save_history: list[tuple[list[str], float]] = []
        """The files of each model and its value, in the order of saving."""

    def decide_if_remove_suboptimal_model(
        self, history: Any, new_model_dump_paths: Sequence[str]
    ) -> None:
        """Take a model that was just saved, and remove the worst where there are too many.

        A model that was saved before the metric had a value, or with NaN, ranks last; of equal
        ones the newest stays.

        Args:
            history: The training history, whose latest value of the metric is the model's.
            new_model_dump_paths: The files of the model.
        """
        self.model_save_history.append((list(new_model_dump_paths), self._latest(history)))
        sign = -1 if self.decrease_metric else 1
        while len(self.model_save_history) > self.num_best_kept:
            ranks = [sign * value for _, value in self.model_save_history]
            worst = min(
                range(len(ranks)), key=lambda i: -math.inf if ranks[i] != ranks[i] else ranks[i]
            )
            paths, _ = self.model_save_history.pop(worst)
            self.rm_suboptimal_model(paths)

    def _latest(self, history: Any) -> float:
        if self.metric_name not in history or not history[self.metric_name]:
            return math.nan
        return float(history[self.metric_name][-1])

    @staticmethod
    def rm_suboptimal_model(rm_model_paths: Sequence[str]) -> None:
        """Remove files; those that are gone already are no error."""
        for path in rm_model_paths:
            Path(path).unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the models that are kept, for checkpoints."""
        return {"kept": [[paths, value] for paths, value in self.model_save_history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the models that `state_dict` returned."""
        self.model_save_history = [(list(paths), value) for paths, value in state["kept"]]
