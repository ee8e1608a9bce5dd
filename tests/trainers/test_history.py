"""The history of the documented trainer: arrays, getters, extending a run, and its file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Stream, same, weights

from loopwright.errors import CheckpointError
from loopwright.trainers import ClassificationTrainer
from loopwright.trainers.arrays import checkpoint_path, history_path
from trainers.test_classification import _in_an_empty_folder, make, with_validation

__all__ = ["_in_an_empty_folder"]  # a fixture, which holds for this file too


def test_arrays_have_room_for_the_run() -> None:
    """L-61."""
    trainer = make()
    assert trainer.loss_history.shape == (6,)
    assert trainer.val_loss_history is trainer.acc_history is None
    evaluated = with_validation(num_epochs=3, val_batch_size=4)
    assert evaluated.val_loss_history.shape == (9,)
    assert evaluated.acc_history.shape == (3,)


def test_before_the_first_value() -> None:
    """L-62, L-63, L-64."""
    trainer = with_validation()
    for name in ("loss_history", "val_loss_history", "acc_history"):
        assert getattr(trainer, f"get_{name}")() is None
    assert trainer.get_cur_epoch_loss() is trainer.get_cur_epoch_val_loss() is None
    newest = (trainer.get_cur_loss(), trainer.get_cur_val_loss(), trainer.get_cur_acc())
    assert newest == (0.0, 0.0, 0.0)


def test_getters_return_what_is_filled() -> None:
    """L-62, L-63, L-64: the newest value counts."""
    trainer = with_validation()
    trainer.set_num_epochs(4)
    trainer.num_epochs = 2
    trainer.train()
    losses, val_losses, accuracy = (
        trainer.get_loss_history(),
        trainer.get_val_loss_history(),
        trainer.get_acc_history(),
    )
    assert (len(losses), len(val_losses), len(accuracy)) == (6, 6, 2)
    assert len(trainer.loss_history) == 12
    assert trainer.get_cur_loss() == losses[-1] != 0
    assert trainer.get_cur_val_loss() == val_losses[-1] != 0
    assert trainer.get_cur_acc() == accuracy[-1]
    assert trainer.get_cur_epoch_loss().tolist() == losses[3:].tolist()
    assert trainer.get_cur_epoch_val_loss().tolist() == val_losses[3:].tolist()


def test_more_epochs_keep_what_was_recorded() -> None:
    """L-65, L-66, L-67: and the run ends as one that was planned so."""
    trainer, whole = with_validation(), with_validation(num_epochs=4)
    trainer.train()
    first = trainer.get_loss_history().tolist()
    trainer.set_num_epochs(4)
    assert (trainer.get_num_epochs(), trainer.get_cur_epoch()) == (4, 2)
    assert trainer.loss_history.shape == (12,)
    assert trainer.get_loss_history().tolist() == first
    trainer.train()
    whole.train()
    assert same(weights(whole), weights(trainer))
    assert trainer.get_loss_history().tolist() == whole.get_loss_history().tolist()
    assert trainer.get_acc_history().tolist() == whole.get_acc_history().tolist()
    trainer.set_num_epochs(3)
    assert trainer.num_epochs == 3
    assert trainer.loss_history.shape == (12,)
    trainer.train()
    assert trainer.cur_epoch == 4


def test_data_of_unknown_length_grow_the_arrays() -> None:
    trainer = make(train_dataset=Stream(12), save_every=0)
    trainer.train()
    assert len(trainer.get_loss_history()) == 6


def test_the_history_file(tmp_path: Path) -> None:
    """L-36, L-58, L-80, L-81, L-82, L-83: apart from the checkpoint, and equal in both trainers."""
    trainer, other = with_validation(), with_validation()
    trainer.train()
    path = trainer.save_history(tmp_path / "past_history.pkl")
    assert path == tmp_path / "past.history.json"
    values = json.loads(path.read_text())
    expected = {"loss_history", "loss_iter", "cur_epoch", "iter_per_epoch", "val_loss_history"}
    assert expected | {"val_loss_iter", "acc_history", "acc_iter"} <= set(values)
    other.load_history(tmp_path / "past_history.pkl")
    for name in ("loss", "val_loss", "acc"):
        mine = getattr(trainer, f"get_{name}_history")()
        assert mine.tolist() == getattr(other, f"get_{name}_history")().tolist()
    assert (other.loss_iter, other.cur_epoch, other.iter_per_epoch) == (6, 2, 3)
    assert not same(weights(trainer), weights(other))
    without = make()
    without.train()
    assert "acc_history" not in json.loads(without.save_history("x").read_text())


def test_losses_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    trainer = make()
    trainer.add_value("loss_history", float("nan"))
    trainer.add_value("loss_history", float("inf"))
    trainer.save_history(tmp_path / "x")
    assert "NaN" in (tmp_path / "x.history.json").read_text()
    trainer.load_history(tmp_path / "x")
    assert np.isnan(trainer.loss_history[0])
    assert trainer.loss_history[1] == np.inf


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cur_epoch": 1}', "\x80", '{"cur_epoch": {}}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.history.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"x\.history\.json cannot be read as a history"):
        make().load_history(tmp_path / "x.pkl")
    with pytest.raises(CheckpointError, match="none.history.json"):
        make().load_history(tmp_path / "none")


@pytest.mark.parametrize(
    ("given", "checkpoint", "history"),
    [
        ("a/ck.pkl", "a/ck.ckpt", "a/ck.history.json"),
        ("a/ck_history.pkl", "a/ck_history.ckpt", "a/ck.history.json"),
        ("v1.2", "v1.2.ckpt", "v1.2.history.json"),
        ("ck.pth", "ck.ckpt", "ck.history.json"),
    ],
)
def test_names_of_files(given: str, checkpoint: str, history: str) -> None:
    assert checkpoint_path(given) == checkpoint_path(checkpoint) == Path(checkpoint)
    assert history_path(given) == history_path(history) == Path(history)


def test_losses_of_an_accelerator_are_read_late() -> None:
    """A loss that is not on the CPU waits until somebody asks."""
    trainer: Any = ClassificationTrainer()
    trainer._make_room(4, None, 1)
    trainer.add_value("loss_history", torch.tensor(2.0))
    trainer._unread.append(("loss_history", 1, torch.tensor(3.0)))
    trainer.loss_iter = 2
    assert trainer.loss_history.tolist() == [2.0, 0.0, 0.0, 0.0]
    assert trainer.get_loss_history().tolist() == [2.0, 3.0]
