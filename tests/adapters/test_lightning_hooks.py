"""Every hook of a module, a data module and a callback runs when it does in Lightning's trainer."""

import inspect
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule
from lightning.pytorch.core.hooks import DataHooks
from tiny import same

from adapters.lightning_modules import BOTH, Classifier, loader, state_of, trainer_of
from loopwright.callbacks import EarlyStoppingCallback
from loopwright.default_callbacks import TerminateOnNaNCallback
from loopwright.events import TrainerCallback

_ASKED_BY_NAME = {"forward", "training_step", "validation_step", "test_step", "predict_step"}
MODULE_HOOKS = sorted(
    {name for name in dir(Classifier) if name.startswith("on_")} - {"on_gpu"}
    | _ASKED_BY_NAME
    | {
        "backward",
        "configure_callbacks",
        "configure_gradient_clipping",
        "configure_model",
        "configure_optimizers",
        "lr_scheduler_step",
        "optimizer_step",
        "optimizer_zero_grad",
        "prepare_data",
        "setup",
        "teardown",
        "transfer_batch_to_device",
    }
)
CALLBACK_HOOKS = sorted(
    name for name in dir(Callback) if name.startswith("on_") or name in ("setup", "teardown")
)
DATA_HOOKS = sorted(
    name
    for name in dir(LightningDataModule)
    if name.startswith("on_") or name in vars(DataHooks) or name in ("setup", "teardown")
)


def recorded(cls: type, names: list[str], who: str, seen: list[str]) -> type:
    """Return a subclass that notes each call of a hook, and what `self.log` would go under."""

    def noting(name: str) -> Any:
        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            module = self if who == "module" else next((a for a in args if a is not None), None)
            index = [value for value in args if type(value) is int]
            under = getattr(module, "_current_fx_name", None) if who == "module" else None
            seen.append(f"{who}.{name} {index} {under} {torch.is_grad_enabled()}")
            return getattr(super(made, self), name)(*args, **kwargs)

        return hook

    made = type(cls.__name__, (cls,), {})
    for name in names:
        if inspect.isfunction(getattr(cls, name, None)):
            setattr(made, name, noting(name))
    return made


class Data(LightningDataModule):
    """Gives tiny data."""

    def train_dataloader(self) -> Any:
        return loader(shuffle=True)

    def val_dataloader(self) -> Any:
        return loader(8)

    test_dataloader = predict_dataloader = val_dataloader


def scheduled(module: Any) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def hooks_of(kind: str, hooks_at: str, **options: Any) -> tuple[list[str], Any]:
    """Return what ran, in order, with hooks of the batch on a module or a data module."""
    seen: list[str] = []
    data_names = [name for name in DATA_HOOKS if hooks_at == "data" or "transfer" not in name]
    module_names = [n for n in MODULE_HOOKS if hooks_at == "module" or "transfer" not in n]
    module = recorded(Classifier, module_names, "module", seen)(scheduled)
    data = recorded(Data, data_names, "data", seen)()
    callback = recorded(Callback, CALLBACK_HOOKS, "callback", seen)()
    trainer = trainer_of(kind, max_epochs=2, callbacks=[callback], **options)
    trainer.fit(module, datamodule=data)
    trainer.validate(module, datamodule=data, verbose=False)
    trainer.test(module, datamodule=data, verbose=False)
    trainer.predict(module, datamodule=data)
    return seen, trainer


@pytest.mark.parametrize("hooks_at", ["module", "data"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1, "val_check_interval": 3},
        {"max_steps": 4, "num_sanity_val_steps": 0, "precision": "bf16-mixed"},
    ],
    ids=["plain", "accumulation", "precision"],
)
def test_hooks_run_in_the_order_of_lightning(options: Any, hooks_at: str) -> None:
    theirs, _ = hooks_of("lightning", hooks_at, **options)
    ours, trainer = hooks_of("loopwright", hooks_at, **options)
    assert ours == theirs
    assert trainer.engine.progress.step >= 0


def test_the_order_covers_every_hook() -> None:
    """A hook that the test above never sees would be compared with nothing."""
    seen, _ = hooks_of("loopwright", "module")
    ran = {line.split()[0] for line in seen}
    listed = {f"module.{name}" for name in MODULE_HOOKS}
    listed |= {f"callback.{name}" for name in CALLBACK_HOOKS}
    elsewhere = {  # they run when a checkpoint is written or read, when a run fails, or in others
        *("module.on_save_checkpoint", "module.on_load_checkpoint", "module.forward"),
        *("callback.on_save_checkpoint", "callback.on_load_checkpoint", "callback.on_exception"),
    }
    assert listed - ran == elsewhere


class SkipsRest(Classifier):
    """Leaves an epoch after two batches, and one batch of the first without a loss."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == 2 else None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 1 else super().training_step(batch, batch_idx)


class OwnSteps(Classifier):
    """Overrides what is done in a step."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        if batch_idx % 2:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=False)

    def backward(self, loss: torch.Tensor) -> None:
        (2 * loss).backward()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        self.clip_gradients(optimizer, 0.05, "norm")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.add_(0.001)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + 0.1, batch[1]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step()
        scheduler.step()


class Stops(Classifier):
    """Asks to stop inside an epoch."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.trainer.should_stop = self.global_step >= 8


class FromDict(Classifier):
    """Returns more than a loss, and reads it when the batch is done."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": self.loss(batch), "mean": batch[0].mean()}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("seen", outputs["loss"] + outputs["mean"])


@pytest.mark.parametrize("make", [SkipsRest, OwnSteps, Stops, FromDict])
def test_hooks_that_change_a_step_do_so(make: Any) -> None:
    ends = []
    for kind in BOTH:
        torch.manual_seed(5)
        module = make(scheduled)
        trainer = trainer_of(kind, accumulate_grad_batches=1 if make is OwnSteps else 2)
        trainer.fit(module, loader(shuffle=True), loader())
        ends.append((state_of(module), trainer.global_step, trainer.current_epoch))
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]


def test_callbacks_of_both_libraries_run_side_by_side() -> None:
    class Counts(TrainerCallback):
        """Counts micro-batches, with the events of loopwright."""

        num_seen = 0

        def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
            self.num_seen += 1
            assert torch.isfinite(kwargs["batch_output"]["loss"])

    counts = Counts()
    early = EarlyStoppingCallback(early_stopping_patience=1, watch_metric="val_loss")
    given = [counts, early, TerminateOnNaNCallback()]  # the last is there by default, too
    trainer = trainer_of("loopwright", max_epochs=2, callbacks=given)
    trainer.fit(Classifier(), loader(), loader())
    assert counts.num_seen == 12
    assert len(trainer.run_history.get_metric_values("val_loss")) == 2
    assert len(trainer.run_history.get_metric_values("train_loss_epoch")) == 2


def test_a_module_reads_the_state_of_its_trainer() -> None:
    seen = []

    class Reads(Classifier):
        """Reads what modules read."""

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            trainer = self.trainer
            seen[-1].append(
                (
                    (self.current_epoch, self.global_step, trainer.is_last_batch),
                    (trainer.max_epochs, trainer.max_steps, trainer.estimated_stepping_batches),
                    (trainer.num_training_batches, trainer.num_val_batches, trainer.training),
                    (trainer.state.fn, trainer.state.stage, trainer.sanity_checking),
                    (self.device, trainer.world_size, trainer.is_global_zero, self.local_rank),
                    (trainer.accumulate_grad_batches, trainer.log_every_n_steps),
                    [each["lr"] for each in self.optimizers().param_groups],
                    (len(trainer.train_dataloader), trainer.datamodule, trainer.fast_dev_run),
                    sorted(trainer.callback_metrics),
                )
            )

    for kind in BOTH:
        seen.append([])
        torch.manual_seed(5)
        trainer_of(kind).fit(Reads(), loader(), loader())
    assert seen[0] == seen[1]
