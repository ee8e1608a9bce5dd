"""How runs end: stopped, interrupted, not finite; and what they leave behind."""

import gc
import os
import sys
import weakref
from collections import Counter
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import MapData, same, tiny_data, tiny_model, tiny_trainer, weights
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from loopwright.callbacks import (
    LogMetricsCallback,
    MoveModulesToDeviceCallback,
    ProgressBarCallback,
    TerminateOnNaNCallback,
)
from loopwright.events import StopTrainingError, TrainerCallback
from loopwright.trainer import DEFAULT_CALLBACKS, Trainer

PLACES = (
    "on_training_run_start",
    "on_train_epoch_start",
    "on_train_step_start",
    "on_train_step_end",
    "on_train_epoch_end",
    "on_eval_epoch_start",
    "on_eval_step_end",
    "on_eval_epoch_end",
    "on_training_run_epoch_end",
)


def raising(event: str, error: BaseException, *, after: int = 0) -> Any:
    """Return a callback that raises at an event, and writes down those of the end."""

    class Raising(TrainerCallback):
        def __init__(self) -> None:
            self.heard: list[str] = []
            self.seen = 0

        def on_stop_training_error(self, trainer: Any, **kwargs: Any) -> None:
            self.heard.append("on_stop_training_error")

        def on_training_run_end(self, trainer: Any, **kwargs: Any) -> None:
            self.heard.append("on_training_run_end")

    def hear(self: Any, trainer: Any, **kwargs: Any) -> None:
        self.seen += 1
        if self.seen == after + 1:
            raise error

    setattr(Raising, event, hear)
    return Raising()


def leftovers(trainer: Any) -> None:
    """What no end of a run may leave."""
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert trainer.progress.phase == "idle"
    assert trainer.max_eval_batches is None


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("event", PLACES)
def test_stop_training_error_ends_the_run_cleanly(event: str, accumulation: int) -> None:
    """P-92: from every event, and the next run is a normal one."""
    callback = raising(event, StopTrainingError("enough"))
    trainer = tiny_trainer(callbacks=[callback])
    trainer.train(
        tiny_data(),
        3,
        tiny_data(),
        per_device_batch_size=2,
        gradient_accumulation_steps=accumulation,
    )
    assert callback.heard == ["on_stop_training_error", "on_training_run_end"]
    assert trainer.stop_reason == "enough"
    leftovers(trainer)
    callback.heard.clear()
    trainer.train(tiny_data(), 1, tiny_data())
    assert callback.heard == ["on_training_run_end"]
    assert trainer.stop_reason is None


@pytest.mark.parametrize("own_step", [False, True])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("event", PLACES)
def test_a_keyboard_interrupt_is_raised_again_and_leaves_a_usable_trainer(
    event: str, accumulation: int, own_step: bool
) -> None:
    class OwnStep(Trainer):
        def train_step(self, batch: Any) -> Any:
            output = self.calculate_train_batch_loss(batch)
            self.update(output["loss"])
            return output

    callback = raising(event, KeyboardInterrupt())
    trainer = tiny_trainer(OwnStep if own_step else Trainer, callbacks=[callback])
    options = {"per_device_batch_size": 2, "gradient_accumulation_steps": accumulation}
    with pytest.raises(KeyboardInterrupt):
        trainer.train(tiny_data(), 3, tiny_data(), **options)
    leftovers(trainer)
    if event != "on_training_run_start":
        assert trainer.run_history.current_epoch == 1
    # From the same weights, the run that follows is bit for bit a run of a new trainer.
    fresh = tiny_trainer(OwnStep if own_step else Trainer)
    fresh.model.load_state_dict(trainer.model.state_dict())
    fresh.optimizer.load_state_dict(deepcopy(trainer.optimizer.state_dict()))
    trainer.train(tiny_data(), 2, tiny_data(), **options)
    fresh.train(tiny_data(), 2, tiny_data(), **options)
    assert same(weights(trainer), weights(fresh))


def test_an_interrupt_keeps_the_history_and_the_run_goes_on() -> None:
    callback = raising("on_train_step_end", KeyboardInterrupt(), after=8)
    trainer = tiny_trainer(callbacks=[callback])
    with pytest.raises(KeyboardInterrupt):
        trainer.train(tiny_data(), 5, tiny_data(), per_device_batch_size=4)
    history = trainer.run_history
    assert len(history.get_metric_values("train_loss_epoch")) == 2
    assert history.current_epoch == 3
    trainer.train(tiny_data(), 1, tiny_data(), reset_run_history=False)
    assert len(history.get_metric_values("train_loss_epoch")) == 3
    assert len(history.get_metric_values("eval_loss_epoch")) == 3


class Interrupting(MapData):
    """Interrupts when its sixth sample is asked for, once."""

    asked = 0

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        if self.asked == 6:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_an_interrupt_while_data_is_made() -> None:
    before = torch.get_rng_state()
    trainer = tiny_trainer()
    options = {"num_workers": 0}
    with pytest.raises(KeyboardInterrupt):
        trainer.train(Interrupting(), 1, per_device_batch_size=4, train_dataloader_kwargs=options)
    assert torch.equal(torch.get_rng_state(), before)
    leftovers(trainer)
    trainer.train(tiny_data(), 1)


@pytest.mark.parametrize("event", ["on_evaluation_run_start", "on_eval_step_end"])
def test_evaluations_end_as_runs_do(event: str) -> None:
    trainer = tiny_trainer(callbacks=[raising(event, StopTrainingError("enough"))])
    trainer.evaluate(tiny_data())
    assert trainer.stop_reason == "enough"
    trainer = tiny_trainer(callbacks=[raising(event, KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate(tiny_data())
    assert trainer.model.training
    leftovers(trainer)


# ------------------------------------------------------------------- losses not finite


class Poisoned(Trainer):
    """Has a loss that is not finite from some micro-batch on."""

    bad, at, where = float("nan"), 3, "train"
    seen = 0

    def _spoil(self, output: dict[str, Any], where: str) -> dict[str, Any]:
        if where == self.where:
            self.seen += 1
            if self.seen == self.at:
                output["loss"] = output["loss"] * self.bad
        return output

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        return self._spoil(super().calculate_train_batch_loss(batch), "train")

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        return self._spoil(super().calculate_eval_batch_loss(batch), "eval")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["train", "eval"])
def test_a_loss_that_is_not_finite_stops_the_run(bad: float, where: str) -> None:
    """P-93: the process goes on, and on a CPU the weights are those before that batch."""
    callback = TerminateOnNaNCallback()
    trainer = tiny_trainer(Poisoned, callbacks=[callback])
    trainer.bad, trainer.where = bad, where
    trainer.train(tiny_data(), 5, tiny_data(), per_device_batch_size=2)
    assert callback.triggered
    assert where in trainer.stop_reason
    assert trainer.progress.epoch == 1
    assert all(torch.isfinite(weight).all() for weight in weights(trainer))
    trainer.seen = 99
    trainer.train(tiny_data(), 1)
    assert not callback.triggered
    assert trainer.stop_reason is None


@pytest.mark.parametrize("where", ["train", "eval"])
def test_without_reading_each_loss_it_is_seen_by_the_end_of_the_epoch(where: str) -> None:
    callback = TerminateOnNaNCallback()
    callback.seconds_between_reads = 1e9
    trainer = tiny_trainer(Poisoned, callbacks=[callback])
    trainer._reads_losses_per_step = False
    trainer.where = where
    trainer.train(tiny_data(), 5, tiny_data(), per_device_batch_size=2)
    assert callback.triggered
    assert trainer.progress.epochs_done <= 1


def test_a_loss_that_is_not_finite_ends_an_evaluation() -> None:
    trainer = tiny_trainer(Poisoned, callbacks=[TerminateOnNaNCallback])
    trainer.where = "eval"
    trainer.evaluate(tiny_data(), 2)
    assert "eval" in trainer.stop_reason


# --------------------------------------------------------------- what a step costs


class Reads(TorchDispatchMode):
    """Counts the operations that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_local_scalar_dense" in func.name():
            self.counts["read"] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["samples", "items"])
def test_the_deferred_path_reads_nothing_per_step(kind: str) -> None:
    """Only ends of epochs read: twice as many steps make no more reads."""

    class Items(Trainer):
        def _batch_loss(self, batch: Any) -> dict[str, Any]:
            output = super()._batch_loss(batch)
            return {**output, "num_items_in_batch": torch.tensor(len(batch[0]))}

    quiet = TerminateOnNaNCallback()
    quiet.seconds_between_reads, quiet._next_read = 1e9, float("inf")
    callbacks = [MoveModulesToDeviceCallback, quiet, ProgressBarCallback, LogMetricsCallback]
    found = []
    for size in (8, 16, 32):
        trainer = tiny_trainer(Items if kind == "items" else Trainer, callbacks=callbacks)
        trainer.optimizer = torch.optim.AdamW(trainer.model.parameters(), fused=True)
        trainer._reads_losses_per_step = False
        trainer.print = lambda *args: None
        with Reads() as reads:
            trainer.train(
                tiny_data(size),
                2,
                tiny_data(size),
                per_device_batch_size=2,
                gradient_accumulation_steps=3,
            )
        found.append(reads.counts["read"])
    assert found[0] == found[1] == found[2]
    assert found[0] > 0  # ends of epochs do read


@pytest.mark.parametrize(("fused", "reads_per_step"), [(True, 0), (False, 1)])
def test_only_optimizers_that_cannot_skip_read_per_step(fused: bool, reads_per_step: int) -> None:
    found = []
    for size in (8, 16):
        trainer = tiny_trainer(callbacks=[TerminateOnNaNCallback])
        trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1, fused=fused)
        trainer._reads_losses_per_step = False
        with Reads() as reads:
            trainer.train(tiny_data(size), 1, per_device_batch_size=2)
        found.append(reads.counts["read"])
    assert found[1] - found[0] == reads_per_step * 4


def test_the_counter_of_reads_counts() -> None:
    with Reads() as reads:
        torch.ones(()).item()
        float(torch.ones(()))
    assert reads.counts["read"] == 2


def test_callbacks_without_step_events_are_not_called_per_step() -> None:
    class Quiet(TrainerCallback):
        def on_train_epoch_end(self, trainer: Any, **kwargs: Any) -> None: ...

    trainer = tiny_trainer(callbacks=[Quiet, LogMetricsCallback, MoveModulesToDeviceCallback])
    for event in ("on_train_step_start", "on_train_step_end", "on_eval_step_start"):
        assert trainer.callback_handler.listeners(event) == ()
    assert len(trainer.callback_handler.listeners("on_train_epoch_end")) == 2


# ------------------------------------------------------------- what stays in memory


class Remembering(Trainer):
    """Keeps weak references to all that goes through a step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.references: list[Any] = []
        super().__init__(*args, **kwargs)

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        return self._remember(batch, super().calculate_train_batch_loss(batch))

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        return self._remember(batch, super().calculate_eval_batch_loss(batch))

    def _remember(self, batch: Any, output: dict[str, Any]) -> dict[str, Any]:
        alive = [batch[0], output["loss"], output["model_outputs"]]
        self.references += [weakref.ref(item) for item in alive]
        return output


@pytest.mark.parametrize("end", ["finished", "limit of steps", "stopped", "interrupted"])
@pytest.mark.parametrize("reads_losses_per_step", [True, False])
def test_a_run_keeps_no_batch_graph_or_output(end: str, reads_losses_per_step: bool) -> None:
    error = {"stopped": StopTrainingError("x"), "interrupted": KeyboardInterrupt()}.get(end)
    callbacks = [*DEFAULT_CALLBACKS]
    if error is not None:
        callbacks.append(raising("on_train_step_end", error, after=7))
    trainer = tiny_trainer(Remembering, callbacks=callbacks)
    trainer._reads_losses_per_step = reads_losses_per_step
    trainer.print = lambda *args: None
    with suppress(KeyboardInterrupt):
        trainer.train(
            tiny_data(),
            2,
            tiny_data(),
            per_device_batch_size=2,
            max_num_train_steps=7 if end == "limit of steps" else None,
        )
    if error is not None:
        error.__traceback__ = None  # it holds the frames that it went through, as any does
    gc.collect()
    assert len(trainer.references) >= 3 * 7
    assert [ref() for ref in trainer.references if ref() is not None] == []


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("reads_losses_per_step", [True, False])
def test_memory_stays_flat_over_many_steps(reads_losses_per_step: bool) -> None:
    """Over 10,000 steps not even one small object per twenty steps stays."""
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, callbacks=[TerminateOnNaNCallback])
    trainer._reads_losses_per_step = reads_losses_per_step
    blocks, memory = {}, {}

    class Measure(TrainerCallback):
        def on_train_step_start(self, trainer: Any, **kwargs: Any) -> None:
            step = trainer.progress.step
            if step in (500, 9_999):
                gc.collect()
                blocks[step], memory[step] = sys.getallocatedblocks(), resident_bytes()

    trainer.callback_handler.add_callback(Measure)
    trainer.train(tiny_data(2_000), None, per_device_batch_size=1, max_num_train_steps=10_000)
    assert trainer.progress.step == 10_000
    assert blocks[9_999] - blocks[500] < 475
    assert memory[9_999] - memory[500] < 4 * 2**20


def test_the_loss_of_a_finished_run_holds_no_graph() -> None:
    trainer = tiny_trainer(model=tiny_model())
    trainer._reads_losses_per_step = False
    trainer.train(tiny_data(), 1)
    (tracker,) = trainer.loss_trackers
    assert not torch.as_tensor(tracker.total_loss).requires_grad
    assert not torch.as_tensor(tracker.loss_value).requires_grad
