"""The steps of a TrainLoop as programs: the same training, or a reason why not."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import Feed, TinyModel, TwoHeads, loader, make_loop, state_of
from step_programs import run_uncompiled, try_everything
from tiny import same, tiny_model
from torch import nn

from loopwright.errors import NotSupportedError, RunInterrupted
from loopwright.execution import auto
from loopwright.loop_callbacks import AbstractCallback, GradNormClip, ModelLoadContinueTraining
from loopwright.loop_schedulers import LinearWithWarmupScheduler, StepLRScheduler
from loopwright.results import ClassificationResultPackage
from loopwright.seed import set_seed
from loopwright.trainloop import (
    ModelWrap,
    MultiLoss,
    MultiOptimizer,
    TrainLoopCheckpoint,
    TrainLoopCheckpointEndSave,
    TTModel,
)


@pytest.fixture(autouse=True)
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> list[Any]:
    """Try everything, and run what is recorded as it is, uncompiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    try_everything(monkeypatch)
    return [] if request.node.get_closest_marker("slow") else run_uncompiled(monkeypatch)


class SharedBody(TwoHeads):
    """Has two losses of one graph."""

    def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
        inputs, targets = batch_data
        first = self(inputs)
        losses = {"one": criterion(first, targets), "two": criterion(self.second(first), targets)}
        return MultiLoss(losses, {"one": 1, "two": 0})


class Watches(AbstractCallback):
    """Notes what a callback sees after each batch."""

    def __init__(self) -> None:
        super().__init__("watches")
        self.seen: list[Any] = []

    def on_batch_end(self) -> None:
        loop = self.train_loop_obj
        last = loop.loss_batch_accum[-1]
        losses = dict(last) if isinstance(last, MultiLoss) else {"loss": last}
        optimizers = getattr(loop.optimizer, "optimizer_list", [loop.optimizer])
        rates = [group["lr"] for each in optimizers for group in each.param_groups]
        where = loop.epoch, loop.iteration, len(loop.loss_batch_accum)
        self.seen.append((where, losses, rates))


def trained(
    mode: str,
    make: Callable[[], dict[str, Any]] = dict,
    callbacks: Callable[[], list[Any]] = list,
    **fit: Any,
) -> Any:
    """Return a loop after 3 epochs, and what was seen in them."""
    set_seed(5)
    loop, watches = make_loop(step_mode=mode, **{"test": loader(5), **make()}), Watches()
    if not fit.keys() & {"num_iterations"}:
        fit.setdefault("num_epochs", 3)
    loop.fit(callbacks=[*callbacks(), watches], **fit)
    return loop, watches.seen


def assert_same_training(one: Any, other: Any, **tolerance: Any) -> None:
    """Compare two loops and what was seen of them, but for rounding."""
    (mine, seen), (theirs, expected) = one, other
    torch.testing.assert_close(state_of(mine), state_of(theirs), **tolerance)
    history, its_history = (each.train_history.train_history for each in (mine, theirs))
    assert {name: len(values) for name, values in history.items()} == {
        name: len(values) for name, values in its_history.items()
    }
    for name, values in history.items():
        assert values == pytest.approx(its_history[name], rel=1e-4), name
    torch.testing.assert_close(seen, expected, **tolerance)
    assert mine.total_iteration_idx == theirs.total_iteration_idx
    assert mine.trainer.loss_names == theirs.trainer.loss_names


FORMS: dict[str, dict[str, Any]] = {
    "a model": {},
    "a feed definition": {"make": lambda: {"model": ModelWrap(tiny_model(dropout=0.3), Feed())}},
    "several losses": {"make": lambda: {"model": TwoHeads()}},
    "several losses of one graph": {
        "make": lambda: {"model": SharedBody()},
        "grad_accumulation": 2,
    },
    "accumulation": {"grad_accumulation": 2},
    "accumulation with a rest": {"grad_accumulation": 3},
    "iterations": {"num_iterations": 7},
    "no evaluation": {"make": lambda: {"end_auto_eval": False}},
    "evaluation at times": {"make": lambda: {"end_auto_eval": 2}},
    "a schedule by update": {"callbacks": lambda: [LinearWithWarmupScheduler(2, 12)]},
    "a schedule by epoch": {"callbacks": lambda: [StepLRScheduler(1, gamma=0.5)]},
    "schedules of several": {
        "make": lambda: {"model": TwoHeads()},
        "callbacks": lambda: [
            LinearWithWarmupScheduler(2, 12, optimizer_idx=0),
            LinearWithWarmupScheduler(4, 9, optimizer_idx=1),
        ],
    },
}


@pytest.mark.parametrize("mode", ["capture", "auto"])
@pytest.mark.parametrize("name", FORMS)
def test_captured_steps_train_as_eager_ones(name: str, mode: str, graphs: list[Any]) -> None:
    """Also the history, the losses of batches and the rates; the last batch is a shorter one."""
    eager = trained("eager", **FORMS[name])
    assert not graphs
    captured = trained(mode, **FORMS[name])
    assert captured[0].step_report.choice == "capture", captured[0].step_report.reason
    assert graphs
    assert_same_training(captured, eager)


def test_captured_steps_and_evaluations_do_not_ask_the_model() -> None:
    asked = []

    class Counts(TinyModel):
        def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
            asked.append(self.training)
            return super().get_loss(batch_data, criterion, device)

    loop, _ = trained("capture", lambda: {"model": Counts(), "train": loader(16)}, num_epochs=40)
    assert loop.total_iteration_idx == 159
    assert asked.count(True) < 20
    # 40 epochs evaluate 7 batches; one of the validation data has another shape.
    assert 40 <= asked.count(False) < 40 + 20


def test_predictions_run_line_by_line_after_captured_steps() -> None:
    """A-62: their lists of Python would not be made again."""
    eager, captured = (trained(mode)[0] for mode in ("eager", "capture"))
    for one, other in zip(*(each.predict_on_test_set() for each in (captured, eager)), strict=True):
        torch.testing.assert_close(one, other)


def losses_read(self: Any, batch_data: Any, criterion: Any, device: Any) -> Any:
    loss = TinyModel.get_loss(self, batch_data, criterion, device)
    return loss if loss.item() < 1e9 else None


class Reads(TinyModel):
    get_loss = losses_read  # type: ignore[assignment]


class Fills(TinyModel):
    """Keeps the sizes of batches in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
        self.sizes.append(len(batch_data[1]))
        return super().get_loss(batch_data, criterion, device)


class CountingFeed(Feed):
    """Counts what it is asked for."""

    count = 0

    def get_loss(self, *args: Any) -> Any:
        self.count += 1
        return super().get_loss(*args)


class OwnLoss:
    """Is a loss that goes backward by itself."""

    def __init__(self, loss: torch.Tensor) -> None:
        self.loss = loss

    def detach(self) -> torch.Tensor:
        return self.loss.detach()

    def backward(self) -> None:
        self.loss.backward()


class GoesBackward(TinyModel):
    def get_loss(self, *args: Any) -> Any:
        return OwnLoss(super().get_loss(*args))

    def get_loss_eval(self, *args: Any) -> Any:
        return super().get_loss(*args)


@dataclass
class Sample:
    """Is a batch as an object."""

    inputs: torch.Tensor
    targets: torch.Tensor


class TakesObjects(TinyModel):
    def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
        return super().get_loss((batch_data.inputs, batch_data.targets), criterion, device)

    def get_batch_size(self, batch_data: Any) -> int:
        return len(batch_data.targets)


def objects() -> dict[str, Any]:
    batches = [Sample(*batch) for batch in loader()]
    return {"model": TakesObjects(), "train": batches, "val": None, "test": None}


class EverySecond(MultiOptimizer):
    """Steps the second optimizer in every other update."""

    def step(self, optimizer_idx: int, iteration: int, amp_grad_scaler: Any) -> None:
        if optimizer_idx == 0 or iteration % 2:
            super().step(optimizer_idx, iteration, amp_grad_scaler)


class Swaps(AbstractCallback):
    """Puts another `MultiOptimizer` around the optimizers."""

    def __init__(self) -> None:
        super().__init__("swaps")

    def on_train_loop_registration(self) -> None:
        self.train_loop_obj.optimizer = EverySecond(self.train_loop_obj.optimizer.optimizer_list)


class Looks(AbstractCallback):
    """Looks at the weights after each update, from some epoch on."""

    def __init__(self, epoch: int = -1) -> None:
        super().__init__("looks")
        self.epoch, self.updates = epoch, 0

    def on_train_loop_registration(self) -> None:
        self.train_loop_obj.grad_cb_used = self.epoch < 0

    def on_epoch_begin(self) -> None:
        self.train_loop_obj.grad_cb_used |= self.train_loop_obj.epoch >= self.epoch

    def on_after_optimizer_step(self) -> None:
        self.updates += 1


class Needs(AbstractCallback):
    needs_eager_steps = True


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "clipping": (
        {"callbacks": lambda: [GradNormClip(0.1)]},
        "GradNormClip.on_after_gradient_update has to run in the middle of a step",
    ),
    "a look at weights": (
        {"callbacks": lambda: [Looks()]},
        "Looks.on_after_optimizer_step has to run in the middle of a step",
    ),
    "a callback that says so": ({"callbacks": lambda: [Needs("needs")]}, "Needs has to run"),
    "several GPUs": ({"make": lambda: {"gpu_mode": "dp"}}, "gpu_mode='dp' splits each batch"),
    "an optimizer's own turn": (
        {"make": lambda: {"model": TwoHeads()}, "callbacks": lambda: [Swaps()]},
        "EverySecond.step has to run in the middle of a step",
    ),
    "a loss of its own": ({"make": lambda: {"model": GoesBackward()}}, "OwnLoss.backward has to"),
    "a value": ({"make": lambda: {"model": Reads()}}, "graph break: the step reads the value"),
    "a list": ({"make": lambda: {"model": Fills()}}, "changes Fills.sizes in Python"),
    "a count": (
        {"make": lambda: {"model": ModelWrap(tiny_model(), CountingFeed())}},
        "changes CountingFeed.count in Python",
    ),
    "batches of objects": ({"make": objects}, "a batch holds a Sample"),
}


@pytest.mark.filterwarnings("ignore:There is an imbalance")
@pytest.mark.parametrize("name", REFUSED)
def test_each_cause_of_staying_eager(name: str) -> None:
    """What was tried leaves no trace; `capture` trains nothing."""
    options, reason = REFUSED[name]
    stayed, eager = (trained(mode, **options) for mode in ("auto", "eager"))
    assert stayed[0].step_report.choice == "eager"
    assert reason in stayed[0].step_report.reason
    assert_same_training(stayed, eager, rtol=0, atol=0)
    assert stayed[0].train_history.train_history == eager[0].train_history.train_history
    for model in (stayed[0].model, stayed[0].batch_model_feed_def):
        expected = eager[0].model if model is stayed[0].model else eager[0].batch_model_feed_def
        for attribute in ("sizes", "count"):
            assert getattr(model, attribute, 0) == getattr(expected, attribute, 0)
    made: list[Any] = []

    def make() -> Any:
        made.append(options.get("make", dict)())
        return {"model": TinyModel(), **made[-1]}

    watches = Watches()
    callbacks = options.get("callbacks", list)
    with pytest.raises(NotSupportedError, match=f"(?s)step_mode='capture' .*{reason}"):
        trained("capture", make, lambda: [*callbacks(), watches])
    assert not watches.seen
    optimizer = watches.train_loop_obj.optimizer
    for each in getattr(optimizer, "optimizer_list", [optimizer]):
        assert not each.state


def test_gradient_callbacks_that_come_later_are_called() -> None:
    """The run goes on line by line, and `capture` says why it cannot."""
    looks = Looks(1)
    loop, _ = trained("auto", callbacks=lambda: [looks])
    assert looks.updates == 8
    assert loop.step_report.choice == "eager"
    assert "Looks.on_after_optimizer_step" in loop.step_report.reason
    with pytest.raises(NotSupportedError, match=r"Looks\.on_after_optimizer_step"):
        trained("capture", callbacks=lambda: [Looks(1)])


class Cycles(AbstractCallback):
    """Follows a schedule after each batch that changes momentum too, as many scripts do."""

    def __init__(self) -> None:
        super().__init__("cycles")

    def on_train_loop_registration(self) -> None:
        optimizer = self.train_loop_obj.optimizer
        self.cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)

    def on_batch_end(self) -> None:
        self.cycle.step()


def test_a_schedule_of_momentum_makes_no_program_for_every_step(graphs: list[Any]) -> None:
    runs = [trained(mode, callbacks=lambda: [Cycles()]) for mode in ("auto", "eager")]
    assert runs[0][0].step_report.reason.startswith("the schedule changes betas")
    assert len(graphs) == 1
    assert_same_training(*runs)


class Decays(AbstractCallback):
    """Changes a constant of a program before each epoch."""

    def __init__(self) -> None:
        super().__init__("decays")

    def on_epoch_begin(self) -> None:
        self.train_loop_obj.optimizer.param_groups[0]["weight_decay"] = self.train_loop_obj.epoch


def test_an_option_that_changes_between_epochs_makes_another_program(graphs: list[Any]) -> None:
    loop = {"end_auto_eval": False}
    modes = "auto", "eager"
    captured, eager = (trained(mode, lambda: loop, lambda: [Decays()]) for mode in modes)
    assert captured[0].step_report.choice == "capture"
    assert len(graphs) == 3
    assert_same_training(captured, eager)


class OwnCriterion(nn.CrossEntropyLoss):
    needs_eager_steps = True


def test_a_criterion_that_is_replaced_is_asked_too() -> None:
    loop = make_loop(step_mode="auto")
    loop.criterion = OwnCriterion()
    loop.fit(1)
    assert loop.step_report.reason == "OwnCriterion has to run in the middle of a step"


def test_how_many_steps_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that this loop is to train, less what an earlier `fit` trained."""
    found: list[Any] = []

    def steps_left(trainer: Any) -> int:
        found.append(trainer.progress.total_steps)
        raise auto.NotCapturableError("noted")

    monkeypatch.setattr(auto, "_steps_left", steps_left)
    loop = make_loop(step_mode="auto")
    loop.fit(num_epochs=2)
    loop.fit(num_epochs=5, grad_accumulation=2)
    loop.fit(num_iterations=26, grad_accumulation=2)
    endless = make_loop(step_mode="auto", train=(batch for batch in loader()), end_auto_eval=False)
    endless.fit(num_epochs=1)
    assert found == [8, 6, 3, None]
    assert loop.step_report.reason == "noted"


class Ends(AbstractCallback):
    """Ends the run in the middle of an epoch: as a job manager does, or as a crash."""

    def __init__(self, how: str) -> None:
        super().__init__("ends")
        self.how = how

    def on_batch_end(self) -> None:
        if self.train_loop_obj.total_iteration_idx == 5:
            if self.how == "crash":
                raise OSError("a crash")
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("mode", "kind", "how"),
    [
        ("capture", TinyModel, "signal"),
        ("capture", TwoHeads, "crash"),
        ("auto", TinyModel, "crash"),
        ("auto", TwoHeads, "signal"),
    ],
)
def test_a_captured_run_that_was_cut_ends_with_the_same_bits(
    mode: str, kind: Any, how: str, tmp_path: Path
) -> None:
    """A-75, A-77: from where a signal had it saved, or from the end of an epoch."""
    pytest.importorskip("matplotlib")

    def loop(name: str) -> Any:
        arguments = ("project", name, tmp_path, {})
        return make_loop(TrainLoopCheckpoint, *arguments, model=kind(), step_mode=mode)

    set_seed(5)
    whole = loop("whole")
    whole.fit(3)
    set_seed(5)
    cut = loop("cut")
    with pytest.raises((RunInterrupted, OSError)):
        cut.fit(3, callbacks=[Ends(how)])
    set_seed(99)
    again = loop("cut")
    again.fit(3, callbacks=[ModelLoadContinueTraining(cut.experiment_timestamp)])
    assert again.step_report.choice == "capture"
    assert same(state_of(again), state_of(whole))
    assert again.train_history.train_history == whole.train_history.train_history
    assert str(again.optimizer.state_dict()) == str(whole.optimizer.state_dict())


def test_another_mode_is_another_run(tmp_path: Path) -> None:
    saved = trained("capture")[0].checkpoint_content()
    loop = make_loop(step_mode="eager")
    loop.continue_from(saved)
    with pytest.raises(Exception, match="step_mode: 'capture' then, 'eager' now"):
        loop.fit(4)


class NeverCalled(TTModel):
    """Has parts, and no `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = tiny_model()

    def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
        return criterion(self.layers(batch_data[0]), batch_data[1])

    def get_predictions(self, batch_data: Any, device: Any) -> Any:
        return self.layers(batch_data[0]), batch_data[1], {}


@pytest.mark.filterwarnings("ignore:There is an imbalance")
def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(NotSupportedError, match="step_mode='compile' is not possible.*'dp'"):
        trained("compile", lambda: {"gpu_mode": "dp"})
    with pytest.raises(NotSupportedError, match=r"NeverCalled has no forward.*Use 'auto'"):
        trained("compile", lambda: {"model": NeverCalled()})


def test_the_mode_is_one_of_four() -> None:
    with pytest.raises(ValueError, match=r"step_mode is 'fast'; expected one of eager, compile"):
        make_loop(step_mode="fast")


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "kind"), [("capture", TinyModel), ("compile", SharedBody)])
def test_compiled_steps_train_as_eager_ones(mode: str, kind: Any, tmp_path: Path) -> None:
    """With the compiler of the machine, in the loop that does everything; the model stays."""
    pytest.importorskip("matplotlib")
    ends = []
    for each in ("eager", mode):
        arguments = ("project", each, tmp_path, {})

        def make(arguments: Any = arguments) -> dict[str, Any]:
            package = ClassificationResultPackage()
            return {"model": kind(), "val_result_package": package, "args": arguments}

        set_seed(5)
        options = make()
        loop = make_loop(
            TrainLoopCheckpointEndSave, *options.pop("args"), step_mode=each, **options
        )
        watches = Watches()
        loop.fit(3, callbacks=[watches])
        assert loop.model._compiled_call_impl is None
        ends.append((loop, watches.seen))
    assert ends[1][0].step_report.choice == mode
    assert_same_training(ends[1], ends[0], rtol=1e-3, atol=1e-4)
    first, second = (each[0].predict_on_validation_set() for each in ends)
    torch.testing.assert_close(first, second)
