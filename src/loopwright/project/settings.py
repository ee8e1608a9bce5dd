"""The four dicts of a project's configuration: their defaults, and what they may hold."""

from collections.abc import Collection, Mapping
from typing import Any

from torch.nn import functional

from loopwright.errors import ConfigurationError
from loopwright.project.metrics import METRICS
from loopwright.registry import nearest_name

MODEL_CONFIG: dict[str, Any] = {
    "learning_rate": 1e-3,
    "loss_function": functional.cross_entropy,
    "batch_size": 32,
    "num_classes": None,
    "num_classes_conf_mat": None,
    "label_names": None,
    "num_workers": 1,
    "seed": 42,
    "save_last_model": False,
    "model_name": "model",
    "device": None,
    "num_warmup_steps": 0,
    "save_checkpoint_as_onnx": False,
    "save_checkpoint_as_pt2": False,
    "average": "micro",
}
"""Defaults of `model_config` (D-44). `num_classes` None is for targets that are numbers."""

TRAINER_CONFIG: dict[str, Any] = {
    "max_epochs": 1,
    "accelerator": "auto",
    "devices": "auto",
    "strategy": "auto",
    "num_processes": None,
    "enable_checkpointing": True,
    "default_root_dir": None,
    "callbacks": (),
    "enable_progress_bar": True,
    "log_every_n_steps": 20,
    "logger": None,
    "num_sanity_val_steps": 0,
}
"""Defaults of `trainer_config`, which are those of `Trainer` (D-45)."""

METRICS_CONFIG: dict[str, bool] = {
    "precision": True,
    "accuracy": True,
    "recall": True,
    "f1": True,
    "confusion_matrix": True,
}
"""Defaults of `metrics` (D-46)."""

DATASET_CONFIG: dict[str, Any] = {
    "dataset_path": None,
    "target": "label",
    "file_format": "npz",
    "save_dataset": True,
    "train_ratio": 0.75,
    "validation_ratio": 0.15,
    "test_ratio": 0.10,
    "seal_test_set": False,
    "drop_test_duplicates": False,
}
"""Defaults of `dataset_config` (D-47)."""

_PARTS = {
    "model_config": MODEL_CONFIG,
    "trainer_config": TRAINER_CONFIG,
    "dataset_config": DATASET_CONFIG,
    "metrics": METRICS_CONFIG,
}


def complete_config(
    config: Mapping[str, Mapping[str, Any]], trainer_keys: Collection[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the four dicts of a configuration with defaults for what is left out.

    `model_config` and `dataset_config` keep keys of the project's own (D-41). `trainer_config`
    is passed on as it is (D-42), and `metrics` replaces the defaults.

    Args:
        config: the dicts by name.
        trainer_keys: what `trainer_config` may hold; None leaves that to the engine.

    Raises:
        ConfigurationError: a name is unknown, or the three ratios do not add up to 1.
    """
    check_names(config, _PARTS, "config")
    given = {name: dict(config.get(name) or {}) for name in _PARTS}
    if trainer_keys is not None:
        check_names(given["trainer_config"], trainer_keys, "trainer_config")
    check_names(given["metrics"], METRICS, "metrics")
    check_ratios(DATASET_CONFIG | given["dataset_config"])
    return {
        "model_config": MODEL_CONFIG | given["model_config"],
        "trainer_config": given["trainer_config"],
        "dataset_config": DATASET_CONFIG | given["dataset_config"],
        "metrics": given["metrics"] or dict(METRICS_CONFIG),
    }


def check_names(given: Collection[str], known: Collection[str], where: str) -> None:
    """Refuse a name that is not known, with the nearest one that is."""
    for name in given:
        if name not in known:
            nearest = nearest_name(name, list(known))
            hint = f' Did you mean "{nearest}"?' if nearest else ""
            raise ConfigurationError(
                f"{where} holds {name!r}, which is unknown. Known: {', '.join(known)}.{hint}"
            )


def check_ratios(dataset_config: Mapping[str, Any]) -> dict[str, float]:
    """Return the share of each part of a data set; they have to add up to 1.

    Raises:
        ConfigurationError: they do not, or one is not above 0.
    """
    names = ("train", "validation", "test")
    ratios = {name: float(dataset_config[f"{name}_ratio"]) for name in names}
    listed = ", ".join(f"{name}_ratio {ratio:g}" for name, ratio in ratios.items())
    if min(ratios.values()) <= 0 or abs(sum(ratios.values()) - 1) > 1e-9:
        raise ConfigurationError(
            f"dataset_config has {listed}, which add up to {sum(ratios.values()):g}; expected "
            "three numbers above 0 that add up to 1."
        )
    return ratios
