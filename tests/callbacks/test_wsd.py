"""Checkpoints of a warm-up, stable, decay run: when they are saved, what they hold, going on."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from loopwright.callbacks.wsd import WSDCheckpointCallback
from loopwright.checkpoint import read_state
from loopwright.events import TrainerCallback
from loopwright.schedulers import WSDLrScheduler
from loopwright.trainer import Trainer

RATE = 0.1
# 24 samples in micro-batches of 4 are 6 updates an epoch: checkpoints after 12 and 24 updates.
NUM_EPOCHS = 4


class Recorder(TrainerCallback):
    """Keeps weights, momentum, rate and random state as they are after every update."""

    def __init__(self) -> None:
        self.weights: dict[int, torch.Tensor] = {}
        self.momentum: dict[int, torch.Tensor] = {}
        self.rates: dict[int, float] = {}
        self.random: dict[int, torch.Tensor] = {}

    def on_train_step_start(self, trainer: Trainer, **kwargs: Any) -> None:
        step, weight = trainer.progress.step, trainer.model.weight
        self.weights[step] = weight.detach().clone()
        if weight in trainer.optimizer.state:
            self.momentum[step] = trainer.optimizer.state[weight]["momentum_buffer"].clone()
        self.rates[step] = trainer.optimizer.param_groups[0]["lr"]
        self.random[step] = torch.get_rng_state()

    def on_train_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
        torch.rand(1)

    on_train_epoch_end = on_train_step_start


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(24, 3, generator=generator), torch.randn(24, 1, generator=generator)


def make_trainer(*callbacks: TrainerCallback) -> Trainer:
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.fill_(0.5)
        model.bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    return Trainer(model, nn.MSELoss(), optimizer, callbacks=callbacks, seed=7, device="cpu")


def train(trainer: Trainer, *, num_epochs: int = NUM_EPOCHS, **options: Any) -> None:
    schedule = {"num_checkpoints": 2, "decay_phase_ratio": 0.25, "num_warmup_epochs": 0}
    schedule |= options.pop("schedule", {})
    trainer.train(
        data(),
        num_epochs,
        eval_dataset=data(),
        per_device_batch_size=4,
        create_scheduler_fn=WSDLrScheduler.create_scheduler_fn(**schedule),
        **options,
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("options", "pre_decay", "post_decay"),
    [
        ({}, [9, 21], [12, 24]),
        # Decays that begin with an epoch, and checkpoints that end one.
        ({"schedule": {"decay_phase_ratio": 0.5}}, [6, 18], [12, 24]),
        # All checkpoints in the middle of an epoch.
        ({"num_epochs": 3, "schedule": {"decay_phase_ratio": 0.5}}, [5, 14], [9, 18]),
        # Two micro-batches an update: 12 updates.
        ({"gradient_accumulation_steps": 2}, [5, 11], [6, 12]),
        # Four micro-batches an update, and two in the last of an epoch: 8 updates.
        ({"gradient_accumulation_steps": 4}, [3, 7], [4, 8]),
        # The run ends where a decay begins.
        ({"num_epochs": 1, "schedule": {"total_num_epochs": 4, "decay_phase_ratio": 0.5}}, [6], []),
        # The run ends in the middle of an epoch, and before the schedule does.
        ({"max_num_train_steps": 10, "schedule": {"num_checkpoints": 1}}, [9], []),
    ],
)
def test_states_are_saved_before_and_models_after_each_decay(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    pre_decay: list[int],
    post_decay: list[int],
) -> None:
    """P-103: what is saved belongs to exactly the update that its name says."""
    recorder, folder = Recorder(), tmp_path / "checkpoints"
    trainer = make_trainer(recorder, WSDCheckpointCallback(folder))
    train(trainer, **options)
    assert names(folder) == {f"checkpoint_{step}_wsd_pre_decay" for step in pre_decay} | {
        f"checkpoint_{step}_wsd_post_decay.pt" for step in post_decay
    }
    assert capsys.readouterr().out.count("Saved") == len(pre_decay) + len(post_decay)
    for step in pre_decay:
        state = read_state(folder / f"checkpoint_{step}_wsd_pre_decay")
        assert torch.equal(state["model"]["weight"], recorder.weights[step])
        assert state["scheduler"]["num_updates"] == step - 1
        assert state["optimizer"]["param_groups"][0]["lr"] == RATE
        assert (state["step"], state["checkpoint_type"]) == (step, "wsd_pre_decay")
    for step in post_decay:
        content = torch.load(folder / f"checkpoint_{step}_wsd_post_decay.pt", weights_only=True)
        assert torch.equal(content["model_state_dict"]["weight"], recorder.weights[step])
        assert content["scheduler_state_dict"]["num_updates"] == step - 1
        assert content["optimizer_state_dict"]["param_groups"][0]["lr"] == recorder.rates[step]
        assert (content["step"], content["checkpoint_type"]) == (step, "wsd_post_decay")
        assert content["decay_fraction"] == trainer.scheduler.decay_phase_ratio
        assert content["total_steps"] == trainer.scheduler.total_steps


def test_saving_changes_nothing(tmp_path: Path) -> None:
    with_checkpoints, without = Recorder(), Recorder()
    train(make_trainer(with_checkpoints, WSDCheckpointCallback(tmp_path)))
    train(make_trainer(without))
    assert with_checkpoints.rates == without.rates
    for step, weights in without.weights.items():
        assert torch.equal(with_checkpoints.weights[step], weights)


def test_optimizer_and_scheduler_can_be_left_out(tmp_path: Path) -> None:
    callback = WSDCheckpointCallback(tmp_path, save_optimizer=False, save_scheduler=False)
    train(make_trainer(callback))
    content = torch.load(tmp_path / "checkpoint_24_wsd_post_decay.pt", weights_only=True)
    assert "model_state_dict" in content
    assert not {"optimizer_state_dict", "scheduler_state_dict"} & content.keys()


@pytest.mark.parametrize(("ratio", "step"), [(0.25, 9), (0.25, 21), (0.5, 6), (0.5, 18)])
def test_an_interrupted_run_is_resumed_from_a_state_to_the_bit(
    tmp_path: Path, ratio: float, step: int
) -> None:
    """P-77: in the middle of an epoch and at its end."""
    schedule = {"decay_phase_ratio": ratio}
    whole = Recorder()
    complete = make_trainer(whole, WSDCheckpointCallback(tmp_path / "first"))
    train(complete, schedule=schedule)
    rest, again = Recorder(), tmp_path / "second"
    trainer = make_trainer(rest, WSDCheckpointCallback(again))
    train(
        trainer,
        schedule=schedule,
        resume_from=tmp_path / "first" / f"checkpoint_{step}_wsd_pre_decay",
    )
    assert set(rest.weights) == {n for n in whole.weights if n >= step}
    for n, weights in rest.weights.items():
        assert torch.equal(weights, whole.weights[n]), f"after {n} updates"
    for metric in ("train_loss_epoch", "eval_loss_epoch"):
        assert trainer.run_history.get_metric_values(metric) == (
            complete.run_history.get_metric_values(metric)
        )
    later = {name for name in names(tmp_path / "first") if int(name.split("_")[1]) > step}
    assert names(again) == later, "the state that was resumed from is not saved again"


@pytest.mark.parametrize("name", ["checkpoint_21_wsd_pre_decay", "checkpoint_24_wsd_post_decay.pt"])
def test_a_new_run_starts_from_a_checkpoint_at_the_full_rate(tmp_path: Path, name: str) -> None:
    """WSD from the state before the decay, WSD-S from the model after it."""
    first = Recorder()
    train(make_trainer(first, WSDCheckpointCallback(tmp_path / "first")))
    start = int(name.split("_")[1])

    second = Recorder()
    callback = WSDCheckpointCallback(
        tmp_path / "second", initial_checkpoint=tmp_path / "first" / name
    )
    trainer = make_trainer(second, callback)
    train(trainer, num_epochs=8, schedule={"is_continuation_from_checkpoint": True})
    assert torch.equal(second.weights[0], first.weights[start])
    assert torch.equal(second.momentum[0], first.momentum[start])
    if callback.initial_checkpoint.is_dir():
        assert torch.equal(second.random[0], first.random[start])
    assert set(second.weights) == set(range(49)), "it is 8 epochs long"
    # Of 24 updates the last 6 are decay; the first of them runs at the full rate still.
    decayed = {*range(20, 25), *range(44, 49)}
    assert {n for n, rate in second.rates.items() if rate != RATE} == decayed
    assert names(tmp_path / "second") == {
        "checkpoint_18_wsd_pre_decay",
        "checkpoint_24_wsd_post_decay.pt",
        "checkpoint_42_wsd_pre_decay",
        "checkpoint_48_wsd_post_decay.pt",
    }
    assert len(trainer.run_history.get_metric_values("train_loss_epoch")) == 8


def test_a_continuation_is_continued_although_it_is_as_long(tmp_path: Path) -> None:
    train(make_trainer(WSDCheckpointCallback(tmp_path / "1")))
    folder = "checkpoint_21_wsd_pre_decay"
    for previous, following in (("1", "2"), ("2", "3")):
        recorder = Recorder()
        callback = WSDCheckpointCallback(
            tmp_path / following, initial_checkpoint=tmp_path / previous / folder
        )
        train(make_trainer(recorder, callback), schedule={"is_continuation_from_checkpoint": True})
        assert set(recorder.weights) == set(range(25))
        assert names(tmp_path / following) == names(tmp_path / "1")


def test_an_interrupted_continuation_is_resumed_where_it_was(tmp_path: Path) -> None:
    """The initial checkpoint, still given, does not come after the state resumed from."""
    train(make_trainer(WSDCheckpointCallback(tmp_path / "first")))

    def continuation(folder: str, **options: Any) -> Recorder:
        recorder = Recorder()
        callback = WSDCheckpointCallback(
            tmp_path / folder, initial_checkpoint=tmp_path / "first/checkpoint_9_wsd_pre_decay"
        )
        schedule = {"is_continuation_from_checkpoint": True}
        train(make_trainer(recorder, callback), num_epochs=2, schedule=schedule, **options)
        return recorder

    whole = continuation("second")
    rest = continuation("third", resume_from=tmp_path / "second/checkpoint_5_wsd_pre_decay")
    assert set(rest.weights) == set(range(5, 13))
    for step, weights in rest.weights.items():
        assert torch.equal(weights, whole.weights[step]), f"after {step} updates"
        assert rest.rates[step] == whole.rates[step]


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    callback = WSDCheckpointCallback(folder)
    trainer = make_trainer(callback)
    assert not folder.exists()
    train(trainer, max_num_train_steps=2)
    assert not folder.exists()


@pytest.mark.parametrize("create", [None, partial(StepLR, step_size=1)])
def test_another_scheduler_is_an_error(tmp_path: Path, create: Any) -> None:
    trainer = make_trainer(WSDCheckpointCallback(tmp_path))
    with pytest.raises(ValueError, match=r"needs a scheduler with checkpoints.*(NoneType|StepLR)"):
        trainer.train(data(), 1, create_scheduler_fn=create)


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    callback = WSDCheckpointCallback(tmp_path, initial_checkpoint=tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        train(make_trainer(callback), schedule={"is_continuation_from_checkpoint": True})


def test_a_schedule_that_is_no_continuation_is_an_error(tmp_path: Path) -> None:
    train(make_trainer(WSDCheckpointCallback(tmp_path)))
    callback = WSDCheckpointCallback(
        tmp_path, initial_checkpoint=tmp_path / "checkpoint_21_wsd_pre_decay"
    )
    with pytest.raises(ValueError, match="is_continuation_from_checkpoint=True.*resume_from"):
        train(make_trainer(callback))
