"""What the trainer does, row by row of what is documented."""

import inspect
from functools import partial
from typing import Any

import pytest
import torch
from tiny import MapData, Stream, same, tiny_data, tiny_model, tiny_trainer, weights
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import default_collate

import loopwright
from loopwright.callbacks import LimitBatchesCallback, LogMetricsCallback
from loopwright.data import LimitBatches
from loopwright.errors import NotSupportedError
from loopwright.history import InMemoryRunHistory
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
    assert trainer.scheduler.total_steps == trainer.progress.step == 9 // accumulation + (
        accumulation - 1
    ) * 2


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
    """P-53: not micro-batches; and the epoch that it cuts ends as others do, evaluation included."""
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


# ------------------------------------------------------------------- losses and history


def test_what_is_recorded() -> None:
    """P-24, P-25, P-45, P-46, P-51."""
    trainer = tiny_trainer()
    trainer.train(tiny_data(), 2)
    assert trainer.run_history.get_metric_names() == {"train_loss_epoch"}
    trainer.train(tiny_data(), 3, tiny_data())
    assert trainer.run_history.get_metric_names() == {"train_loss_epoch", "eval_loss_epoch"}
    assert len(trainer.run_history.get_metric_values("eval_loss_epoch")) == 3
    trainer.evaluate(tiny_data())
    assert trainer.run_history.get_metric_names() == {"evaluation_loss"}


def test_the_history_can_be_kept() -> None:
    """P-49, P-84: and epochs go on, in their own order of data."""
    once, twice = tiny_trainer(), tiny_trainer()
    once.train(tiny_data(), 5)
    twice.train(tiny_data(), 2)
    assert twice.run_history.current_epoch == 3
    twice.train(tiny_data(), 3, reset_run_history=False)
    assert twice.run_history.current_epoch == 6
    assert same(weights(once), weights(twice))
    assert once.run_history.get_metric_values("train_loss_epoch") == (
        twice.run_history.get_metric_values("train_loss_epoch")
    )
    twice.train(tiny_data(), 1)
    assert len(twice.run_history.get_metric_values("train_loss_epoch")) == 1


def test_any_history_can_be_passed() -> None:
    """P-86."""

    class Counting(InMemoryRunHistory):
        updates = 0

        def update_metric(self, metric_name: str, metric_value: Any) -> None:
            self.updates += 1
            super().update_metric(metric_name, metric_value)

    history = Counting()
    trainer = tiny_trainer(run_history=history)
    trainer.train(tiny_data(), 2, tiny_data())
    assert trainer.run_history is history
    assert history.updates == 4


def test_a_subclass_with_metrics() -> None:
    """P-15, P-27 to P-30: the documented example, with a metric of our own."""

    class Accuracy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hits: list[bool] = []

        def update(self, predictions: torch.Tensor, targets: torch.Tensor) -> None:
            self.hits += (predictions == targets).tolist()

    class TrainerWithMetrics(Trainer):
        def __init__(self, num_classes: int, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.num_classes, self.metrics = num_classes, Accuracy()

        def calculate_eval_batch_loss(self, batch: Any) -> Any:
            batch_output = super().calculate_eval_batch_loss(batch)
            self.metrics.update(batch_output["model_outputs"].argmax(dim=-1), batch[1])
            return batch_output

        def eval_epoch_end(self) -> None:
            accuracy = torch.tensor(self.metrics.hits).float().mean()
            self.run_history.update_metric("accuracy", accuracy.cpu())
            self.metrics.hits = []

    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    printed: list[Any] = []
    trainer = TrainerWithMetrics(3, model, nn.CrossEntropyLoss(), optimizer)
    trainer.print = lambda *args: printed.extend(args)  # type: ignore[method-assign]
    trainer.train(tiny_data(), 2, tiny_data(), per_device_batch_size=5)
    inputs, targets = tiny_data()
    expected = (model(inputs).argmax(-1) == targets).float().mean()
    assert trainer.run_history.get_latest_metric("accuracy") == pytest.approx(expected.item())
    assert any("accuracy" in str(line) for line in printed)


def test_extra_outputs_reach_callbacks_and_a_missing_size_is_named() -> None:
    """P-61."""

    class Extra(Trainer):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            return {**super().calculate_train_batch_loss(batch), "extra": len(batch[0])}

    class Seeing(LogMetricsCallback):
        seen: list[int] = []  # noqa: RUF012

        def on_train_step_end(self, trainer: Any, batch_output: Any, **kwargs: Any) -> None:
            self.seen.append(batch_output["extra"])

    tiny_trainer(Extra, callbacks=[Seeing]).train(tiny_data(10), 1, per_device_batch_size=4)
    assert Seeing.seen == [4, 4, 2]

    class Sizeless(Trainer):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            output = super().calculate_train_batch_loss(batch)
            return {"loss": output["loss"], "model_outputs": output["model_outputs"]}

    with pytest.raises((KeyError, ValueError), match="batch_size"):
        tiny_trainer(Sizeless).train(tiny_data(), 1)


@pytest.mark.parametrize("limit", [0.01, 0.1])
def test_gradient_values_are_clipped(limit: float) -> None:
    """P-57: the value clip reaches every entry, once per update, on the whole gradient."""
    found: list[float] = []

    class Clipped(Trainer):
        def optimizer_step(self) -> None:
            found.append(max(p.grad.abs().max().item() for p in self.model.parameters()))
            super().optimizer_step()

    trainer = tiny_trainer(Clipped)
    trainer.train(
        tiny_data(), 2, gradient_clip_value=limit, gradient_accumulation_steps=2
    )
    assert max(found) == pytest.approx(limit)


def test_collate_fn_goes_to_both_loaders() -> None:
    """P-58."""
    sizes: list[int] = []

    def collate(samples: list[Any]) -> Any:
        sizes.append(len(samples))
        return default_collate(samples)

    options = {"num_workers": 0}
    trainer = tiny_trainer()
    trainer.train(
        MapData(10),
        1,
        MapData(6),
        per_device_batch_size=5,
        collate_fn=collate,
        train_dataloader_kwargs=options,
        eval_dataloader_kwargs=options,
    )
    assert sizes == [5, 5, 5, 1]


def test_loader_options_win_over_the_batch_size() -> None:
    """P-59, P-79."""
    trainer = tiny_trainer()
    trainer.train(
        tiny_data(),
        1,
        tiny_data(),
        per_device_batch_size=5,
        gradient_accumulation_steps=2,
        train_dataloader_kwargs={"batch_size": 3, "sampler": range(6)},
        eval_dataloader_kwargs={"batch_size": 6},
    )
    config = trainer.run_config
    assert trainer.progress.samples == 6
    assert config.train_per_device_batch_size == 3
    assert config.train_total_batch_size == 6
    assert config.eval_per_device_batch_size == config.eval_total_batch_size == 6
    assert config.num_update_steps_per_epoch == 1
    assert config.to_dict()["train_dl_kwargs"]["sampler"] == range(6)  # P-80
    with pytest.raises(AttributeError):
        config.num_epochs = 2


def test_modes_of_the_model() -> None:
    """P-64."""
    seen = []

    class Seeing(Trainer):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            seen.append(("train", self.model.training, torch.is_grad_enabled()))
            return super().calculate_train_batch_loss(batch)

        def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
            seen.append(("eval", self.model.training, torch.is_grad_enabled()))
            return super().calculate_eval_batch_loss(batch)

    tiny_trainer(Seeing).train(tiny_data(), 2, tiny_data(), per_device_batch_size=12)
    assert seen == [("train", True, True), ("eval", False, False)] * 2


# --------------------------------------------------------------------------- the rest


def test_prediction() -> None:
    model = tiny_model(dropout=0.5)
    trainer = tiny_trainer(model=model)
    inputs, targets = tiny_data(10)
    with torch.no_grad():
        expected = model.eval()(inputs)
    model.train()
    for data in (inputs, (inputs, targets), MapData(10), Stream(10)):
        found = trainer.predict(data, 4)
        assert torch.allclose(found, expected, atol=1e-6)
        assert not found.requires_grad
        assert model.training
    streamed = list(trainer.predict(inputs, 4, stream=True))
    assert [len(part) for part in streamed] == [4, 4, 2]
    assert torch.allclose(torch.cat(streamed), expected, atol=1e-6)


def test_a_stream_of_predictions_leaves_the_callers_draws_and_modes_alone() -> None:
    trainer = tiny_trainer(model=tiny_model(dropout=0.5))
    draws = []
    for _ in trainer.predict(tiny_data()[0], 4, stream=True):
        draws.append(torch.rand(1).item())
        assert trainer.model.training
    draws.append(torch.rand(1).item())
    assert len(set(draws)) == 4


def test_model_gather_and_print(capsys: pytest.CaptureFixture[str]) -> None:
    """P-65 to P-68, in one process."""
    trainer = tiny_trainer(device="cpu")
    model = trainer.model
    trainer.train(tiny_data(), 1)
    assert trainer.model is model is trainer.get_model()
    assert trainer.get_model(keep_torch_compile=False) is model
    assert trainer.device == torch.device("cpu")
    rows = torch.tensor([[1, 2], [0, 0]])
    assert trainer.gather(rows) is rows
    assert trainer.gather(rows, padding_value=0).tolist() == [[1, 2]]
    trainer.print("once", "only")
    assert capsys.readouterr().out == "once only\n"


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(NotSupportedError, match="2 processes.*torchrun"):
        tiny_trainer()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"precision": "fp8"}, ValueError),
        ({"step_mode": "fast"}, ValueError),
        ({"step_mode": "compile"}, NotSupportedError),
        ({"checkpoint": object()}, NotSupportedError),
        ({"device": "cuda:99"}, ValueError),
    ],
    ids=str,
)
def test_settings_that_are_not_there_are_refused(options: dict[str, Any], error: Any) -> None:
    with pytest.raises(error):
        tiny_trainer(**options)


def test_fp16_trains_on_a_cpu() -> None:
    trainer = tiny_trainer(precision="fp16")
    before = weights(trainer)
    trainer.train(tiny_data(), 2, gradient_accumulation_steps=2, gradient_clip_norm=1.0)
    assert not same(before, weights(trainer))
    assert all(torch.isfinite(weight).all() for weight in weights(trainer))


def test_deterministic_holds_during_the_run_only() -> None:
    seen = []

    class Seeing(Trainer):
        def train_epoch_start(self) -> None:
            super().train_epoch_start()
            seen.append(torch.are_deterministic_algorithms_enabled())

    tiny_trainer(Seeing, deterministic=True).train(tiny_data(), 1)
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_nothing_is_written_without_a_run_folder(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = tiny_trainer(callbacks=DEFAULT_CALLBACKS)
    trainer.train(tiny_data(), 1, tiny_data())
    trainer.evaluate(tiny_data())
    assert list(tmp_path.iterdir()) == []


def test_the_launcher_and_the_seed_are_in_the_face() -> None:
    """P-106."""
    assert loopwright.notebook_launcher(lambda a: a + 1, (1,)) == 2
    with pytest.raises(NotSupportedError):
        loopwright.notebook_launcher(print, num_processes=2)
    assert callable(loopwright.set_seed)
