"""A captured run does what an eager one does: weights, random draws, callbacks, history."""

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import global_states, tiny_data, tiny_model, tiny_trainer, weights
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

from loopwright.default_callbacks import TerminateOnNaNCallback
from loopwright.ema import ModelEma
from loopwright.errors import NotSupportedError
from loopwright.events import TrainerCallback
from loopwright.trainer import Trainer


class Counting(Trainer):
    """Counts how often the loss is calculated in Python."""

    calls = 0

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        self.calls += 1
        return super().calculate_train_batch_loss(batch)


def normed_model() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3)
    )


def dropped_model() -> nn.Module:
    return tiny_model(dropout=0.5)


MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def two_runs(
    make_model: Callable[[], nn.Module],
    make_optimizer: Callable[[Any], Any] = MOMENTUM,
    *,
    kind: type[Trainer] = Counting,
    num_samples: int = 58,
    callbacks: Any = (),
    precision: Any = "fp32",
    **options: Any,
) -> list[Any]:
    """Return an eager trainer and a captured one after the same run."""
    trainers = []
    for mode in ("eager", "capture"):
        model = make_model()
        trainer = kind(
            model,
            nn.CrossEntropyLoss(),
            make_optimizer(model.parameters()),
            callbacks=[each() for each in callbacks],
            step_mode=mode,  # type: ignore[arg-type]
            precision=precision,
            device="cpu",
            seed=3,
        )
        torch.manual_seed(8)
        trainer.train(tiny_data(num_samples), 3, per_device_batch_size=8, **options)
        trainer.random = torch.get_rng_state()  # type: ignore[attr-defined]
        trainers.append(trainer)
    return trainers


def assert_close(first: Any, second: Any, tolerance: float = 1e-5) -> None:
    for one, other in zip(
        first.model.state_dict().values(), second.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "sgd nesterov": partial(
        torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3
    ),
    "fused sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
    "adam": partial(torch.optim.Adam, lr=0.01),
    "fused adamw": partial(torch.optim.AdamW, lr=0.01, fused=True),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01),
    "adagrad": partial(torch.optim.Adagrad, lr=0.1),
    "nadam": partial(torch.optim.NAdam, lr=0.01),
    "tensor rate": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), foreach=False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_ends_with_the_weights_of_eager(name: str, uncompiled: list[Any]) -> None:
    eager, captured = two_runs(tiny_model, OPTIMIZERS[name])
    assert_close(eager, captured)
    assert captured.step_report.choice == "capture"
    assert captured.step_report.reference == "float64"
    # 21 batches run in eager mode call Python; captured, the ragged ones and the first may.
    assert captured.progress.step == eager.progress.step == 24
    eager_losses = eager.run_history.get_metric_values("train_loss_epoch")
    assert captured.run_history.get_metric_values("train_loss_epoch") == pytest.approx(eager_losses)


def test_a_captured_step_runs_no_python_of_the_loss(uncompiled: list[Any]) -> None:
    _, captured = two_runs(tiny_model, num_samples=56)
    rehearsed = captured.calls
    again = copy.copy(captured)
    again.calls = 0
    again.train(tiny_data(56), 3, per_device_batch_size=8)
    assert again.calls < again.progress.step == 21
    assert rehearsed < 21 + 12


VARIANTS: dict[str, dict[str, Any]] = {
    "clip norm": {"gradient_clip_norm": 0.1},
    "clip value": {"gradient_clip_value": 0.01},
    "accumulation of 2": {"gradient_accumulation_steps": 2},
    "accumulation of 3": {"gradient_accumulation_steps": 3},
    "schedule": {"create_scheduler_fn": partial(ExponentialLR, gamma=0.9)},
    "accumulation, clip, schedule": {
        "gradient_accumulation_steps": 3,
        "gradient_clip_norm": 0.1,
        "create_scheduler_fn": partial(ExponentialLR, gamma=0.9),
    },
    "batches divide": {"num_samples": 56},
}


@pytest.mark.parametrize("model", [dropped_model, normed_model])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_part_of_a_step_is_captured(
    name: str, model: Callable[[], nn.Module], uncompiled: list[Any]
) -> None:
    """Dropout masks are those of eager, new in each step; batch norm keeps its statistics."""
    eager, captured = two_runs(model, **VARIANTS[name])
    assert_close(eager, captured)
    assert torch.equal(eager.random, captured.random)
    assert captured.progress.samples == eager.progress.samples
    assert len(uncompiled) == min(3, VARIANTS[name].get("gradient_accumulation_steps", 1))


def test_bf16_is_captured(uncompiled: list[Any]) -> None:
    eager, captured = two_runs(normed_model, precision="bf16")
    assert_close(eager, captured, tolerance=2e-2)
    assert any("bfloat16" in graph.code for graph in uncompiled)


class Recurrent(nn.Module):
    """Reads its three features as a sequence."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layer = kind(1, **({"hidden_size": 4, "batch_first": True} | options))
        self.head = nn.Linear(8 if options.get("bidirectional") else 4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(inputs[..., None])[0].mean(1))


RECURRENT = {
    "lstm": partial(Recurrent, nn.LSTM),
    "lstm, layers, both ways": partial(
        Recurrent, nn.LSTM, num_layers=2, bidirectional=True, dropout=0.3
    ),
    "gru": partial(Recurrent, nn.GRU, num_layers=2, dropout=0.3),
    "rnn": partial(Recurrent, nn.RNN, bias=False),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_are_captured(name: str, uncompiled: list[Any]) -> None:
    eager, captured = two_runs(RECURRENT[name])
    assert_close(eager, captured, 1e-4)
    assert torch.equal(eager.random, captured.random)
    expected, found = (each.predict(tiny_data(16)[0], 8) for each in (eager, captured))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(uncompiled) == 2


class Attending(nn.Module):
    """Lets its three features attend to one another."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.embed = nn.Linear(1, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(inputs[..., None])).mean(1))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_attention_is_captured(dropout: float, uncompiled: list[Any]) -> None:
    """In evaluation too, where it is another kernel."""
    eager, captured = two_runs(partial(Attending, dropout))
    assert_close(eager, captured, 1e-4)
    assert torch.equal(eager.random, captured.random)
    expected, found = (each.predict(tiny_data(16)[0], 8) for each in (eager, captured))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(uncompiled) == 2


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)


class TwoOptimizers(Trainer):
    """Trains two parts that see one another's outputs."""

    def train_step(self, batch: Any) -> Any:
        inputs, targets = batch
        made = self.model.first(inputs)
        self.update(nn.functional.cross_entropy(self.model.second(made), targets), "first")
        again = self.model.second(self.model.first(inputs).detach())
        loss = nn.functional.cross_entropy(again, targets)
        self.update(loss, "second")
        return {"loss": loss, "batch_size": len(targets)}

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        outputs = self.model.second(self.model.first(batch[0]))
        return {"loss": self.loss_func(outputs, batch[1]), "batch_size": len(batch[1])}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_several_optimizers_are_captured(accumulation: int, uncompiled: list[Any]) -> None:
    trainers = []
    for mode in ("eager", "capture"):
        model = Pair()
        optimizers = {
            "first": torch.optim.Adam(model.first.parameters(), lr=0.01),
            "second": torch.optim.SGD(model.second.parameters(), lr=0.1, momentum=0.5),
        }
        trainer = TwoOptimizers(
            model,
            nn.CrossEntropyLoss(),
            optimizers,
            (),
            step_mode=mode,  # type: ignore[arg-type]
            device="cpu",
            seed=1,
        )
        schedule = {"second": partial(ExponentialLR, gamma=0.8)}
        trainer.train(
            tiny_data(50),
            2,
            per_device_batch_size=8,
            gradient_accumulation_steps=accumulation,
            create_scheduler_fn=schedule,
        )
        trainers.append(trainer)
    eager, captured = trainers
    assert_close(eager, captured)
    assert len(uncompiled) == accumulation
    for name in ("train_first_loss_epoch", "train_second_loss_epoch", "train_loss_epoch"):
        values = eager.run_history.get_metric_values(name)
        assert captured.run_history.get_metric_values(name) == pytest.approx(values)


class Averaging(Trainer):
    """Averages the weights in every step."""

    def training_run_start(self) -> None:
        self.average = ModelEma(self.model, decay=0.9)

    def train_step(self, batch: Any) -> Any:
        output = super().train_step(batch)
        self.average.update(self.model)
        return output


def test_an_average_of_the_weights_is_captured(uncompiled: list[Any]) -> None:
    eager, captured = two_runs(normed_model, kind=Averaging)
    for one, other in zip(
        eager.average.state_dict().values(), captured.average.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


class Watching(TrainerCallback):
    """Notes all that the events of steps tell."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[tuple[int, int, float]] = []
        self.sums: list[float] = []

    def on_train_step_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self.starts.append(trainer.progress.step)

    def on_train_step_end(
        self, trainer: Trainer, batch: Any, batch_output: Any, step: int, **kwargs: Any
    ) -> None:
        self.ends.append((step, len(batch[0]), batch_output["batch_size"]))
        self.sums.append(float(batch_output["model_outputs"].detach().sum()))


def test_callbacks_see_every_step_and_its_outputs(uncompiled: list[Any]) -> None:
    eager, captured = two_runs(dropped_model, callbacks=[Watching])
    first, second = (next(iter(each.callback_handler)) for each in (eager, captured))
    assert second.starts == first.starts == list(range(24))
    assert second.ends == first.ends
    assert second.sums == pytest.approx(first.sums, abs=1e-4)


def test_a_loss_that_is_not_finite_changes_nothing(uncompiled: list[Any]) -> None:
    """The program keeps every tensor where the loss is NaN, and the run ends as in eager mode."""
    inputs, targets = tiny_data(64)
    inputs[:] = inputs.nan_to_num()
    runs = []
    for mode in ("eager", "capture"):
        torch.manual_seed(1)
        trainer = tiny_trainer(
            model=tiny_model(), callbacks=[TerminateOnNaNCallback], step_mode=mode, device="cpu"
        )
        spoiled = inputs.clone()
        spoiled[37] = float("nan")
        trainer.train((spoiled, targets), 2, per_device_batch_size=8)
        assert "nan" in trainer.stop_reason
        runs.append(trainer)
    assert runs[0].progress.step == runs[1].progress.step > 1
    assert_close(*runs)
    assert all(weight.isfinite().all() for weight in weights(runs[1]))


def test_the_flag_of_a_device_is_obeyed_and_set_inside_the_program(uncompiled: list[Any]) -> None:
    """The path of accelerators, on CPU tensors: the host looks at the end of the epoch alone."""
    inputs, targets = tiny_data(64)
    inputs = inputs.clone()
    inputs[37] = float("nan")
    runs = []
    for mode in ("eager", "capture"):
        guard = TerminateOnNaNCallback()
        guard.seconds_between_reads = 1e9
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
        trainer = Trainer(
            model,
            nn.CrossEntropyLoss(),
            optimizer,
            [guard],
            step_mode=mode,  # type: ignore[arg-type]
            device="cpu",
            seed=3,
        )
        trainer._reads_losses_per_step = False
        trainer.train((inputs, targets), 2, per_device_batch_size=8, gradient_clip_norm=0.5)
        assert "nan" in str(trainer.stop_reason)
        assert not hasattr(optimizer, "found_inf")
        runs.append(trainer)
    assert runs[0].progress.step == runs[1].progress.step > 1
    assert_close(*runs)


class Thawing(TrainerCallback):
    """Trains the first layer from the second epoch on."""

    def on_train_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
        trainer.model[0].requires_grad_(trainer.progress.epoch > 1)


class Rescaling(TrainerCallback):
    """Halves the rate in the middle of an epoch, by hand."""

    def on_train_step_start(self, trainer: Trainer, **kwargs: Any) -> None:
        if trainer.progress.step in (5, 11):
            trainer.optimizer.param_groups[0]["lr"] *= 0.5


class Remomentum(TrainerCallback):
    """Changes an option that is a constant of a program, in the middle of an epoch."""

    def on_train_step_start(self, trainer: Trainer, **kwargs: Any) -> None:
        if trainer.progress.step == 10:
            trainer.optimizer.param_groups[0]["momentum"] = 0.5


@pytest.mark.parametrize("callback", [Thawing, Rescaling, Remomentum])
def test_what_callbacks_change_is_followed(callback: Any, uncompiled: list[Any]) -> None:
    eager, captured = two_runs(tiny_model, callbacks=[callback])
    assert_close(eager, captured)
    assert len(uncompiled) == (1 if callback is Rescaling else 2)


@pytest.mark.parametrize("callbacks", [(), [Rescaling]])
def test_momentum_that_a_schedule_changes_is_refused(callbacks: Any, uncompiled: list[Any]) -> None:
    """Also where callbacks run between steps; no program is made for each of them."""
    cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=24)
    with pytest.raises(NotSupportedError, match=r"changes momentum.*step_mode='eager'"):
        two_runs(tiny_model, create_scheduler_fn=cycle, callbacks=callbacks)
    assert len(uncompiled) == 1


def test_capture_leaves_the_callers_generators_and_the_optimizer_alone(
    uncompiled: list[Any],
) -> None:
    trainer = tiny_trainer(step_mode="capture", device="cpu")
    before = global_states()
    trainer.train(tiny_data(32), 2, per_device_batch_size=8)
    assert global_states() == before  # nothing in this model draws
    group = trainer.optimizer.param_groups[0]
    assert (group["lr"], group["foreach"], group["fused"]) == (0.1, None, None)


@pytest.mark.parametrize("mode", ["capture", "auto"])
def test_evaluation_and_prediction_are_captured(
    mode: Any, uncompiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopwright.execution.stepping.choose", _always)
    runs = []
    for each in ("eager", mode):
        trainer = tiny_trainer(model=normed_model(), step_mode=each, device="cpu")
        torch.manual_seed(2)
        trainer.train(tiny_data(40), 2, tiny_data(29), per_device_batch_size=8)
        runs.append((trainer, trainer.predict(tiny_data(21)[0], 8)))
    (eager, expected), (captured, found) = runs
    assert len(uncompiled) == 3
    torch.testing.assert_close(found, expected)
    assert captured.run_history.get_metric_values("eval_loss_epoch") == pytest.approx(
        eager.run_history.get_metric_values("eval_loss_epoch")
    )


def test_evaluation_that_is_short_is_not_compiled(
    uncompiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` weighs batches of all evaluations, of 1 ms each with 2/9 ms to gain, against 4 s."""

    def measured(trainer: Any, batch: Any, base: type) -> Any:
        report, built = _always(trainer, batch, base)
        return dataclasses.replace(report, seconds=1e-3, gain=3.0), built

    monkeypatch.setattr("loopwright.execution.stepping.choose", measured)
    trainer = tiny_trainer(model=normed_model(), step_mode="auto", device="cpu")
    trainer.train(tiny_data(40), 2, tiny_data(24), per_device_batch_size=8)
    trainer.predict(tiny_data(24)[0], 8)
    assert len(uncompiled) == 1
    monkeypatch.setattr("loopwright.execution.stepping.SECONDS_TO_LOAD", 5.5 * 2e-3 / 9)
    trainer.predict(tiny_data(24)[0], 8)
    assert len(uncompiled) == 1, "three batches"
    trainer.train(tiny_data(40), 2, tiny_data(24), per_device_batch_size=8)
    assert len(uncompiled) == 3, "the step of another run, and two times three batches"


def _always(trainer: Any, batch: Any, base: type) -> Any:
    from loopwright.execution.building import rehearse
    from loopwright.execution.report import StepReport
    from loopwright.execution.tracing import Rates
    from loopwright.execution.trees import signature_of

    built = rehearse(trainer, batch, Rates(trainer))
    batch_kind = repr(signature_of(batch))
    return StepReport(asked="auto", choice="capture", reason="a test", batch=batch_kind), built


def test_a_plain_tensor_of_the_users_is_a_constant_of_the_program(uncompiled: list[Any]) -> None:
    scale = torch.tensor([1.0, 2.0, 0.5])

    class Scaled(Trainer):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            loss = nn.functional.cross_entropy(self.model(batch[0]) * scale, batch[1])
            return {"loss": loss, "batch_size": len(batch[1])}

    eager, captured = two_runs(tiny_model, kind=Scaled)
    assert_close(eager, captured)


def test_the_choice_is_in_the_runs_folder(tmp_path: Path, uncompiled: list[Any]) -> None:
    trainer = tiny_trainer(step_mode="capture", device="cpu", run_dir=tmp_path / "run")
    trainer.train(tiny_data(16), 1, per_device_batch_size=8)
    assert '"choice": "capture"' in (tmp_path / "run" / "steps.json").read_text()
