"""The configuration of a project: defaults, and what is refused."""

from typing import Any

import pytest
from torch.nn import functional

from loopwright import project
from loopwright.errors import ConfigurationError
from loopwright.project import complete_config


def test_D_40_the_four_dicts_are_there_with_their_defaults() -> None:
    complete = complete_config({})
    assert complete == {
        "model_config": project.MODEL_CONFIG,
        "trainer_config": {},
        "dataset_config": project.DATASET_CONFIG,
        "metrics": project.METRICS_CONFIG,
    }


def test_D_44_model_config() -> None:
    documented = {
        "learning_rate": 1e-3,
        "loss_function": functional.cross_entropy,
        "batch_size": 32,
        "num_workers": 1,
        "seed": 42,
        "save_last_model": False,
        "num_warmup_steps": 0,
        "save_checkpoint_as_onnx": False,
        "average": "micro",
    }
    keys = {"num_classes", "num_classes_conf_mat", "label_names", "model_name", "device"}
    assert documented.items() <= project.MODEL_CONFIG.items()
    assert keys <= project.MODEL_CONFIG.keys()


def test_D_46_metrics_are_all_on() -> None:
    names = ("precision", "accuracy", "recall", "f1", "confusion_matrix")
    assert dict.fromkeys(names, True) == project.METRICS_CONFIG


def test_D_47_dataset_config() -> None:
    documented = {
        "save_dataset": True,
        "train_ratio": 0.75,
        "validation_ratio": 0.15,
        "test_ratio": 0.1,
    }
    assert documented.items() <= project.DATASET_CONFIG.items()


def test_D_41_keys_of_ones_own_are_kept() -> None:
    given: dict[str, dict[str, Any]] = {
        "model_config": {"depth": 3},
        "dataset_config": {"source": "x"},
    }
    complete = complete_config(given)
    assert complete["model_config"]["depth"] == 3
    assert complete["dataset_config"]["source"] == "x"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metric": {}}, "config holds 'metric', .* Did you mean \"metrics\""),
        ({"metrics": {"acuracy": True}}, "metrics holds 'acuracy'.*Did you mean \"accuracy\""),
        (
            {"trainer_config": {"max_epoch": 1}},
            "trainer_config holds 'max_epoch'.*Did you mean \"max_epochs\"",
        ),
        ({"dataset_config": {"train_ratio": 0.8}}, "train_ratio 0.8.* add up to 1.05"),
        ({"dataset_config": {"train_ratio": 0.9, "test_ratio": -0.05}}, "numbers above 0"),
    ],
)
def test_D_42_what_is_unknown_or_does_not_add_up_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        complete_config(given, project.TRAINER_CONFIG)


def test_D_42_keys_of_another_engine_are_left_to_it() -> None:
    given = {"trainer_config": {"precision": "16-mixed"}}
    assert complete_config(given)["trainer_config"] == given["trainer_config"]


def test_D_43_and_D_60_metrics_replace_the_defaults() -> None:
    assert complete_config({"metrics": {"f1": True}})["metrics"] == {"f1": True}


def test_D_38_the_defaults_of_the_checkpoint() -> None:
    """D-37, too: both callbacks are what a configuration holds."""
    callback = project.ModelCheckpoint()
    assert (callback.save_top_k, callback.save_last) == (1, True)
    assert (callback.monitor, callback.mode) == ("val_loss", "min")
    assert "{epoch}" in callback.filename
    assert "{val_loss" in callback.filename


def test_D_39_early_stopping_watches_a_loss_that_should_fall() -> None:
    callback = project.EarlyStopping()
    assert callback.watch_metric == "val_loss"
    assert callback.early_stopping_patience == 10
    assert callback.greater_is_better is False


@pytest.mark.parametrize("kind", [project.ModelCheckpoint, project.EarlyStopping])
def test_a_mode_is_min_or_max(kind: Any) -> None:
    with pytest.raises(ValueError, match="mode is 'maxi'; expected 'min' or 'max'"):
        kind(mode="maxi")
