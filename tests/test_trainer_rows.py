"""What a run is given: signatures, schedulers and limits, row by row of what is documented."""

import inspect
from functools import partial
from typing import Any

import pytest
from tiny import Stream, tiny_data, tiny_model, tiny_trainer
from torch.optim import lr_scheduler

import loopwright
from loopwright.callbacks import LimitBatchesCallback
from loopwright.data import LimitBatches
from loopwright.trainer import DEFAULT_CALLBACKS, Trainer, TrainerWithTimmScheduler

Placeholders = loopwright.TrainerPlaceholderValues


def parameters_of(function: Any) -> dict[str, Any]:
    found = inspect.signature(function).parameters
    return {n: p.default for n, p in found.items() if p.kind is not p.KEYWORD_ONLY and n != "self"}


NO = inspect.Parameter.empty


def test_signatures() -> None:
    """P-39, P-44, P-50, P-69, P-71, P-76: names, order and defaults as documented."""
    assert parameters_of(Trainer) == {
        "model": NO,
        "loss_func": NO,
        "optimizer": NO,
        "callbacks": DEFAULT_CALLBACKS,
        "run_history": None,
    }
    assert list(parameters_of(Trainer.train).items()) == [
        ("train_dataset", NO),
        ("num_epochs", NO),
        ("eval_dataset", None),
        ("per_device_batch_size", 8),
        ("max_num_train_steps", None),
        ("gradient_accumulation_steps", 1),
        ("gradient_clip_value", None),
        ("create_scheduler_fn", None),
        ("train_dataloader_kwargs", None),
        ("eval_dataloader_kwargs", None),
        ("reset_run_history", True),
        ("collate_fn", None),
        ("resume_from", None),
    ]
    assert list(parameters_of(Trainer.evaluate).items()) == [
        ("dataset", None),
        ("per_device_batch_size", 8),
        ("dataloader_kwargs", None),
        ("collate_fn", None),
    ]
    assert list(parameters_of(Trainer.save_checkpoint)) == [
        "save_path",
        "checkpoint_kwargs",
        "save_optimizer",
        "save_scheduler",
        "save_per_node",
    ]
    assert list(parameters_of(Trainer.load_checkpoint)) == [
        "checkpoint_path",
        "load_optimizer",
        "load_scheduler",
    ]
    assert list(parameters_of(Trainer.save_training_state)) == ["output_dir", "checkpoint_kwargs"]


def test_the_default_callbacks_in_order() -> None:
    """P-01, P-40."""
    model = tiny_model()
    trainer = loopwright.Trainer(model, None, None)
    assert trainer.callback_handler.callback_list == [
        "MoveModulesToDeviceCallback",
        "TerminateOnNaNCallback",
        "PrintProgressCallback",
        "ProgressBarCallback",
        "LogMetricsCallback",
    ]


# ---------------------------------------------------------------------- schedulers


def test_a_scheduler_function_may_be_a_partial() -> None:
    """P-03, P-05, P-12, P-38: it steps per update."""
    trainer = tiny_trainer(lr=1.0)
    create = partial(lr_scheduler.StepLR, step_size=7, gamma=0.1)
    trainer.train(tiny_data(), 4, per_device_batch_size=4, create_scheduler_fn=create)
    assert trainer.scheduler.last_epoch == 12
    assert trainer.scheduler.get_last_lr() == [pytest.approx(0.1)]


def test_a_scheduler_instance_is_refused() -> None:
    """P-04: the message names the argument."""
    trainer = tiny_trainer()
    scheduler = lr_scheduler.StepLR(trainer.optimizer, 7)
    with pytest.raises(TypeError, match="create_scheduler_fn is a StepLR.*partial"):
        trainer.train(tiny_data(), 1, create_scheduler_fn=scheduler)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_one_cycle_with_placeholders_trains_through(accumulation: int) -> None:
    """P-06, P-09, P-11."""
    trainer = tiny_trainer()
    create = partial(
        lr_scheduler.OneCycleLR,
        max_lr=0.1,
        epochs=Placeholders.NUM_EPOCHS,
        steps_per_epoch=Placeholders.NUM_UPDATE_STEPS_PER_EPOCH,
    )
    trainer.train(
        tiny_data(),
        3,
        per_device_batch_size=4,
        gradient_accumulation_steps=accumulation,
        create_scheduler_fn=create,
    )
    assert (
        trainer.scheduler.total_steps
        == trainer.progress.step
        == 9 // accumulation + (accumulation - 1) * 2
    )


def test_create_scheduler_can_be_overridden() -> None:
    """P-07: it sees the run's configuration."""

    class Scheduled(Trainer):
        def create_scheduler(self) -> Any:
            assert self.run_config is not None
            steps = self.run_config.num_update_steps_per_epoch
            return lr_scheduler.StepLR(self.optimizer, step_size=steps)

    trainer = tiny_trainer(Scheduled)
    trainer.train(tiny_data(), 2, per_device_batch_size=4)
    assert trainer.scheduler.step_size == 3
    assert trainer.scheduler.last_epoch == 6


class TimmLike:
    """Has the interface of timm's schedulers."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.calls: list[tuple[str, int]] = []

    def step(self, epoch: int, metric: float | None = None) -> None:
        self.calls.append(("step", epoch))

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        self.calls.append(("step_update", num_updates))


def test_timm_schedulers_are_stepped_per_update_and_per_epoch() -> None:
    """P-104: by their interface, whoever made them."""
    trainer = tiny_trainer(TrainerWithTimmScheduler)
    trainer.train(
        tiny_data(),
        2,
        per_device_batch_size=3,
        gradient_accumulation_steps=2,
        create_scheduler_fn=TimmLike,
    )
    updates = [("step_update", n) for n in (1, 2, 3, 4)]
    assert trainer.scheduler.calls == [*updates[:2], ("step", 1), *updates[2:], ("step", 2)]


def test_a_scheduler_does_not_outlive_its_run() -> None:
    trainer = tiny_trainer()
    trainer.train(tiny_data(), 1, create_scheduler_fn=lr_scheduler.ConstantLR)
    trainer.train(tiny_data(), 1)
    assert trainer.scheduler is None


# -------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"),
    [(2, None, 6), (2, 50, 6), (10, 4, 4), (None, 7, 7), (2, 6, 6), (1, 1, 1), (None, 3, 3)],
)
def test_the_smaller_limit_wins(epochs: int | None, steps: int | None, expected: int) -> None:
    """P-53 to P-55."""
    trainer = tiny_trainer()
    trainer.train(tiny_data(), epochs, per_device_batch_size=4, max_num_train_steps=steps)
    assert trainer.progress.step == expected
    assert trainer.run_config.max_num_train_steps == expected
    assert len(trainer.run_history.get_metric_values("train_loss_epoch")) == -(-expected // 3)


def test_the_limit_of_steps_counts_updates() -> None:
    """P-53: not micro-batches; the epoch that it cuts ends as others do, with an evaluation."""
    trainer = tiny_trainer()
    trainer.train(
        tiny_data(),
        10,
        tiny_data(),
        per_device_batch_size=2,
        gradient_accumulation_steps=2,
        max_num_train_steps=4,
    )
    assert trainer.progress.step == 4
    assert trainer.progress.samples == 16
    assert len(trainer.run_history.get_metric_values("eval_loss_epoch")) == 2


def test_iterable_data_of_unknown_length_trains() -> None:
    trainer = tiny_trainer()
    trainer.train(Stream(10), 2, Stream(5), per_device_batch_size=4)
    assert trainer.progress.step == 6
    assert trainer.run_config.num_update_steps_per_epoch is None
    trainer.train(Stream(10), None, max_num_train_steps=8, per_device_batch_size=4)
    assert trainer.progress.step == 8
    create = partial(lr_scheduler.StepLR, step_size=Placeholders.NUM_UPDATE_STEPS_PER_EPOCH)
    with pytest.raises(ValueError, match="NUM_UPDATE_STEPS_PER_EPOCH.*length"):
        trainer.train(Stream(10), 1, create_scheduler_fn=create)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"num_epochs": 0}, ValueError),
        ({"num_epochs": 1.5}, TypeError),
        ({"num_epochs": None}, ValueError),
        ({"num_epochs": 1, "per_device_batch_size": 0}, ValueError),
        ({"num_epochs": 1, "gradient_accumulation_steps": 0}, ValueError),
        ({"num_epochs": 1, "max_num_train_steps": -1}, ValueError),
        ({"num_epochs": 1, "gradient_clip_value": -1.0}, ValueError),
        ({"num_epochs": 1, "gradient_clip_norm": 0.0}, ValueError),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, Any], error: Any) -> None:
    with pytest.raises(error, match=next(reversed(arguments))):
        tiny_trainer().train(tiny_data(), **arguments)


@pytest.mark.parametrize("how", ["callback", "manager", "environment"])
def test_batches_can_be_limited(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P-98: in three ways, for training and evaluation, in each epoch."""
    seen: list[int] = []

    class Seeing(Trainer):
        def calculate_eval_batch_loss(self, batch: Any) -> Any:
            seen.append(len(batch[0]))
            return super().calculate_eval_batch_loss(batch)

    if how == "environment":
        monkeypatch.setenv("LOOPWRIGHT_LIMIT_BATCHES", "2")
    with LimitBatches(2 if how == "manager" else 99):
        pass
    if how == "manager":
        with LimitBatches(2):
            trainer = tiny_trainer(Seeing)
    else:
        trainer = tiny_trainer(
            Seeing, callbacks=[LimitBatchesCallback(2)] if how == "callback" else []
        )
    trainer.train(tiny_data(), 2, tiny_data(), per_device_batch_size=2)
    assert trainer.progress.step == 4
    assert seen == [2] * 4
    trainer.evaluate(tiny_data(), 3)
    assert seen[4:] == [3, 3]


@pytest.mark.parametrize("epochs", [None, 10])
def test_limits_of_batches_and_of_steps_work_together(epochs: int | None) -> None:
    """P-53, P-98: the run makes all the steps it was asked for, over more epochs."""
    trainer = tiny_trainer(callbacks=[LimitBatchesCallback(2)])
    trainer.train(tiny_data(), epochs, per_device_batch_size=2, max_num_train_steps=7)
    assert trainer.progress.step == 7
    assert trainer.progress.epochs_done == 4


def test_the_environment_and_a_callback_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPWRIGHT_LIMIT_BATCHES", "3")
    for given, expected in ((2, 2), (5, 3)):
        trainer = tiny_trainer(callbacks=[LimitBatchesCallback(given)])
        trainer.train(tiny_data(), 1, per_device_batch_size=2)
        assert trainer.progress.step == expected
