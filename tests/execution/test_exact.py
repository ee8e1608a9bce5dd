"""In every mode, a run that was cut anywhere and goes on ends with the bits of one that was not."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from step_programs import try_everything
from tiny import tiny_data
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ExponentialLR

from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.ema import ModelEma
from loopwright.events import TrainerCallback
from loopwright.trainer import Trainer


class TwoParts(nn.Module):
    """Has batch norm and dropout, and an optimizer for each part."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(inputs))


class Everything(Trainer):
    """Updates two optimizers, then an average of the weights, in each micro-batch."""

    def training_run_start(self) -> None:
        self.average = ModelEma(self.model, decay=0.8)

    def train_step(self, batch: Any) -> Any:
        inputs, targets = batch
        self.update(cross_entropy(self.model(inputs), targets), "body")
        loss = cross_entropy(self.model(inputs), targets)
        self.update(loss, "head")
        self.average.update(self.model)
        return {"loss": loss, "batch_size": len(targets)}

    def calculate_eval_batch_loss(self, batch: Any) -> Any:
        return {"loss": cross_entropy(self.model(batch[0]), batch[1]), "batch_size": len(batch[1])}


class Average(TrainerCallback):
    """Has checkpoints keep the average, and cuts the run before a micro-batch."""

    def __init__(self, epoch: int = 0, micro_batch: int = 0) -> None:
        self.at = epoch, micro_batch

    def on_training_run_start(self, trainer: Any, **kwargs: Any) -> None:
        self.average = trainer.average

    def on_train_step_start(self, trainer: Trainer, **kwargs: Any) -> None:
        if (trainer.progress.epoch, trainer.progress.micro_batch) == self.at:
            raise KeyboardInterrupt

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average.load_state_dict(state["average"])


def run(folder: Path, mode: Any, *, cut: tuple[int, int] = (0, 0), **options: Any) -> Any:
    """Train 3 epochs of 11 micro-batches, two to an update, the last update of each with one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = TwoParts()
    optimizers = {
        "body": torch.optim.AdamW(model.body.parameters(), lr=0.02),
        "head": torch.optim.SGD(model.head.parameters(), lr=0.1, momentum=0.9),
    }
    trainer = Everything(
        model,
        None,
        optimizers,
        [Average(*cut)],
        seed=1,
        device="cpu",
        step_mode=mode,
        run_dir=folder,
        checkpoint=CheckpointPolicy(every_steps=1),
        **options,
    )
    torch.manual_seed(9)
    schedule = partial(ExponentialLR, gamma=0.9)
    trainer.train(
        tiny_data(44),
        3,
        tiny_data(10),
        per_device_batch_size=4,
        gradient_accumulation_steps=2,
        gradient_clip_norm=0.5,
        create_scheduler_fn={"body": schedule, "head": schedule},
        resume="latest",
    )
    return trainer


def end_of(trainer: Any) -> dict[str, Any]:
    """Return all that has to be the same."""
    history = trainer.run_history
    return {
        "model": trainer.model.state_dict(),
        "average": trainer.average.state_dict(),
        "optimizers": {name: each.state_dict() for name, each in trainer.optimizer.items()},
        "history": {n: history.get_metric_values(n) for n in sorted(history.get_metric_names())},
        "random": torch.get_rng_state(),
        "steps": trainer.progress.step,
    }


def check(folder: Path, mode: str, cuts: list[tuple[int, int]], **options: Any) -> None:
    whole = run(folder / "whole", mode, **options)
    expected = end_of(whole)
    assert expected["steps"] == 18
    assert whole.step_report.choice == ("capture" if mode == "auto" else mode)
    for cut in cuts:
        with pytest.raises(KeyboardInterrupt):
            run(folder / f"{cut}", mode, cut=cut, **options)
        resumed = run(folder / f"{cut}", mode, **options)
        for part, value in end_of(resumed).items():
            torch.testing.assert_close(value, expected[part], rtol=0, atol=0, msg=f"{part}, {cut}")


@pytest.mark.parametrize(
    ("mode", "deterministic", "cuts"),
    [
        ("eager", False, [(1, 1), (2, 5)]),
        ("capture", False, [(1, 1), (1, 10), (2, 5), (3, 10)]),
        ("capture", True, [(2, 5)]),
        ("auto", False, [(1, 2), (2, 5)]),
    ],
)
def test_steps_with_everything_in_them(
    mode: str,
    deterministic: bool,
    cuts: list[tuple[int, int]],
    tmp_path: Path,
    uncompiled: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two optimizers, accumulation, clipping, dropout, batch norm, an average, rates per step."""
    try_everything(monkeypatch)
    check(tmp_path, mode, cuts, deterministic=deterministic)


@pytest.mark.slow
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("mode", ["capture", "compile"])
def test_compiled_steps_with_everything_in_them(
    mode: str, deterministic: bool, tmp_path: Path
) -> None:
    """The same with real programs."""
    check(tmp_path, mode, [(1, 2), (2, 5)][deterministic:], deterministic=deterministic)
