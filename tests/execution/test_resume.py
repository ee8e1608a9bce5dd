"""A run that goes on from a checkpoint keeps to its choice, and ends with the same bits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from step_programs import try_everything
from tiny import same, tiny_data, tiny_model, tiny_trainer, weights

from loopwright.checkpoint import read_state
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.errors import CheckpointError
from loopwright.events import StopTrainingError, TrainerCallback
from loopwright.execution import auto, stepping
from loopwright.trainer import Trainer


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_step_start(self, trainer: Trainer, **kwargs: Any) -> None:
        if trainer.progress.step == self.step:
            raise KeyboardInterrupt


def run(folder: Path, mode: str, *callbacks: Any, resume: Any = None, **options: Any) -> Any:
    trainer = tiny_trainer(
        model=tiny_model(dropout=0.4),
        step_mode=mode,
        device="cpu",
        run_dir=folder,
        checkpoint=CheckpointPolicy(every_steps=1, keep_latest=9),
        callbacks=callbacks,
    )
    torch.manual_seed(9)
    trainer.train(
        tiny_data(30),
        2,
        per_device_batch_size=4,
        gradient_accumulation_steps=options.pop("accumulation", 1),
        resume=resume,
        **options,
    )
    return trainer


@pytest.fixture(autouse=True)
def worth(monkeypatch: pytest.MonkeyPatch) -> None:
    try_everything(monkeypatch)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("mode", ["capture", "auto"])
@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_resumed_run_ends_with_the_same_bits(
    mode: str, step: int, accumulation: int, tmp_path: Path, uncompiled: list[Any]
) -> None:
    whole = run(tmp_path / "whole", mode, accumulation=accumulation)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", mode, StopAt(step), accumulation=accumulation)
    resumed = run(tmp_path / "cut", mode, accumulation=accumulation, resume="latest")
    assert resumed.step_report == whole.step_report or mode == "auto"
    assert resumed.step_report.choice == "capture"
    assert same(weights(resumed), weights(whole))
    assert resumed.run_history.get_metric_values(
        "train_loss_epoch"
    ) == whole.run_history.get_metric_values("train_loss_epoch")


def cut(folder: Path, mode: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, mode, StopAt(3))


def test_the_choice_is_in_every_checkpoint_and_is_not_made_again(
    tmp_path: Path, uncompiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tmp_path, "auto")
    states = [read_state(path) for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()]
    assert states
    assert all(state["steps"]["choice"] == "capture" for state in states)
    assert json.loads((tmp_path / "steps.json").read_text())["choice"] == "capture"

    def forbidden(*args: Any) -> Any:
        raise AssertionError("chosen again")

    monkeypatch.setattr(stepping, "choose", forbidden)
    assert run(tmp_path, "auto", resume="latest").step_report.choice == "capture"


def test_a_run_that_stayed_eager_stays_so(
    tmp_path: Path, uncompiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "FEWEST_STEPS", 1000)
    cut(tmp_path, "auto")
    monkeypatch.setattr(auto, "FEWEST_STEPS", 1)
    report = run(tmp_path, "auto", resume="latest").step_report
    assert (report.choice, report.reason[:12]) == ("eager", "too few step")


def test_a_program_that_cannot_be_made_again_is_an_error(
    tmp_path: Path, uncompiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tmp_path, "auto")
    monkeypatch.setattr("loopwright.execution.torch_internals.find", lambda *args: None)
    with pytest.raises(CheckpointError, match=r"program cannot be made again here: torch .*tracer"):
        run(tmp_path, "auto", resume="latest")


def test_another_mode_is_refused_unless_changes_are_allowed(
    tmp_path: Path, uncompiled: list[Any]
) -> None:
    cut(tmp_path, "capture")
    with pytest.raises(CheckpointError, match="step_mode: 'capture' then, 'eager' now"):
        run(tmp_path, "eager", resume="latest")
    trainer = run(tmp_path, "eager", resume="latest", allow_changes=True)
    assert trainer.step_report.choice == "eager"


def test_a_stop_leaves_a_trainer_that_trains_again(uncompiled: list[Any]) -> None:
    class StopOnce(TrainerCallback):
        def on_train_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
            if trainer.progress.step == 3 and trainer.progress.epochs_done == 0:
                raise StopTrainingError("enough")

    trainer = tiny_trainer(step_mode="capture", device="cpu", callbacks=[StopOnce])
    for _ in range(2):
        trainer.train(tiny_data(32), 1, per_device_batch_size=4)
        assert trainer.stop_reason == "enough"
