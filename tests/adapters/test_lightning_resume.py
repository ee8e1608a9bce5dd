"""Checkpoints: ours, from which a run goes on exactly, and files in Lightning's format."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning import LightningDataModule
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
)
from tiny import same
from torch import nn
from torch.optim import SGD, lr_scheduler
from torchmetrics.classification import MulticlassAccuracy

from adapters.lightning_modules import (
    QUIET,
    Classifier,
    fitted,
    loader,
    metrics_of,
    state_of,
    trainer_of,
)
from adapters.test_lightning_manual import Adversaries
from loopwright.adapters.lightning import Trainer
from loopwright.adapters.lightning.state import restore_metric
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.errors import CheckpointError, NotSupportedError, RunInterrupted


def test_what_a_metric_summed_up_goes_to_the_device_of_the_metric() -> None:
    """Checkpoints are read onto the CPU; the device meta stands for any other."""
    metric = MulticlassAccuracy(3).to("meta")
    summed_up = {name: torch.ones(3) for name in ("tp", "fp", "tn", "fn")}
    restore_metric(metric, summed_up)
    assert {getattr(metric, name).device.type for name in summed_up} == {"meta"}


class Data(LightningDataModule):
    """Gives tiny data, and has a state."""

    num_given = 0

    def train_dataloader(self) -> Any:
        return loader(shuffle=True)

    def val_dataloader(self) -> Any:
        return loader(batch_size=8)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.num_given += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"num_given": self.num_given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_given = state["num_given"]


class Interrupted(Classifier):
    """Asks its own process to stop, in training or in a validation."""

    def __init__(self, at_step: int | None = None, in_validation: bool = False) -> None:
        super().__init__(self.plan)
        self.accuracy = MulticlassAccuracy(3)
        self.at_step, self.in_validation = at_step, in_validation
        self.note: list[int] = []

    @staticmethod
    def plan(module: Any) -> Any:
        optimizer = SGD(module.parameters(), 0.3, momentum=0.9)
        scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"},
        }

    def _stop_if_due(self, is_due: bool) -> None:
        if is_due and self.global_step == self.at_step and not self.trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGTERM)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.accuracy(self.net(batch[0]), batch[1])
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.note.append(batch_idx)
        self._stop_if_due(not self.in_validation)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        super().validation_step(batch, batch_idx)
        self._stop_if_due(self.in_validation and batch_idx == 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["note"] = self.note

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.note = checkpoint["note"]


def run(
    folder: Path | None, at_step: int | None, in_validation: bool = False, **options: Any
) -> tuple[Any, ...]:
    """Train in a folder, from its newest checkpoint if there is one; return all that it left."""
    torch.manual_seed(5)
    module, data = Interrupted(at_step, in_validation), Data()
    early = EarlyStopping("val_loss", patience=2)
    options["callbacks"] = [early, *options.get("callbacks", ())]
    trainer = trainer_of("loopwright", run_dir=folder, max_epochs=4, **options)
    resume = None if folder is None or not folder.exists() else "latest"
    trainer.fit(module, datamodule=data, resume=resume)
    history = trainer.run_history
    values = {name: history.get_metric_values(name) for name in history.get_metric_names()}
    counts = trainer.global_step, trainer.current_epoch, data.num_given, module.note
    return state_of(module), metrics_of(trainer), values, early.state_dict(), counts


ACCUMULATING = {"accumulate_grad_batches": 2, "val_check_interval": 3}
SCHEDULED = {"callbacks": [GradientAccumulationScheduler({1: 2})]}


@pytest.mark.parametrize(
    ("at_step", "in_validation", "options"),
    [
        *((at_step, False, {}) for at_step in (0, 2, 5, 6)),
        *((at_step, True, {}) for at_step in (6, 12)),
        *((at_step, False, ACCUMULATING) for at_step in (1, 2, 3)),
        *((at_step, True, ACCUMULATING) for at_step in (1, 3)),
        (7, False, SCHEDULED),
    ],
)
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    at_step: int, in_validation: bool, options: dict[str, Any], tmp_path: Path
) -> None:
    """An epoch has 6 steps, or 3 with accumulation, where one validation is inside an update."""
    folder, expected = tmp_path / "run", run(None, None, **options)
    with pytest.raises(RunInterrupted):
        run(folder, at_step, in_validation, **options)
    resumed = run(folder, None, **options)
    assert same(resumed[0], expected[0])
    assert resumed[1:4] == expected[1:4]
    made_again = resumed[4][2] - expected[4][2]  # hooks see batches that are made again
    assert resumed[4][:2] + resumed[4][3:] == expected[4][:2] + expected[4][3:]
    assert 0 <= made_again <= 22


def test_a_finished_run_is_brought_back_and_not_trained(tmp_path: Path) -> None:
    first = run(tmp_path / "run", None)
    again = run(tmp_path / "run", None)
    assert same(again[0], first[0])
    assert again[1:] == first[1:]


def test_two_places_to_go_on_from_are_refused() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        trainer_of("loopwright").fit(Plain(), loader(), ckpt_path="a.ckpt", resume="latest")


def test_manual_optimization_goes_on_exactly(tmp_path: Path) -> None:
    data = loader()
    expected = fitted("loopwright", Adversaries, lambda: (data,))
    policy = CheckpointPolicy(every_steps=4)
    options = {"run_dir": tmp_path / "run", "checkpoint": policy}
    fitted("loopwright", Adversaries, lambda: (data,), max_steps=7, **options)
    kept = sorted((tmp_path / "run" / "checkpoints").iterdir())
    trainer, module = trainer_of("loopwright"), Adversaries()
    trainer.fit(module, data, resume=kept[0])
    assert same(state_of(module), state_of(expected[1]))
    assert trainer.global_step == expected[0].global_step


# ------------------------------------------------------------------- Lightning's format


def checkpointed(kind: str, folder: Path) -> tuple[Any, Any]:
    saver = ModelCheckpoint(folder, save_last=True, save_top_k=-1, filename="{epoch}")
    return fitted(
        kind,
        Plain,
        lambda: (loader(), loader(batch_size=8)),
        enable_checkpointing=True,
        callbacks=[saver],
        max_epochs=2,
    )


class Plain(Classifier):
    """Draws nothing, so that a run in two parts can be compared."""

    def __init__(self, width: int = 3) -> None:
        super().__init__(self.plan)
        self.save_hyperparameters()
        self.net[3].p = 0.0

    @staticmethod
    def plan(module: Any) -> Any:
        optimizer = SGD(module.parameters(), 0.3, momentum=0.9)
        return [optimizer], [lr_scheduler.ExponentialLR(optimizer, 0.8)]


@pytest.mark.parametrize("reader", ["lightning", "loopwright"])
@pytest.mark.parametrize("writer", ["lightning", "loopwright"])
def test_a_checkpoint_of_either_is_read_by_the_other(
    writer: str, reader: str, tmp_path: Path
) -> None:
    checkpointed(writer, tmp_path)
    path = tmp_path / "epoch=1.ckpt"
    content = torch.load(path, weights_only=True)
    assert (content["epoch"], content["global_step"]) == (1, 12)
    assert content["hyper_parameters"] == {"width": 3}
    torch.manual_seed(5)
    whole = Plain()
    trainer_of("lightning", max_epochs=4).fit(whole, loader(), loader(batch_size=8))
    module, trainer = Plain(), trainer_of(reader, max_epochs=4)
    trainer.fit(module, loader(), loader(batch_size=8), ckpt_path=path)
    assert same(state_of(module), state_of(whole))
    assert (trainer.global_step, trainer.current_epoch) == (24, 4)


def test_both_write_the_same_entries(tmp_path: Path) -> None:
    files = []
    for kind in ("lightning", "loopwright"):
        trainer, _ = checkpointed(kind, tmp_path / kind)
        trainer.save_checkpoint(tmp_path / f"{kind}.ckpt")
        files.append(torch.load(tmp_path / f"{kind}.ckpt", weights_only=True))
    theirs, ours = files
    assert ours.keys() == theirs.keys()
    assert ours["loops"] == theirs["loops"]
    assert same(ours["state_dict"].values(), theirs["state_dict"].values())
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    loaded = Plain.load_from_checkpoint(tmp_path / "loopwright.ckpt", weights_only=True)
    assert same(state_of(loaded), ours["state_dict"].values())


def test_the_best_checkpoint_is_tested(tmp_path: Path) -> None:
    trainer, module = checkpointed("loopwright", tmp_path)
    expected = trainer.test(module, loader(), verbose=False)
    nn.init.zeros_(module.net[0].weight)
    assert trainer.test(module, loader(), ckpt_path="last", verbose=False) == expected


def test_a_hostile_file_is_refused_and_not_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "executed"), "w"))

    content = {"state_dict": {}, "pytorch-lightning_version": "2.6.6", "more": Hostile()}
    torch.save(content, tmp_path / "hostile.ckpt")
    trainer = trainer_of("loopwright")
    with pytest.raises(CheckpointError, match="names"):
        trainer.fit(Plain(), loader(), ckpt_path=tmp_path / "hostile.ckpt")
    with pytest.raises(NotSupportedError, match="weights_only=False lets a file execute code"):
        trainer.fit(Plain(), loader(), ckpt_path=tmp_path / "hostile.ckpt", weights_only=False)
    assert not (tmp_path / "executed").exists()


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    class Holds(Plain):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["network"] = self.net

    trainer, _ = fitted("loopwright", Holds)
    with pytest.raises(CheckpointError, match="network"):
        trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert not (tmp_path / "x.ckpt").exists()


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"devices": 2}, "The strategy is .*; expected one device. Give devices=1"),
        ({"strategy": "ddp"}, "The strategy is DDPStrategy"),
        ({"num_nodes": 2}, "The strategy is"),
    ],
)
def test_what_needs_several_processes_is_refused(options: Any, match: str) -> None:
    with pytest.raises(NotSupportedError, match=match):
        Trainer(**QUIET | options)


def test_steps_that_fetch_their_batches_are_refused() -> None:
    class Fetches(Classifier):
        def training_step(self, dataloader_iter: Any) -> Any:
            return None

    with pytest.raises(NotSupportedError, match=r"Write it as training_step\(self, batch"):
        trainer_of("loopwright").fit(Fetches(), loader())


def test_a_trainer_is_one_of_lightnings() -> None:
    """Callbacks and modules ask for that."""
    assert isinstance(trainer_of("loopwright"), lightning.Trainer)
