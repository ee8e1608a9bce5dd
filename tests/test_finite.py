"""Tests of what a loss that is not finite leaves: all as it was before that step, on both paths.

The path of accelerators runs here on CPU tensors, where the same operations set the same flag.
"""

import inspect
import math
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import MapData, Stream, same, tiny_data, tiny_model, tiny_trainer, weights
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW

from loopwright.callbacks import ModelEmaCallback, StepBasedEvaluationCallback
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.default_callbacks import TerminateOnNaNCallback
from loopwright.errors import CheckpointError, RunInterrupted
from loopwright.events import StopTrainingError, TrainerCallback
from loopwright.finite import NonFiniteLossError, skips_on_device
from loopwright.trainer import Trainer

FUSED_SGD = partial(SGD, lr=0.1, momentum=0.9, fused=True)
PATHS = pytest.mark.parametrize("reads", [True, False], ids=["host", "device"])


def make_model() -> nn.Module:
    """Return a model with dropout, and buffers that steps change beside one they do not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    model.register_buffer("mask", torch.ones(64, dtype=torch.bool))
    return model


class Poisoned(Trainer):
    """Gets a micro-batch of NaN, by its number in the run."""

    at: int | None = None
    seen = 0

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        self.seen += 1
        if self.seen == self.at:
            batch = [batch[0] * math.nan, *batch[1:]]
        return super().calculate_train_batch_loss(batch)


def make_trainer(
    optimizer: Callable[..., Any] = FUSED_SGD,
    *,
    reads: bool,
    kind: type[Trainer] = Poisoned,
    callbacks: Any = (),
    **options: Any,
) -> Any:
    model = make_model()
    callback = TerminateOnNaNCallback()
    callback.seconds_between_reads = 1e9  # the end of the epoch is the first read
    options.setdefault("seed", 3)
    loss = nn.CrossEntropyLoss()
    trainer = kind(model, loss, optimizer(model.parameters()), [callback, *callbacks], **options)
    trainer._reads_losses_per_step = reads
    trainer.print = lambda *args: None
    return trainer


def state_of(trainer: Any) -> dict[str, Any]:
    """Return all that a bad step must leave as it was."""
    scheduler = trainer.scheduler
    return {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": scheduler and scheduler.state_dict(),
        "step": (trainer.progress.step, trainer.progress.samples, trainer.progress.micro_batch),
        "torch": torch.get_rng_state(),
        "loss": float(trainer._loss_tracker.total_loss),
    }


def assert_same(first: Any, second: Any, where: str = "") -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}.{index}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


def halving(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)


def compare(
    tmp_path: Any,
    optimizer: Callable[..., Any],
    *,
    reads: bool,
    good_steps: int,
    accumulation: int = 1,
    offset: int = 1,
    **arguments: Any,
) -> Any:
    """Compare a run with a bad micro-batch with one that ended before that step."""
    states = []
    for at in (None, good_steps * accumulation + offset):
        torch.manual_seed(7)
        trainer = make_trainer(optimizer, reads=reads, run_dir=tmp_path / str(at))
        trainer.at = at
        trainer.train(
            tiny_data(32),
            3,
            per_device_batch_size=2,
            max_num_train_steps=good_steps if at is None else None,
            gradient_accumulation_steps=accumulation,
            create_scheduler_fn=halving,
            **arguments,
        )
        states.append(state_of(trainer))
    assert "nan" in trainer.stop_reason
    assert_same(*states)
    assert trainer.run_history.get_metric_names() == set()  # the epoch has no loss
    return trainer


@PATHS
@pytest.mark.parametrize(
    "optimizer",
    [
        FUSED_SGD,
        partial(SGD, lr=0.1, momentum=0.9),
        partial(Adam, fused=True),
        partial(AdamW, fused=True, weight_decay=0.1),
        partial(AdamW, amsgrad=True),
        partial(Adagrad, fused=True),
    ],
    ids=["sgd fused", "sgd", "adam fused", "adamw fused", "adamw", "adagrad fused"],
)
def test_nothing_changes_from_the_bad_step_on(tmp_path: Any, reads: bool, optimizer: Any) -> None:
    """Weights, optimizer, buffers, schedule, counters and random state are those before it."""
    compare(tmp_path, optimizer, reads=reads, good_steps=5)


@PATHS
@pytest.mark.parametrize("good_steps", [1, 2, 4])
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_under_accumulation_the_whole_step_is_undone(
    tmp_path: Any, reads: bool, good_steps: int, offset: int
) -> None:
    compare(tmp_path, FUSED_SGD, reads=reads, good_steps=good_steps, accumulation=3, offset=offset)


@PATHS
def test_with_clipping(tmp_path: Any, reads: bool) -> None:
    optimizer = partial(AdamW, fused=True)
    compare(tmp_path, optimizer, reads=reads, good_steps=3, gradient_clip_norm=1.0)


@PATHS
def test_the_first_step_of_a_run(reads: bool) -> None:
    """A fused SGD leaves memory as it found it as momentum; it must not stay."""
    trainer = make_trainer(reads=reads)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.at = 1
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    assert trainer.progress.step == 0
    assert_same(before, dict(trainer.model.state_dict()))
    assert not trainer.optimizer.state


@PATHS
def test_in_a_later_epoch_the_losses_of_earlier_ones_stay(reads: bool) -> None:
    trainer = make_trainer(reads=reads)
    trainer.at = 9
    trainer.train(tiny_data(), 5, per_device_batch_size=2)
    assert trainer.progress.epochs_done == 1
    assert trainer.progress.step == 8
    assert "epoch 2, after step 8" in trainer.stop_reason
    (loss,) = trainer.run_history.get_metric_values("train_loss_epoch")
    assert math.isfinite(loss)


@PATHS
def test_an_averaged_model_takes_in_good_steps_alone(tmp_path: Path, reads: bool) -> None:
    averages = []
    for at, epochs in ((None, 1), (9, 2)):
        average = ModelEmaCallback(
            evaluate_during_training=False, save_path=tmp_path / "ema.pt", decay=0.5
        )
        torch.manual_seed(7)
        trainer = make_trainer(reads=reads, callbacks=[average])
        trainer.at = at
        trainer.train(tiny_data(), epochs, per_device_batch_size=2)
        assert average.ema_model is not None
        averages.append(dict(average.ema_model.state_dict()))
    assert trainer.progress.step == 8
    assert_same(*averages)


def test_the_device_is_read_at_intervals() -> None:
    """With no time between reads the run stops at the bad micro-batch itself."""
    trainer = make_trainer(reads=False)
    next(iter(trainer.callback_handler)).seconds_between_reads = 0.0
    trainer.at = 2
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    assert trainer.seen == 2
    trainer = make_trainer(reads=False)
    trainer.at = 2
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    assert trainer.seen == 6


@PATHS
def test_a_gradient_whose_norm_is_not_finite_stops_the_run(reads: bool) -> None:
    """The loss is finite, and clipping looks at the gradient anyway."""

    class Root(Trainer):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            output = super().calculate_train_batch_loss(batch)
            if self.progress.step == 2:
                output["loss"] = output["loss"] + self.model[0].weight.mul(0.0).abs().sum().sqrt()
            return output

    trainer = make_trainer(reads=reads, kind=Root)
    trainer.train(tiny_data(), 1, per_device_batch_size=2, gradient_clip_norm=1.0)
    assert "norm of the gradient became" in trainer.stop_reason
    assert trainer.progress.step == 2
    assert all(torch.isfinite(weight).all() for weight in weights(trainer))


class Two(Trainer):
    """Has an optimizer for each layer; the second one's loss is bad at some step."""

    at = 3

    def train_step(self, batch: Any) -> Any:
        for name, optimizer in self.optimizer.items():
            assert len(optimizer.param_groups) == 1
            loss = self.loss_func(self.model(batch[0]), batch[1])
            bad = name == "last" and self.progress.step == self.at
            self.update(loss * math.nan if bad else loss, name)


@PATHS
@pytest.mark.parametrize("fused", [True, False])
def test_several_optimizers(reads: bool, fused: bool) -> None:
    """The update whose loss is bad does nothing, nor does any that follows it."""
    model, states = tiny_model(), []
    layers = {"first": model[0], "last": model[3]}
    for stop_at in (3, None):
        model.load_state_dict(tiny_model().state_dict())
        optimizers = {
            name: AdamW(layer.parameters(), fused=fused) for name, layer in layers.items()
        }
        callback = TerminateOnNaNCallback()
        callback.seconds_between_reads = 1e9
        trainer: Any = Two(
            model, nn.CrossEntropyLoss(), optimizers, [callback] if stop_at is None else (), seed=3
        )
        trainer._reads_losses_per_step = reads
        trainer.print = lambda *args: None
        if stop_at is not None:
            trainer.at = None
        trainer.train(tiny_data(), None, per_device_batch_size=2, max_num_train_steps=stop_at or 6)
        states.append({k: v.clone() for k, v in model[3].state_dict().items()})
    assert trainer.progress.step == 3
    assert trainer.stop_reason
    assert_same(*states)
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert {
        name: float(tracker.running_count) for name, tracker in trainer._named_losses.items()
    } == {
        "first": 6,
        "last": 6,
    }


@PATHS
def test_a_step_that_is_half_done_is_no_state_to_go_on_from(tmp_path: Path, reads: bool) -> None:
    """The first optimizer updated before the second one's loss was bad: an earlier state counts."""
    ends = []
    for at in (None, 3):
        model = tiny_model()
        layers = {"first": model[0], "last": model[3]}
        optimizers = {name: SGD(each.parameters(), lr=0.1) for name, each in layers.items()}
        for attempt in ("poisoned", "mended"):
            trainer: Any = Two(
                model,
                nn.CrossEntropyLoss(),
                optimizers,
                [TerminateOnNaNCallback],
                seed=3,
                run_dir=tmp_path / str(at),
                checkpoint=CheckpointPolicy(every_steps=2),
            )
            trainer._reads_losses_per_step = reads
            trainer.print = lambda *args: None
            trainer.at = at if attempt == "poisoned" else None
            trainer.train(tiny_data(), 1, per_device_batch_size=2, resume="latest")
            if attempt == "poisoned" and at is not None:
                assert trainer.progress.step == 3
                folders = sorted(path.name for path in (tmp_path / "3" / "checkpoints").iterdir())
                assert folders[-1] == "step-00000002"
        ends.append([weight.detach().clone() for weight in model.parameters()])
    assert same(*ends)


@PATHS
def test_a_train_step_that_reports_its_loss_last(reads: bool) -> None:
    """`update` looks at a loss that was not reported before it."""

    class Own(Poisoned):
        def train_step(self, batch: Any) -> Any:
            output = self.calculate_train_batch_loss(batch)
            self.update(output["loss"])
            return output

    trainer = make_trainer(reads=reads, kind=Own)
    trainer.at = 3
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    assert trainer.progress.step == 2
    assert all(torch.isfinite(weight).all() for weight in weights(trainer))


def test_fp16_reads_each_loss() -> None:
    """The scaler reads the device anyway, and keeps its scale; CPUs know fp16 too."""
    states = []
    for at in (None, 4):
        trainer = make_trainer(partial(SGD, lr=0.1), reads=False, precision="fp16")
        trainer.at = at
        limit = 3 if at is None else None
        torch.manual_seed(1)
        trainer.train(tiny_data(), 1, per_device_batch_size=2, max_num_train_steps=limit)
        (scaler,) = trainer._scalers.values()
        states.append({**state_of(trainer), "scaler": scaler.state_dict()})
    assert (trainer.seen, trainer.progress.step) == (4, 3)
    for state in states:
        del state["torch"]  # without a folder nobody needs it
    assert_same(*states)
    trainer.at = None
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    assert trainer.progress.step == 6


@PATHS
def test_without_the_callback_nothing_is_looked_at(reads: bool) -> None:
    trainer = make_trainer(reads=reads)
    trainer.callback_handler.clear_callbacks()
    trainer.at = 2
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    assert trainer.progress.step == 6
    assert not hasattr(trainer.optimizer, "found_inf")


@PATHS
def test_the_optimizer_is_left_as_it_was(reads: bool) -> None:
    trainer = make_trainer(reads=reads)
    trainer.train(tiny_data(), 1)
    assert not hasattr(trainer.optimizer, "found_inf")
    assert trainer._guard is None


@PATHS
def test_training_can_go_on_after_a_stop(reads: bool) -> None:
    trainer = make_trainer(reads=reads)
    trainer.at = 3
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    assert trainer.stop_reason is None
    assert trainer.progress.step == 6


# --------------------------------------------------------------------------- what is saved


@PATHS
def test_the_last_checkpoint_stands_before_the_bad_step(tmp_path: Any, reads: bool) -> None:
    """A run that goes on from it, with the data mended, ends as one that was never poisoned."""
    whole = make_trainer(reads=reads, run_dir=tmp_path / "whole")
    torch.manual_seed(7)
    whole.train(tiny_data(32), 2, per_device_batch_size=2, create_scheduler_fn=halving)
    trainer = make_trainer(reads=reads, run_dir=tmp_path / "run")
    trainer.at = 21
    torch.manual_seed(7)
    trainer.train(tiny_data(32), 2, per_device_batch_size=2, create_scheduler_fn=halving)
    assert trainer.progress.step == 20
    mended = make_trainer(reads=reads, run_dir=tmp_path / "run")
    torch.manual_seed(99)
    mended.train(
        tiny_data(32), 2, per_device_batch_size=2, create_scheduler_fn=halving, resume="latest"
    )
    assert_same(state_of(whole), state_of(mended))
    assert_same(whole.run_history._metrics, mended.run_history._metrics)


def test_a_save_reads_the_flag_first(tmp_path: Any) -> None:
    """No checkpoint holds skipped steps: the run stops instead of saving them."""

    class Saving(TrainerCallback):
        def on_train_step_start(self, trainer: Any, **kwargs: Any) -> None:
            if trainer.progress.step == 5:
                trainer.save_training_state(tmp_path / "state")

    trainer = make_trainer(reads=False, callbacks=[Saving])
    trainer.at = 3
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    assert trainer.progress.step == 2
    assert not (tmp_path / "state").exists()


def test_a_signal_before_the_flag_is_read(tmp_path: Path) -> None:
    """What is saved stands before the bad step, so that the run that goes on meets it again."""

    class Signalled(TrainerCallback):
        def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
            if trainer.progress.step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = make_trainer(reads=False, callbacks=[Signalled], run_dir=tmp_path)
    trainer.at = 3
    with pytest.raises(RunInterrupted) as caught:
        trainer.train(tiny_data(), 1, per_device_batch_size=2)
    assert caught.value.checkpoint.name == "step-00000002"
    again = make_trainer(reads=False, run_dir=tmp_path)
    again.at = 1
    again.train(tiny_data(), 1, per_device_batch_size=2, resume="latest")
    assert again.progress.step == 2
    assert "nan" in again.stop_reason


def test_an_evaluation_within_an_epoch_reads_the_flag_first() -> None:
    evaluated = []

    class Looking(TrainerCallback):
        def on_eval_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
            evaluated.append(trainer.progress.step)

    for at, expected in ((None, [4, 6]), (3, [])):
        evaluated.clear()
        trainer = make_trainer(reads=False, callbacks=[StepBasedEvaluationCallback(4), Looking])
        trainer.at = at
        trainer.train(tiny_data(), 1, tiny_data(), per_device_batch_size=2)
        assert evaluated == expected
    assert trainer.progress.step == 2


@PATHS
def test_a_callback_that_comes_later_looks_from_the_next_epoch_on(reads: bool) -> None:
    class Adding(TrainerCallback):
        def on_train_epoch_end(self, trainer: Any, **kwargs: Any) -> None:
            if trainer.progress.epoch == 1:
                trainer.callback_handler.add_callback(TerminateOnNaNCallback)

    trainer = make_trainer(reads=reads)
    trainer.callback_handler.clear_callbacks()
    trainer.callback_handler.add_callback(Adding)
    trainer.at = 8
    trainer.train(tiny_data(), 2, per_device_batch_size=2)
    assert trainer.progress.step == 7


@PATHS
def test_an_optimizer_that_only_a_hook_of_the_trainer_knows(reads: bool) -> None:
    class Own(Poisoned):
        def optimizer_step(self) -> None:
            for parameter in self.model.parameters():
                parameter.data.sub_(0.1 * parameter.grad)

        def optimizer_zero_grad(self) -> None:
            self.model.zero_grad()

    trainer = make_trainer(reads=reads, kind=Own)
    trainer.optimizer = None
    trainer.at = 3
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    assert trainer.progress.step == 2
    assert all(torch.isfinite(weight).all() for weight in weights(trainer))


def test_another_stop_does_not_hide_a_bad_step() -> None:
    class Stopping(TrainerCallback):
        def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
            if trainer.progress.step == 4:
                raise StopTrainingError("enough")

    trainer = make_trainer(reads=False, callbacks=[Stopping])
    trainer.at = 3
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    assert "nan" in trainer.stop_reason
    assert trainer.progress.step == 2
    trainer = make_trainer(reads=False, callbacks=[Stopping])
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    assert trainer.stop_reason == "enough"


def test_a_loader_that_ran_ahead_is_not_taken_to_stand_there(tmp_path: Any) -> None:
    """A loader of the user's has given batches of steps that were undone."""

    class Own(Poisoned):
        def create_train_dataloader(self, batch_size: int, train_dl_kwargs: Any = None) -> Any:
            return torch.utils.data.DataLoader(MapData(), batch_size=batch_size)

    trainer = make_trainer(reads=False, kind=Own, run_dir=tmp_path)
    trainer.at = 3
    trainer.train(MapData(), 1, per_device_batch_size=2)
    assert trainer.progress.step == 2
    again = make_trainer(reads=False, kind=Own, run_dir=tmp_path)
    with pytest.raises(CheckpointError, match="saved inside a step"):
        again.train(MapData(), 1, per_device_batch_size=2, resume="latest")


# ----------------------------------------------------------------------------- buffers


class Counting(nn.Module):
    """Counts its calls in a buffer that it puts in place of the one before, and as a float."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(3, dtype=torch.complex64))
        self.register_buffer("unused", None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.count = self.count + 1
            self.mean.mul_(0.5).add_(inputs.detach().mean(0))
        return inputs


@PATHS
def test_buffers_that_a_module_puts_in_place_of_others(reads: bool) -> None:
    trainer = make_trainer(reads=reads)
    trainer.model = nn.Sequential(Counting(), trainer.model)
    trainer.at = 4
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    counting = trainer.model[0]
    assert counting.count.tolist() == [3, 3]
    assert torch.isfinite(torch.view_as_real(counting.mean)).all()


def test_between_the_bad_step_and_the_read_buffers_are_put_back() -> None:
    """What is evaluated meanwhile is the model of before."""
    seen: list[list[float]] = []

    class Looking(TrainerCallback):
        def on_train_step_start(self, trainer: Any, **kwargs: Any) -> None:
            seen.append(trainer.model[1].running_mean.tolist())

    trainer = make_trainer(reads=False, callbacks=[Looking])
    trainer.at = 3
    trainer.train(tiny_data(), 1, per_device_batch_size=2)
    assert len(seen) == 6
    assert seen[0] != seen[1] != seen[2]
    assert seen[2] == seen[3] == seen[4] == seen[5] == trainer.model[1].running_mean.tolist()


def test_a_buffer_that_steps_begin_to_change_in_a_later_epoch() -> None:
    """Such as that of a layer that was frozen."""

    class Thawing(TrainerCallback):
        def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
            trainer.model[1].train(trainer.progress.epoch > 1)

    trainer = make_trainer(reads=True, callbacks=[Thawing])
    trainer.at = 9
    trainer.train(tiny_data(), 2, per_device_batch_size=2)
    assert trainer.model[1].num_batches_tracked == 2
    assert torch.isfinite(trainer.model[1].running_mean).all()


# ------------------------------------------------------------------- what it costs a step


def test_a_step_on_a_cpu_without_buffers_or_draws_calls_nothing(tmp_path: Any) -> None:
    """After the first micro-batch of an epoch the guard is not called, with a folder or without."""
    trainer = tiny_trainer(callbacks=[TerminateOnNaNCallback], run_dir=tmp_path)
    trainer.print = lambda *args: None
    watching = []

    class Looking(TrainerCallback):
        def on_train_step_start(self, trainer: Any, **kwargs: Any) -> None:
            watching.append(trainer._guard.is_watching)

    trainer.callback_handler.add_callback(Looking)
    trainer.train(tiny_data(), 2, per_device_batch_size=2)
    assert watching == [True, *[False] * 5] * 2
    assert trainer.callback_handler.listeners("on_train_step_end") == ()


def test_what_a_step_draws_from_is_found_out(tmp_path: Any) -> None:
    class Drawing(Trainer):
        def train_step(self, batch: Any) -> Any:
            np.random.rand()
            return super().train_step(batch)

    kept = []

    class Looking(TrainerCallback):
        def on_train_step_start(self, trainer: Any, **kwargs: Any) -> None:
            kept.append(set(trainer._guard._records[-1].random))

    state = np.random.get_state()
    trainer = tiny_trainer(
        Drawing,
        tiny_model(dropout=0.5),
        callbacks=[TerminateOnNaNCallback, Looking],
        run_dir=tmp_path,
    )
    trainer.print = lambda *args: None
    trainer.train(tiny_data(), 1, per_device_batch_size=4)
    np.random.set_state(state)
    assert kept == [{"torch", "python", "numpy"}, {"torch", "numpy"}, {"torch", "numpy"}]


def test_batches_of_other_loaders_are_kept_in_bounds() -> None:
    """On the device at most five batches are alive; the flag is read to let go of the others."""
    kept = []

    class Looking(TrainerCallback):
        def on_train_step_start(self, trainer: Any, **kwargs: Any) -> None:
            kept.append(sum(len(record.batches) for record in trainer._guard._records))

    def train(data: Any) -> list[int]:
        kept.clear()
        trainer = make_trainer(reads=False, callbacks=[Looking])
        trainer.train(data, 1, per_device_batch_size=2)
        return list(kept)

    assert max(train(Stream(40))) <= 5
    assert min(kept) == 1
    assert set(train(tiny_data(40))) == {0}


def test_weights_after_a_stop_are_those_of_a_loop_written_by_hand() -> None:
    """The steps before the bad one are done as ever."""
    inputs, targets = tiny_data()
    trainer = make_trainer(reads=False)
    trainer.at = 4
    order: list[Any] = []

    class Order(TrainerCallback):
        def on_train_step_end(self, trainer: Any, batch: Any, **kwargs: Any) -> None:
            order.append([part.clone() for part in batch])

    trainer.callback_handler.add_callback(Order)
    torch.manual_seed(1)
    trainer.train((inputs, targets), 1, per_device_batch_size=2)
    model = make_model().train()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    torch.manual_seed(1)
    for batch in order[:3]:
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert same(model.parameters(), trainer.model.parameters())


def test_the_optimizers_that_skip_are_those_of_the_documentation() -> None:
    optimizers = [each for each in vars(torch.optim).values() if isinstance(each, type)]
    fused = [each for each in optimizers if "fused" in inspect.signature(each).parameters]
    assert {each.__name__ for each in fused} == {"Adam", "AdamW", "SGD", "Adagrad"}
    for kind in fused:
        assert skips_on_device(kind(tiny_model().parameters(), lr=0.1, fused=True))
        assert not skips_on_device(kind(tiny_model().parameters(), lr=0.1))


def test_the_error_is_a_clean_stop() -> None:
    assert issubclass(NonFiniteLossError, StopTrainingError)
    assert NonFiniteLossError.is_failure


@pytest.fixture(autouse=True)
def _random_states() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield
