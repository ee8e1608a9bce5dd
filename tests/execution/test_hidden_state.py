"""What a program would not see: state in Python, draws of others, values that change later."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from step_programs import try_everything
from tiny import same, tiny_data, tiny_model, tiny_trainer, weights
from torch import nn

from loopwright.errors import NotSupportedError
from loopwright.events import TrainerCallback
from loopwright.trainer import Trainer


@pytest.fixture(autouse=True)
def worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything be tried, and short measurements do."""
    try_everything(monkeypatch)


class Frozen(dict[str, int]):
    """Refuses to be changed or copied."""

    def _refuse(self, *args: Any) -> Any:
        raise TypeError("frozen")

    __setitem__ = __delitem__ = clear = update = __copy__ = __reduce__ = _refuse  # type: ignore


class Counter:
    def __init__(self) -> None:
        self.calls = 0
        self.log: dict[str, list[float]] = {"train": []}


class Model(nn.Module):
    """A network that does something else besides, by name."""

    def __init__(self, what: str = "", folder: Path | None = None) -> None:
        super().__init__()
        self.net, self.what = tiny_model(), what
        self.scale = nn.Parameter(torch.zeros(3))
        self.counter, self.losses, self.beta = Counter(), {"train": [0.0]}, 0.5
        self.array, self.draws = np.zeros(2), np.random.default_rng(3)
        self.is_ready, self.mask, self.once = False, None, 1
        self.wide = torch.ones(4, 1).expand(4, 4)
        self.frozen = Frozen(a=1)
        self.weights = torch.tensor([1.0, 0.5, 2.0])
        if folder is not None:
            np.save(folder / "numbers.npy", np.arange(3.0))
            self.mapped = np.load(folder / "numbers.npy", mmap_mode="r")
            self.numbers = torch.frombuffer(bytearray(24), dtype=torch.float64)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.net(inputs) + self.scale
        factor: Any = 1.0
        match self.what if self.training else "":
            case "numpy":
                factor = np.random.beta(2, 2)
            case "random":
                factor = random.random()
            case "own generator":
                factor = self.draws.random()
            case "nested list":
                self.losses["train"].append(1.0)
            case "object":
                self.counter.calls += 1
            case "list in an object":
                self.counter.log["train"].append(1.0)
            case "array":
                self.array += 1
            case "number":
                self.once += 1
            case "beta":
                factor = self.beta
            case "weights":
                factor = self.weights
            case "first step":
                if not self.is_ready:
                    self.is_ready = True
                    with torch.no_grad():
                        self.scale.copy_(outputs.mean(0))
            case "cache":
                self.mask = torch.tensor([1.0, 0.0, 1.0]) if self.mask is None else self.mask
                factor = self.mask
        return outputs * factor


def run(mode: str, what: str, callbacks: Any = (), **options: Any) -> Any:
    """Train for three epochs of four steps."""
    options.setdefault("model", Model(what))
    trainer = tiny_trainer(step_mode=mode, device="cpu", callbacks=callbacks, **options)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    trainer.train(tiny_data(32), 3, tiny_data(16), per_device_batch_size=8)
    return trainer


def assert_close(one: Any, other: Any) -> None:
    for mine, theirs in zip(weights(one), weights(other), strict=True):
        torch.testing.assert_close(mine, theirs)


REFUSED = {
    "numpy": "draws from random or numpy",
    "random": "draws from random or numpy",
    "own generator": r"the step changes Model\.draws",
    "nested list": r"the step changes Model\.losses",
    "object": r"the step changes Model\.counter\.calls",
    "list in an object": r"the step changes Model\.counter",
    "array": r"the step changes Model\.array",
    "number": r"the step changes Model\.once",
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_step_with_hidden_state_stays_eager_and_is_left_as_it_was(
    what: str, uncompiled: list[Any]
) -> None:
    trainer, eager = run("auto", what), run("eager", what)
    assert trainer.step_report.choice == "eager"
    with pytest.raises(NotSupportedError, match=REFUSED[what]):
        run("capture", what)
    assert same(weights(trainer), weights(eager))
    for kind in (trainer, eager):
        kind.model.summary = (
            kind.model.losses,
            vars(kind.model.counter),
            kind.model.array.tolist(),
            kind.model.draws.random(),
            kind.model.once,
        )
    assert trainer.model.summary == eager.model.summary


@pytest.mark.parametrize("what", ["", "first step", "cache"])
@pytest.mark.parametrize("mode", ["capture", "auto"])
def test_what_only_the_first_step_does_is_done_by_it(
    what: str, mode: str, uncompiled: list[Any]
) -> None:
    """With an optimizer that has no state, too, which would be captured from step 1 on."""
    runs = []
    for each in (mode, "eager"):
        model = Model(what)
        trainer = Trainer(
            model,
            nn.CrossEntropyLoss(),
            torch.optim.SGD(model.parameters(), lr=0.1),
            callbacks=(),
            step_mode=each,  # type: ignore[arg-type]
            device="cpu",
            seed=3,
        )
        trainer.train(tiny_data(32), 3, tiny_data(16), per_device_batch_size=8)
        runs.append(trainer)
    assert runs[0].step_report.choice == "capture", runs[0].step_report.reason
    assert_close(*runs)
    assert runs[0].model.is_ready == runs[1].model.is_ready


def test_what_lies_about_does_no_harm(tmp_path: Path, uncompiled: list[Any]) -> None:
    """A mapped array that cannot be written, an expanded tensor, a dict that refuses changes."""
    trainer = run("auto", "", model=Model("", tmp_path))
    assert trainer.step_report.choice == "capture", trainer.step_report.reason


class ChangesBeta(TrainerCallback):
    """Anneals a coefficient, as for the KL term of a variational autoencoder."""

    def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
        trainer.model.beta = 1.0 / (1 + trainer.run_history.current_epoch // 2)


def test_a_coefficient_that_changes_later_ends_the_capture(uncompiled: list[Any]) -> None:
    trainer, eager = (run(mode, "beta", [ChangesBeta()]) for mode in ("auto", "eager"))
    assert trainer.step_report.reason == "Model.beta was changed, a constant of a captured step"
    assert_close(trainer, eager)
    with pytest.raises(NotSupportedError, match=r"Model\.beta was changed"):
        run("capture", "beta", [ChangesBeta()])
    unused = run("capture", "", [ChangesBeta()], model=tiny_model())
    assert unused.step_report.choice == "capture", "nobody reads it"


class FillsWeights(TrainerCallback):
    """Changes a plain tensor of the model in place, and puts another there."""

    def __init__(self, replaces: bool) -> None:
        self.replaces = replaces

    def on_train_epoch_end(self, trainer: Any, **kwargs: Any) -> None:
        if self.replaces:
            trainer.model.weights = trainer.model.weights + 1
        else:
            trainer.model.weights += 1


@pytest.mark.slow
def test_a_plain_tensor_is_read_by_the_compiled_program() -> None:
    eager = run("eager", "weights", [FillsWeights(replaces=False)])
    captured = run("capture", "weights", [FillsWeights(replaces=False)])
    assert_close(captured, eager)
    assert captured.run_history.get_metric_values("eval_loss_epoch") == pytest.approx(
        eager.run_history.get_metric_values("eval_loss_epoch"), rel=1e-5
    )


def test_another_tensor_in_its_place_ends_the_capture(uncompiled: list[Any]) -> None:
    trainer, eager = (run(mode, "weights", [FillsWeights(True)]) for mode in ("auto", "eager"))
    assert trainer.step_report.reason.startswith("Model.weights was changed")
    assert_close(trainer, eager)


class AddsAGroup(TrainerCallback):
    """Trains another layer from the second epoch on, with a rate of its own that falls."""

    def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
        group = trainer.optimizer.param_groups
        if len(group) == 1 and trainer.run_history.current_epoch == 2:
            trainer.model.scale.requires_grad_(True)
            trainer.optimizer.add_param_group({"params": [trainer.model.scale], "lr": 0.5})
        for each in group:
            each["lr"] *= 0.7


def test_the_rate_of_a_group_that_is_added_later_is_followed(uncompiled: list[Any]) -> None:
    runs = []
    for mode in ("capture", "eager"):
        model = Model()
        model.scale.requires_grad_(False)
        trainer = Trainer(
            model,
            nn.CrossEntropyLoss(),
            torch.optim.SGD(model.net.parameters(), lr=0.2, momentum=0.9),
            callbacks=[AddsAGroup()],
            step_mode=mode,  # type: ignore[arg-type]
            device="cpu",
            seed=3,
        )
        trainer.train(tiny_data(32), 4, per_device_batch_size=8)
        runs.append(trainer)
    assert_close(*runs)


def test_a_parameter_that_no_optimizer_has_is_refused(uncompiled: list[Any]) -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.net.parameters(), lr=0.1)
    trainer = Trainer(
        model, nn.CrossEntropyLoss(), optimizer, callbacks=(), step_mode="auto", device="cpu"
    )
    trainer.train(tiny_data(32), 2, per_device_batch_size=8)
    assert "the parameter scale gets a gradient and no optimizer has it" in (
        trainer.step_report.reason
    )


class BeginsToCount(TrainerCallback):
    """Freezes a layer in the second epoch; from then on the model counts."""

    def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
        if trainer.run_history.current_epoch == 2:
            trainer.model.scale.requires_grad_(False)
            trainer.model.what = "object"


def test_auto_goes_on_line_by_line_when_the_step_cannot_be_captured_any_more(
    uncompiled: list[Any],
) -> None:
    trainer, eager = (run(mode, "", [BeginsToCount()]) for mode in ("auto", "eager"))
    assert trainer.step_report.choice == "eager"
    assert_close(trainer, eager)
    assert trainer.model.counter.calls == eager.model.counter.calls == 8
