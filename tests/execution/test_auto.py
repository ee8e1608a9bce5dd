"""`auto` captures what is safe and pays, and says in one line why it does not."""

import importlib
import json
import linecache
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from step_programs import try_everything
from tiny import MapData, Stream, same, tiny_data, tiny_model, tiny_trainer, weights
from torch import nn

from loopwright.errors import NotSupportedError
from loopwright.events import TrainerCallback
from loopwright.execution import auto, checking
from loopwright.execution.eager import EagerStepping
from loopwright.execution.stored import cache_folder
from loopwright.trainer import Trainer


@pytest.fixture(autouse=True)
def worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything be tried, and short measurements do."""
    try_everything(monkeypatch)


def train(
    kind: type[Trainer] = Trainer, mode: str = "auto", data: Any = None, **options: Any
) -> Any:
    options.setdefault("model", tiny_model(dropout=0.3))
    trainer = tiny_trainer(kind, step_mode=mode, device="cpu", **options)
    torch.manual_seed(5)
    trainer.train(data or tiny_data(32), 2, per_device_batch_size=8)
    return trainer


def test_what_is_safe_and_pays_is_captured(
    uncompiled: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = train()
    report = trainer.step_report
    assert (report.asked, report.choice, report.reference) == ("auto", "capture", "float64")
    assert report.gain > 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "mode" in line]
    assert lines == [f"Steps run in capture mode: {report.reason}"]
    for one, other in zip(weights(trainer), weights(train(mode="eager")), strict=True):
        torch.testing.assert_close(one, other)


class ReadsALoss(Trainer):
    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        output = super().calculate_train_batch_loss(batch)
        if float(output["loss"].detach()) > 1e9:
            raise ValueError("diverged")
        return output


class DropsSamples(Trainer):
    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        inputs, targets = batch
        kept = inputs[:, 0] > -1
        loss = nn.functional.cross_entropy(self.model(inputs[kept]), targets[kept])
        return {"loss": loss, "batch_size": len(targets)}


class LeavesTorch(Trainer):
    """Goes through numpy, whose values a program would keep for ever."""

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        output = super().calculate_train_batch_loss(batch)
        output["loss"] = output["loss"] * torch.from_numpy(batch[0].numpy() ** 2).mean()
        return output


class Fails(Trainer):
    calls = 0

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        self.calls += 1
        if torch.compiler.is_compiling():
            raise RuntimeError("not for compilers")
        return super().calculate_train_batch_loss(batch)


class OwnBackward(Trainer):
    def backward_step(self, loss: torch.Tensor) -> None:
        super().backward_step(loss)


class OwnScheduleStep(Trainer):
    def scheduler_step(self) -> None:
        super().scheduler_step()


class OwnStep(Trainer):
    def optimizer_step(self) -> None:
        super().optimizer_step()


class NeedsEager(TrainerCallback):
    needs_eager_steps = True


class CountingSgd(torch.optim.SGD):
    """Keeps a number in Python that every step changes."""

    def step(self, closure: Any = None) -> Any:
        group = self.param_groups[0]
        group["weight_decay"] = group["weight_decay"] + 1e-3
        return super().step(closure)


CAUSES: dict[str, tuple[type[Trainer], str]] = {
    "graph break": (ReadsALoss, "graph break.*value of a tensor"),
    "data-dependent shape": (DropsSamples, "data-dependent shape"),
    "disagreement": (LeavesTorch, "disagreement"),
    "exception": (Fails, "exception while it was traced: RuntimeError: not for compilers"),
    "backward_step": (OwnBackward, "OwnBackward.backward_step has to run in the middle"),
    "optimizer_step": (OwnStep, "OwnStep.optimizer_step has to run in the middle"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_each_cause_of_staying_eager(
    name: str, uncompiled: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    kind, reason = CAUSES[name]
    trainer = train(kind)
    assert trainer.step_report.choice == "eager"
    assert trainer.step_report.gain is None
    capsys.readouterr()
    expected = pytest.raises(NotSupportedError, match=f"(?s)not possible here: .*{reason}")
    with expected:
        train(kind, mode="capture")
    eager = train(kind, mode="eager")
    assert same(weights(trainer), weights(eager)), "what was tried left a trace"


class Remembers(nn.Module):
    """Counts its calls, or keeps what it saw in a list, a dict or a tensor."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.net, self.what = tiny_model(), what
        self.calls, self.seen, self.last, self.total = 0, [], {"loss": 0}, torch.zeros(3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.net(inputs)
        if not self.training:
            return outputs
        if self.what == "calls":
            self.calls += 1
        elif self.what == "seen":
            self.seen.append(len(inputs))
        elif self.what == "last":
            self.last["loss"] = outputs.detach().sum()
        else:
            self.total = self.total + outputs.detach().sum(0)
        return outputs


@pytest.mark.parametrize("what", ["calls", "seen", "last", "total"])
def test_a_step_that_changes_attributes_stays_eager_and_what_was_tried_leaves_none_changed(
    what: str, uncompiled: list[Any]
) -> None:
    trainer, eager = (train(mode=mode, model=Remembers(what)) for mode in ("auto", "eager"))
    assert f"the step changes Remembers.{what} in Python" in trainer.step_report.reason
    for name in ("calls", "seen"):
        assert getattr(trainer.model, name) == getattr(eager.model, name)
    assert same([trainer.model.total], [eager.model.total])
    assert float(trainer.model.last["loss"]) == float(eager.model.last["loss"])


@pytest.mark.parametrize("name", ["module", "parameter", "optimizer", "callback", "python state"])
def test_hooks_keep_a_run_eager(name: str, uncompiled: list[Any]) -> None:
    def build(mode: str) -> Any:
        model = tiny_model()
        if name == "module":
            model[1].register_forward_hook(lambda *args: None)
        if name == "parameter":
            model[0].weight.register_hook(lambda gradient: gradient)
        kind = CountingSgd if name == "python state" else torch.optim.SGD
        optimizer = kind(model.parameters(), lr=0.1)
        if name == "optimizer":
            optimizer.register_step_pre_hook(lambda *args: None)
        callbacks = [NeedsEager] if name == "callback" else []
        return Trainer(
            model,
            nn.CrossEntropyLoss(),
            optimizer,
            callbacks,
            step_mode=mode,  # type: ignore[arg-type]
            device="cpu",
            seed=1,
        )

    trainer = build("auto")
    trainer.train(tiny_data(32), 2, per_device_batch_size=8)
    assert trainer.step_report.choice == "eager"
    expected = "no tensors" if name == "python state" else "in the middle of a step"
    assert expected in trainer.step_report.reason
    with pytest.raises(NotSupportedError, match=expected):
        build("capture").train(tiny_data(32), 2, per_device_batch_size=8)


def test_a_compiled_model_keeps_a_run_eager() -> None:
    model = torch.compile(tiny_model(), backend="eager")
    assert "torch.compile already" in train(model=model).step_report.reason


def test_no_gain(uncompiled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "LEAST_GAIN", 1e9)
    assert "no gain: a step takes" in train().step_report.reason


def test_too_few_steps_are_seen_before_anything_is_traced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A short run pays for some steps of its own, not for what tracing imports and does."""

    def forbidden(*args: Any) -> Any:
        raise AssertionError("traced")

    monkeypatch.setattr(auto, "SECONDS_TO_COMPILE", (4.0, 0.0, 0.0))
    monkeypatch.setattr(auto, "trace", forbidden)
    report = train().step_report
    assert report.reason == "too few steps are left (8) to be worth 4 s of compiling"


def test_too_few_steps(uncompiled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "FEWEST_STEPS", 9)
    assert "too few steps are left (8" in train().step_report.reason
    monkeypatch.setattr(auto, "FEWEST_STEPS", 8)
    monkeypatch.setattr(auto, "SECONDS_TO_COMPILE", (60.0, 0.0, 0.0))
    assert "to be worth 60 s of compiling" in train().step_report.reason
    assert not uncompiled


def test_an_unknown_number_of_steps(uncompiled: list[Any]) -> None:
    assert "is not known" in train(data=Stream(32)).step_report.reason


def test_the_check_sees_a_program_that_is_slightly_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gradient that is off by one part in a thousand is none that may be trusted."""

    def spoil(graph: Any, inputs: Any, folder: Any) -> Any:
        for node in graph.graph.nodes:
            if "tanh_backward" in str(node.target):
                with graph.graph.inserting_after(node):
                    wrong = graph.graph.call_function(torch.ops.aten.mul.Tensor, (node, 1.001))
                node.replace_all_uses_with(wrong)
                wrong.args = (node, 1.001)
        graph.recompile()
        return graph

    monkeypatch.setattr("loopwright.execution.building.compile_graph", spoil)
    assert "disagreement: gradients 0 is off" in train().step_report.reason


def test_the_check_sees_other_random_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    def draws_more(graph: Any, inputs: Any, folder: Any) -> Any:
        return lambda *args: (torch.rand(1), graph(*args))[1]

    monkeypatch.setattr("loopwright.execution.building.compile_graph", draws_more)
    assert "other random numbers than eager" in train().step_report.reason


def test_a_program_that_does_not_run_leaves_the_run_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(graph: Any, inputs: Any, folder: Any) -> Any:
        def program(*tensors: torch.Tensor) -> Any:
            raise RuntimeError("expected size 8, got 0")

        return program

    monkeypatch.setattr("loopwright.execution.building.compile_graph", raises)
    trainer = train()
    assert trainer.step_report.choice == "eager"
    reason = "an exception in the program: RuntimeError: expected size 8, got 0"
    assert trainer.step_report.reason == reason
    assert same(weights(trainer), weights(train(mode="eager")))


def test_a_model_that_has_no_float64_is_checked_against_eager(uncompiled: list[Any]) -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.layer(inputs.float())

    torch.manual_seed(1)
    assert train(model=Single()).step_report.reference == "float32"
    assert checking.TIMES_THE_ERROR == 10


def test_a_decision_is_kept_and_used_without_measuring(
    uncompiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps a step from being captured is not: it is found early, and may be mended."""
    train()
    train(ReadsALoss)
    monkeypatch.setattr(auto, "LEAST_GAIN", 1e9)
    train(OwnScheduleStep)
    monkeypatch.setattr(auto, "LEAST_GAIN", 0.0)
    folder = cache_folder()
    assert folder is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    known = [json.loads(path.read_text()) for path in decisions()]
    assert sorted(map(sorted, known)) == [["eager_seconds", "program_seconds"], ["refused"]]

    def forbidden(*args: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(auto, "_measure", forbidden)
    monkeypatch.setattr(auto, "_seconds_of", forbidden)
    assert train().step_report.choice == "capture"
    assert "(found in an earlier run)" in train(OwnScheduleStep).step_report.reason
    another = train(model=tiny_model()).step_report
    assert "AssertionError: measured again" in another.reason, "another model decides anew"


def test_another_loss_function_of_the_same_name_is_decided_anew(uncompiled: list[Any]) -> None:
    """As after the code that was refused has been mended."""

    def make(*, reads: bool) -> Any:
        if reads:

            def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
                return nn.functional.cross_entropy(outputs, targets) + 0 * outputs.sum().item()
        else:

            def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
                return nn.functional.cross_entropy(outputs, targets)

        return loss

    choices = []
    for reads in (True, False):
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = {"step_mode": "auto", "device": "cpu", "callbacks": ()}
        trainer = Trainer(model, make(reads=reads), optimizer, **options)  # type: ignore[arg-type]
        trainer.train(tiny_data(32), 2, per_device_batch_size=8)
        assert trainer.step_report is not None
        choices.append(trainer.step_report.choice)
    assert choices == ["eager", "capture"]


class Scaled:
    """Is a loss as an object, whose name tells where it lies in memory."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.scale * nn.functional.cross_entropy(outputs, targets)


def partial_loss(scale: float) -> Any:
    def loss(outputs: Any, targets: Any, how: Any) -> Any:
        return scale * how(outputs, targets)

    return partial(loss, how=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets))


@pytest.mark.parametrize("make", [Scaled, partial_loss])
def test_a_decision_is_found_again_for_a_loss_without_a_name(
    make: Any, uncompiled: list[Any]
) -> None:
    for _ in range(2):
        trainer = tiny_trainer(step_mode="auto", device="cpu")
        trainer.loss_func = make(1.5)
        trainer.train(tiny_data(32), 2, per_device_batch_size=8)
        assert trainer.step_report.choice == "capture"
        assert len(decisions()) == 1
    trainer.loss_func = nn.functional.cross_entropy
    trainer.train(tiny_data(32), 2, per_device_batch_size=8)
    assert len(decisions()) == 2


def decisions() -> list[Path]:
    folder = cache_folder()
    assert folder is not None
    return list((folder / "decisions").iterdir())


OWN_OPTIMIZER = """
import torch

class Own(torch.optim.SGD):
    def step(self, closure=None):
        {line}
        return super().step(closure)
"""


def test_an_optimizer_whose_code_was_mended_is_decided_anew(
    uncompiled: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    choices = []
    for line in ("self.param_groups[0]['params'][0].detach().sum().item()", "pass"):
        (tmp_path / "own_optimizer.py").write_text(OWN_OPTIMIZER.format(line=line))
        monkeypatch.delitem(sys.modules, "own_optimizer", raising=False)
        linecache.checkcache()
        trainer = tiny_trainer(step_mode="auto", device="cpu")
        kind = importlib.import_module("own_optimizer").Own
        trainer.optimizer = kind(trainer.model.parameters(), lr=0.1)
        trainer.train(tiny_data(32), 2, per_device_batch_size=8)
        choices.append(trainer.step_report.choice)
    assert choices == ["eager", "capture"]
    assert len(decisions()) == 1, "what cannot be captured is not kept"


def test_decisions_that_cannot_be_kept_are_made_again(
    uncompiled: list[Any], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder should be")
    assert cache_folder() is None
    assert train().step_report.choice == "capture"
    cache.unlink()
    cache.mkdir()
    (cache / "loopwright" / "steps").mkdir(parents=True)
    (cache / "loopwright" / "steps").chmod(0o777)
    assert cache_folder() is None, "a folder that others may write to is not trusted"


def test_a_damaged_decision_is_made_again(uncompiled: list[Any]) -> None:
    train()
    folder = cache_folder()
    assert folder is not None
    (decision,) = (folder / "decisions").iterdir()
    decision.write_text("{")
    assert train().step_report.choice == "capture"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_the_choice_is_made_before_step_1_and_the_steps_are_those_of_a_run_without_it(
    uncompiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noting(TrainerCallback):
        def __init__(self) -> None:
            self.choices: list[Any] = []

        def on_train_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
            report = trainer.step_report
            self.choices.append((report and report.choice, trainer.progress.step))

    noting = Noting()
    train(callbacks=[noting], data=MapData(32))
    assert noting.choices == [("capture", step) for step in range(8)]


def test_deterministic_runs_are_eager_unless_a_mode_is_named() -> None:
    assert tiny_trainer(deterministic=True).step_mode == "eager"
    assert tiny_trainer(deterministic=True, step_mode="capture").step_mode == "capture"


def test_steps_of_an_eager_run_are_those_of_the_trainer_itself() -> None:
    trainer = train(mode="eager")
    assert trainer._stepping.step == trainer.train_step
    assert trainer.step_report.reason == "it was asked for"
    assert type(trainer._stepping) is EagerStepping
