"""Training in a project: the class that makes a trainer, fits it, and saves what comes of it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from loopwright.errors import ConfigurationError
from loopwright.exports import load_export, save_export
from loopwright.extras import require_installed
from loopwright.project.data import _missing
from loopwright.project.exporting import NEEDED, export_onnx, export_pt2
from loopwright.project.settings import METRICS_CONFIG, TRAINER_CONFIG
from loopwright.project.trainer import metrics_of
from loopwright.states import check_fits


class Train:
    """Fits a model on a data module.

    A subclass implements `execute`, which makes `self.trainer` of `trainer_config` and fits it.

    Args:
        trainer_config: arguments of the trainer.
        model_config: see `MODEL_CONFIG`.
        train_dataset: the training set.
        validation_dataset: the validation set.
        model: the module to train.
        data_module: holds both sets.
        save_path: the folder of the run.
        metrics_config: which metrics the report of the validation set holds.

    Raises:
        ConfigurationError: there is no training or no validation set.
        MissingExtraError: what `save_checkpoint_as_onnx` needs is not installed.
    """

    trainer_keys: ClassVar[Collection[str] | None] = TRAINER_CONFIG.keys()
    """What `trainer_config` may hold; None leaves that to the engine."""

    def __init__(
        self,
        trainer_config: Mapping[str, Any],
        model_config: Mapping[str, Any],
        train_dataset: Any,
        validation_dataset: Any,
        model: Any,
        data_module: Any,
        save_path: str | Path,
        metrics_config: Mapping[str, bool] | None = None,
    ) -> None:
        for name, dataset in (("training", train_dataset), ("validation", validation_dataset)):
            if dataset is None:
                raise ConfigurationError(
                    f"There is no {name} set, and training needs one. Give its path to Main, or "
                    "leave all paths out to have the data set divided."
                )
        if model_config.get("save_checkpoint_as_onnx"):
            require_installed(NEEDED, "onnx")  # which would be missed after the training
        self.trainer_config = dict(trainer_config)
        self.model_config = model_config
        self.train_dataset = train_dataset
        self.validation_dataset = validation_dataset
        self.model = model
        self.data_module = data_module
        self.save_path = Path(save_path)
        self.metrics_config = METRICS_CONFIG if metrics_config is None else metrics_config
        self.resume: str | None = None
        """What `fit` goes on from: "latest", or None for a new run."""
        self.trainer: Any = None

    def execute(self) -> None:
        """Make `self.trainer`, and fit `self.model` with it on `self.data_module`."""
        raise NotImplementedError(_missing(self, "execute"))

    def get_trainer(self) -> Any:
        """Return the trainer that was made."""
        return self.trainer

    def save_models(self) -> dict[str, str]:
        """Save the last model and export the best one, as `model_config` says (D-36).

        The report of the validation set is written too (D-72).

        Returns:
            The names of the files below `save_path`, by "best", "last", "onnx" and "pt2".
        """
        saved: dict[str, str] = {}
        checkpoint = self.trainer.checkpoint_callback
        if checkpoint is not None and checkpoint.best_model_path:
            saved["best"] = str(checkpoint.best_model_path)
        if checkpoint is not None and checkpoint.last_model_path:
            saved["last"] = str(checkpoint.last_model_path)
        if self.model_config["save_last_model"]:
            path = self.save_path / f"{self.model_config['model_name']}.pt"
            save_export({"model_state_dict": self.model.state_dict()}, path)
            saved["last"] = str(path)
        loader = self.data_module.val_dataloader
        metrics = metrics_of(
            self.trainer, self.model, loader, self.metrics_config, self.model_config
        )
        metrics.write_report(self.save_path, "val")
        best = saved.get("best", saved.get("last"))
        if best is not None:
            saved.update(self._export(best))
        return {name: path_below(path, self.save_path) for name, path in saved.items()}

    def _export(self, path: str) -> dict[str, str]:
        kinds = {"onnx": export_onnx, "pt2": export_pt2}
        wanted = [kind for kind in kinds if self.model_config[f"save_checkpoint_as_{kind}"]]
        if not wanted:
            return {}
        last = {name: value.clone() for name, value in self.model.state_dict().items()}
        load_weights(self.model, path)
        sample = next(iter(self.train_dataset))[0][None]
        try:
            return {
                kind: str(kinds[kind](self.model, sample, self.save_path / f"best.{kind}"))
                for kind in wanted
            }
        finally:
            self.model.load_state_dict(last)


def load_weights(model: Any, path: str | Path) -> None:
    """Load the weights of a `.pt` file, or of a `.ckpt` of Lightning, executing nothing.

    Raises:
        ConfigurationError: there is no such file.
        CheckpointError: it is damaged, or its weights do not fit the model.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"There is no model {path}. Check model_path.")
    content = load_export(path)
    weights = content.get("model_state_dict", content.get("state_dict"))
    check_fits(model, weights, f"weights of {path}")
    assert weights is not None
    model.load_state_dict(weights)


def path_below(path: str | Path, folder: Path) -> str:
    """Return a path as seen from a folder that it lies in, else the whole path."""
    whole, folder = Path(path).resolve(), folder.resolve()
    return str(whole.relative_to(folder) if whole.is_relative_to(folder) else whole)
