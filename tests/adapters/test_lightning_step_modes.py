"""The steps of a `LightningModule` as programs: the same training, or a reason why not."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from step_programs import run_uncompiled, try_everything
from tiny import same, tiny_data
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from adapters.lightning_modules import fitted, loader, metrics_of, state_of, trainer_of
from loopwright.adapters.lightning import Trainer
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.errors import NotSupportedError, RunInterrupted

CALLS: Counter[str] = Counter()


class Network(lightning.LightningModule):
    """A small network with dropout whose schedule changes the rate in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if not torch.compiler.is_dynamo_compiling():
            CALLS[type(self).__name__] += 1
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log_dict({"twice": 2 * loss, "size": loss.detach().new_tensor(len(batch[0]))})
        return {"loss": loss, "inputs": batch[0]}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), 0.3, momentum=0.9)
        scheduler = lr_scheduler.ExponentialLR(optimizer, 0.95)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


@pytest.fixture(autouse=True)
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> list[Any]:
    """Try everything, and run what is recorded as it is, uncompiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    try_everything(monkeypatch)
    return [] if request.node.get_closest_marker("slow") else run_uncompiled(monkeypatch)


def assert_same_training(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    """Compare two trainers and their modules, but for rounding."""
    for mine, theirs in zip(state_of(one[1]), state_of(other[1]), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert metrics_of(one[0]) == pytest.approx(metrics_of(other[0]), rel=1e-4)
    assert str(one[0].fit_loop.state_dict()) == str(other[0].fit_loop.state_dict())
    assert one[0].global_step == other[0].global_step
    assert one[0].run_history.get_metric_names() == other[0].run_history.get_metric_names()


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 2},
    "accumulation with a rest": {"accumulate_grad_batches": 4},
    "accumulation from an epoch on": {"callbacks": [GradientAccumulationScheduler({1: 2})]},
    "more accumulation": {"callbacks": [GradientAccumulationScheduler({0: 2, 2: 4})]},
    "norm": {"gradient_clip_val": 0.05},
    "value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "steps": {"max_epochs": -1, "max_steps": 8},
    "intervals": {"val_check_interval": 2},
    "bf16": {"precision": "bf16-mixed"},
}


@pytest.mark.parametrize("mode", ["capture", "auto"])
@pytest.mark.parametrize("name", OPTIONS)
def test_captured_steps_train_as_eager_ones(name: str, mode: str, graphs: list[Any]) -> None:
    """Also what is logged, the counters that checkpoints hold and the rates: a ragged tail too."""
    eager = fitted("loopwright", Network, **OPTIONS[name])
    assert not graphs
    captured = fitted("loopwright", Network, step_mode=mode, **OPTIONS[name])
    assert captured[0].step_report.choice == "capture", captured[0].step_report.reason
    assert graphs
    assert_same_training(captured, eager)
    rates = [each[0].optimizers[0].param_groups[0]["lr"] for each in (captured, eager)]
    assert rates[0] == rates[1]


def test_a_captured_step_runs_no_python_of_the_module() -> None:
    CALLS.clear()
    trainer, _ = fitted(
        "loopwright",
        Network,
        lambda: (loader(24, shuffle=True),),
        step_mode="capture",
        max_epochs=40,
    )
    assert trainer.global_step == 240
    assert CALLS["Network"] < 20


class Listener(lightning.Callback):
    """Notes what comes out of steps, and changes the weights in one."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *rest: Any) -> None:
        self.seen.append(outputs)
        if trainer.global_step == 4:
            with torch.no_grad():
                module.net[0].weight.zero_()


def test_what_is_logged_is_left_out_where_the_trainer_is_bare() -> None:
    torch.manual_seed(5)
    module = Network()
    trainer = Trainer(accelerator="cpu", max_epochs=2, barebones=True, step_mode="capture")
    trainer.fit(module, loader(24))
    assert trainer.step_report.choice == "capture"
    assert not metrics_of(trainer)


def test_callbacks_see_outputs_and_gradients_and_may_change_weights() -> None:
    listeners = Listener(), Listener()
    runs = [
        fitted("loopwright", Network, step_mode=mode, callbacks=[listener])
        for mode, listener in zip(("capture", "eager"), listeners, strict=True)
    ]
    assert_same_training(*runs)
    for mine, theirs in zip(*(each.seen for each in listeners), strict=True):
        assert list(mine) == list(theirs) == ["loss", "inputs"]
        torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(*(run[1].parameters() for run in runs), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def step(change: Callable[[Any, Any, int], Any]) -> Any:
    """Return a kind of module whose training step does something else besides."""

    class Changed(Network):
        def __init__(self) -> None:
            super().__init__()
            self.losses: list[Any] = []
            self.mean, self.count = MeanMetric(nan_strategy="disable"), 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            output = super().training_step(batch, batch_idx)
            change(self, output["loss"], batch_idx)
            return output

    return Changed


class Prefixed(Network):
    """Logs under other names, and a second time."""

    def log(self, name: str, value: Any, **options: Any) -> None:
        super().log(f"train/{name}", value, **options)
        super().log("last", 100 * value.mean())


class Delegating(Network):
    """Has a `log` of its own, which is no method."""

    def __init__(self) -> None:
        super().__init__()
        self.child = lightning.LightningModule()
        self.child.log = lambda name, value: self.log(f"child/{name}", value)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        self.child.log("loss", output["loss"])
        return output


LOGGING: dict[str, Any] = {
    "a parameter": step(
        lambda self, loss, index: self.log("bias", self.net[3].bias[0], on_epoch=True)
    ),
    "an overridden log": Prefixed,
    "a log of an instance": Delegating,
}


@pytest.mark.parametrize("name", LOGGING)
def test_a_captured_step_logs_as_an_eager_one(name: str) -> None:
    eager = fitted("loopwright", LOGGING[name])
    captured = fitted("loopwright", LOGGING[name], step_mode="capture")
    assert_same_training(captured, eager)
    assert set(vars(captured[1])) == set(vars(eager[1]))


def with_hook(name: str) -> Any:
    """Return a kind of module with a hook that does what Lightning's does."""

    def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(kind, self), name)(*args, **kwargs)

    kind = type("Hooked", (Network,), {name: hook})
    return kind


class ByHand(Network):
    """Steps by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.manual_backward(loss)
        optimizer.step()
        return loss


def caught(self: Any, loss: Any, batch_idx: int) -> None:
    """Go on without what cannot be had."""
    with contextlib.suppress(Exception):
        batch_idx % 2


class WithoutLoss(Network):
    """Skips each update."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None


REFUSED: dict[str, tuple[Any, str]] = {
    "batch_idx": (step(lambda self, loss, index: index % 2 == 0 and None), "reads batch_idx"),
    "the kind of batch_idx": (
        step(lambda self, loss, index: isinstance(index, int)),
        "reads batch_idx",
    ),
    "batch_idx, caught": (step(caught), "reads batch_idx"),
    "should_stop": (
        step(lambda self, loss, index: setattr(self.trainer, "should_stop", True)),
        "sets should_stop of its trainer",
    ),
    "a tensor as batch_size": (
        step(lambda self, loss, index: self.log("x", loss, batch_size=loss.new_tensor(4.0))),
        "the step logs 'x' with a tensor as an option",
    ),
    "no loss": (WithoutLoss, "training_step returned no loss for this batch"),
    "global_step": (step(lambda self, loss, index: self.global_step), "reads global_step"),
    "current_epoch": (step(lambda self, loss, index: self.current_epoch), "reads current_epoch"),
    "logger": (step(lambda self, loss, index: self.logger), "reads logger of its trainer"),
    "a number": (step(lambda self, loss, index: self.log("rate", 0.5)), "the step logs 'rate'"),
    "a list": (step(lambda self, loss, index: self.losses.append(1)), "changes Changed.losses"),
    "a metric": (
        step(lambda self, loss, index: self.mean.update(loss.detach())),
        "changes Changed.mean.",
    ),
    "a count": (
        step(lambda self, loss, index: setattr(self, "count", self.count + 1)),
        "changes Changed.count",
    ),
    "a value": (step(lambda self, loss, index: loss.item()), "graph break"),
    "manual": (ByHand, "manual optimization"),
    **{
        name: (with_hook(name), f"the hook {name} has to run")
        for name in (
            "on_before_zero_grad",
            "optimizer_zero_grad",
            "on_before_backward",
            "backward",
            "on_after_backward",
            "on_before_optimizer_step",
            "configure_gradient_clipping",
            "optimizer_step",
        )
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_cause_of_staying_eager(name: str) -> None:
    """What was tried leaves no trace: not in lists, metrics or weights."""
    kind, reason = REFUSED[name]
    trainer, module = fitted("loopwright", kind, step_mode="auto")
    eager, expected = fitted("loopwright", kind)
    assert reason in trainer.step_report.reason
    assert same(state_of(module), state_of(expected))
    assert metrics_of(trainer) == metrics_of(eager)
    if hasattr(module, "losses"):
        assert (module.losses, module.count) == (expected.losses, expected.count)
        assert module.mean._update_count == expected.mean._update_count
    with pytest.raises(NotSupportedError, match=f"(?s)step_mode='capture'.*{reason}"):
        fitted("loopwright", kind, step_mode="capture")


BETWEEN_STEPS: dict[str, dict[str, Any]] = {
    "on_train_batch_start": {},
    "on_train_batch_end": {},
    "on_before_batch_transfer": {},
    "on_after_batch_transfer": {},
    "lr_scheduler_step": {},
    "on_validation_end": {"val_check_interval": 2},
    "on_save_checkpoint": {"checkpoint": CheckpointPolicy(every_steps=4)},
}


@pytest.mark.parametrize("name", BETWEEN_STEPS)
def test_hooks_between_steps_may_freeze_layers(name: str, tmp_path: Path) -> None:
    def hook(self: Any, *given: Any, **options: Any) -> Any:
        if self.global_step == 4:
            self.net[3].requires_grad_(False)
        return getattr(super(kind, self), name)(*given, **options)

    kind = type("Freezing", (Network,), {name: hook})
    options = BETWEEN_STEPS[name] | {"max_epochs": 1}
    captured, eager = (
        fitted("loopwright", kind, step_mode=mode, run_dir=tmp_path / mode, **options)
        for mode in ("capture", "eager")
    )
    assert not eager[1].net[3].weight.requires_grad
    assert_same_training(captured, eager)


def test_a_module_that_is_compiled_already_is_not_compiled_anew() -> None:
    trainer, module = trainer_of("loopwright", step_mode="compile"), Network()
    with pytest.raises(NotSupportedError, match=r"compiled already\. Give it as it was before"):
        trainer.fit(torch.compile(module, backend="eager"), loader(), loader())
    assert module._compiler_ctx is not None


def test_precisions_that_plugins_apply_and_a_compiled_module_stay_eager() -> None:
    trainer, _ = fitted("loopwright", Network, step_mode="auto", precision="bf16-true")
    assert "precision 'bf16-true' is a plugin's" in trainer.step_report.reason
    trainer, _ = fitted("loopwright", Network, step_mode="auto", callbacks=[Before()])
    assert "the hook on_before_optimizer_step" in trainer.step_report.reason


class Before(lightning.Callback):
    def on_before_optimizer_step(self, *args: Any) -> None:
        """Look at gradients."""


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    inputs, targets = tiny_data(16)
    inputs[9] = float("nan")
    train_data = DataLoader(TensorDataset(inputs, targets), batch_size=4)
    weights = []
    for limit in ({}, {"max_steps": 2}):
        options = {"step_mode": "capture", **limit}
        _, module = fitted("loopwright", Network, lambda: (train_data,), **options)
        weights.append(state_of(module))
    assert same(*weights)


class Stops(lightning.Callback):
    """Ends the run in the middle of an epoch, as a signal does."""

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("mode", ["capture", "auto"])
def test_a_captured_run_that_is_stopped_ends_with_the_same_bits(mode: str, tmp_path: Path) -> None:
    whole = fitted("loopwright", Network, step_mode=mode, run_dir=tmp_path / "whole")
    options = {"step_mode": mode, "checkpoint": CheckpointPolicy(every_steps=3)}
    with pytest.raises(RunInterrupted):
        fitted("loopwright", Network, callbacks=[Stops()], run_dir=tmp_path / "two", **options)
    torch.manual_seed(99)
    module = Network()
    trainer = trainer_of("loopwright", run_dir=tmp_path / "two", **options)
    trainer.fit(module, loader(shuffle=True), loader(batch_size=8), resume="latest")
    assert trainer.step_report.choice == "capture", trainer.step_report.reason
    assert same(state_of(module), state_of(whole[1]))
    assert metrics_of(trainer) == metrics_of(whole[0])


class Inner(lightning.LightningModule):
    """Is a part of another module, with a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(())), nn.Linear(3, 3)
        self.plain = torch.tensor([0.05, 0.1, 0.2])

    def forward(self, inputs: Any) -> Any:
        return inputs + self.layer(inputs) * self.plain * self.scale


class Nested(Network):
    """Holds modules of Lightning's, and logs a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(Inner(), *self.net)
        self.plain = torch.full((3,), 0.5)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("scale", self.net[0].scale, on_step=True, on_epoch=True)
        return super().training_step((batch[0] + self.plain, batch[1]), batch_idx)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", ["capture", "compile"])
def test_compiled_steps_train_as_eager_ones(mode: str) -> None:
    """With the compiler of the machine; the modules are left as they were."""
    eager = fitted("loopwright", Nested)
    compiled = fitted("loopwright", Nested, step_mode=mode)
    assert compiled[0].step_report.choice == mode
    assert_same_training(compiled, eager)
    for mine, theirs in zip(compiled[1].modules(), eager[1].modules(), strict=True):
        assert set(vars(mine)) == set(vars(theirs))
    assert compiled[1]._compiler_ctx is None


def test_the_mode_is_one_of_four() -> None:
    with pytest.raises(ValueError, match=r"step_mode is 'fast'; expected one of eager, compile"):
        trainer_of("loopwright", step_mode="fast")
