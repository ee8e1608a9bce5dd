"""Keeping the best model, and saving states."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import same, tiny_data, tiny_trainer, weights

from loopwright.callbacks import (
    EarlyStoppingCallback,
    SaveBestModelCallback,
    SaveTrainingStateCallback,
)
from loopwright.trainer import Trainer


class Scripted(Trainer):
    """Records the given values as a metric, one per evaluation."""

    values: list[float]

    def eval_epoch_end(self) -> None:
        self.run_history.update_metric("score", self.values[self.progress.epochs_done])


def scripted(values: list[float], *callbacks: Any) -> Any:
    trainer = tiny_trainer(Scripted, callbacks=callbacks)
    trainer.values, trainer.print = values, lambda *args: None
    return trainer


def defaults(cls: type) -> dict[str, Any]:
    parameters = inspect.signature(cls).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def test_documented_defaults() -> None:
    """P-94, P-95, P-101."""
    assert defaults(SaveBestModelCallback) == {
        "save_path": "best_model.pt",
        "watch_metric": "eval_loss_epoch",
        "greater_is_better": False,
        "reset_on_train": True,
        "save_optimizer": True,
        "save_scheduler": True,
        "load_saved_checkpoint": True,
    }
    assert defaults(EarlyStoppingCallback) == {
        "early_stopping_patience": 1,
        "early_stopping_threshold": 0.01,
        "watch_metric": "eval_loss_epoch",
        "greater_is_better": False,
        "reset_on_train": True,
    }
    found = defaults(SaveTrainingStateCallback)
    assert list(found) == [
        "save_dir",
        "save_every_n_epochs",
        "save_every_n_steps",
        "save_at_end",
        "max_checkpoints",
    ]
    assert found["save_at_end"] is True


@pytest.mark.parametrize(
    ("values", "greater", "best"),
    [
        ([3.0, 1.0, 2.0], False, 2),
        ([3.0, 1.0, 2.0], True, 1),
        ([1.0, 1.0, 1.0], False, 1),
        ([float("nan"), 2.0, 1.5], False, 3),
        ([2.0, float("nan"), 3.0], False, 1),
    ],
)
def test_the_best_weights_are_back_at_the_end(
    values: list[float], greater: bool, best: int, tmp_path: Path
) -> None:
    """P-94."""
    path = tmp_path / "best.pt"
    callback = SaveBestModelCallback(path, "score", greater_is_better=greater)
    trainer = scripted(values, callback)
    trainer.train(tiny_data(), 3, tiny_data())
    reference = tiny_trainer()
    reference.train(tiny_data(), best)
    assert same(weights(trainer), weights(reference))
    assert callback.best_metric_epoch == best
    assert torch.load(path, weights_only=True)["epoch"] == best


def test_the_last_weights_can_be_kept(tmp_path: Path) -> None:
    callback = SaveBestModelCallback(
        tmp_path / "best.pt", "score", load_saved_checkpoint=False, save_optimizer=False
    )
    trainer = scripted([1.0, 2.0], callback)
    trainer.train(tiny_data(), 2, tiny_data())
    reference = tiny_trainer()
    reference.train(tiny_data(), 2)
    assert same(weights(trainer), weights(reference))
    assert "optimizer_state_dict" not in torch.load(tmp_path / "best.pt", weights_only=True)


@pytest.mark.parametrize("reset", [True, False])
def test_a_new_run_forgets_the_best_value_or_not(reset: bool, tmp_path: Path) -> None:
    callback = SaveBestModelCallback(tmp_path / "best.pt", "score", reset_on_train=reset)
    trainer = scripted([1.0], callback)
    trainer.train(tiny_data(), 1, tiny_data())
    trainer.values = [5.0]
    trainer.train(tiny_data(), 1, tiny_data())
    assert callback.best_metric == (5.0 if reset else 1.0)


@pytest.mark.parametrize("cls", [SaveBestModelCallback, EarlyStoppingCallback])
def test_a_metric_that_is_not_recorded_is_named(cls: Any, tmp_path: Path) -> None:
    trainer = tiny_trainer(callbacks=[cls(watch_metric="nope")])
    with pytest.raises(ValueError, match="watches 'nope'.*train_loss_epoch"):
        trainer.train(tiny_data(), 1)


@pytest.mark.parametrize(
    ("values", "options", "epochs"),
    [
        ([1.0, 1.0, 0.0], {}, 2),
        ([1.0, 0.995, 0.0], {}, 2),
        ([1.0, 0.9, 0.8, 0.85], {}, 4),
        ([1.0, 1.0, 1.0, 1.0], {"early_stopping_patience": 3}, 4),
        ([1.0, 1.0, 0.5, 0.5, 0.5], {"early_stopping_patience": 2}, 5),
        ([1.0, 2.0, 2.005], {"greater_is_better": True}, 3),
        ([1.0, 0.995, 0.99, 0.5], {"early_stopping_threshold": 0.0}, 4),
        ([float("nan"), 1.0], {}, 1),
    ],
)
def test_early_stopping(values: list[float], options: dict[str, Any], epochs: int) -> None:
    """P-95, P-96: an improvement not above the threshold counts as none."""
    trainer = scripted([*values, 0.0, 0.0], EarlyStoppingCallback(watch_metric="score", **options))
    trainer.train(tiny_data(), len(values), tiny_data())
    assert trainer.progress.epochs_done == epochs


def test_a_negative_patience_is_refused() -> None:
    with pytest.raises(ValueError, match="early_stopping_patience is -1, expected 0 or more"):
        EarlyStoppingCallback(early_stopping_patience=-1)


def test_early_stopping_starts_anew() -> None:
    trainer = scripted([1.0, 1.0, 1.0], EarlyStoppingCallback(watch_metric="score"))
    for _ in range(2):
        trainer.train(tiny_data(), 3, tiny_data())
        assert trainer.progress.epochs_done == 2
        assert "did not improve" in trainer.stop_reason


def test_states_are_named_and_the_oldest_dropped(tmp_path: Path) -> None:
    """P-101: steps are updates; what was there before is left alone."""
    (tmp_path / "epoch_0").mkdir()
    callback = SaveTrainingStateCallback(
        tmp_path, save_every_n_epochs=2, save_every_n_steps=5, max_checkpoints=3
    )
    trainer = tiny_trainer(callbacks=[callback])
    trainer.print = lambda *args: None
    options = {"per_device_batch_size": 2, "gradient_accumulation_steps": 2}
    trainer.train(tiny_data(), 4, **options)  # three updates in each of four epochs
    assert {path.name for path in tmp_path.iterdir()} == {"epoch_0", "step_10", "epoch_4", "final"}
    with pytest.raises(ValueError, match="max_checkpoints is 0"):
        SaveTrainingStateCallback(tmp_path, max_checkpoints=0)


def test_states_by_default_are_saved_at_the_end_alone(tmp_path: Path) -> None:
    trainer = tiny_trainer(callbacks=[SaveTrainingStateCallback(tmp_path)])
    trainer.train(tiny_data(), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert tiny_trainer().load_training_state(tmp_path / "final")["global_step"] == 4
