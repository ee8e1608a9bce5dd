"""Checkpoints, and states from which a run goes on as if it had never stopped."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import MapData, Stream, same, tiny_data, tiny_model, tiny_trainer, weights
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from loopwright.callbacks import SaveTrainingStateCallback
from loopwright.checkpoint import read_state, write_state
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.data import epoch_order
from loopwright.errors import CheckpointError
from loopwright.events import StopTrainingError, TrainerCallback
from loopwright.trainer import Trainer


def decay(optimizer: Any) -> Any:
    return lr_scheduler.ExponentialLR(optimizer, 0.9)


def trained(**options: Any) -> Any:
    trainer = tiny_trainer()
    trainer.train(tiny_data(), 2, **options)
    return trainer


# --------------------------------------------------------------------- checkpoints


def test_a_checkpoint_file_holds_what_is_documented(tmp_path: Path) -> None:
    """P-14, P-70, P-71, P-75."""
    trainer = trained(create_scheduler_fn=decay)
    path = tmp_path / "new" / "model.pt"
    trainer.save_checkpoint(path, {"note": "best", "score": torch.tensor(0.5)})
    content = torch.load(path, weights_only=True)
    assert set(content) == {
        "model_state_dict",
        "optimizer_state_dict",
        "scheduler_state_dict",
        "note",
        "score",
    }
    assert not any("_orig_mod" in key for key in content["model_state_dict"])
    before = weights(trainer)
    states = trainer.optimizer.state_dict(), trainer.scheduler.state_dict()
    trainer.train(tiny_data(), 1, create_scheduler_fn=decay)
    model, optimizer = trainer.model, trainer.optimizer
    returned = trainer.load_checkpoint(path)
    assert returned["note"] == "best"
    assert (trainer.model, trainer.optimizer) == (model, optimizer)
    assert same(before, weights(trainer))
    assert trainer.scheduler.state_dict() == states[1]
    buffers = [s["momentum_buffer"] for s in trainer.optimizer.state_dict()["state"].values()]
    assert same(
        buffers, [s["momentum_buffer"] for s in content["optimizer_state_dict"]["state"].values()]
    )


def test_checkpoints_work_before_any_run(tmp_path: Path) -> None:
    """P-72: and an optimizer saved without state is loaded without state."""
    tiny_trainer().save_checkpoint(tmp_path / "a.pt")
    other = trained()
    other.load_checkpoint(tmp_path / "a.pt")
    assert same(weights(other), tiny_model().parameters())


def test_loading_needs_the_objects_that_the_file_holds(tmp_path: Path) -> None:
    """P-73: nothing is restored then. P-74: or they are left alone."""
    path = tmp_path / "a.pt"
    trained(create_scheduler_fn=decay).save_checkpoint(path)
    other = tiny_trainer()
    with pytest.raises(ValueError, match="holds a scheduler.*load_scheduler=False"):
        other.load_checkpoint(path)
    assert same(weights(other), tiny_model().parameters())
    other.load_checkpoint(path, load_scheduler=False, load_optimizer=False)
    assert not other.optimizer.state
    assert not same(weights(other), tiny_model().parameters())
    bare = Trainer(tiny_model(), None, None, callbacks=())
    with pytest.raises(ValueError, match="holds a optimizer|holds an optimizer"):
        bare.load_checkpoint(path)
    bare.load_checkpoint(path, load_optimizer=False, load_scheduler=False)


def test_what_is_saved_can_be_chosen(tmp_path: Path) -> None:
    """P-69."""
    trainer = trained(create_scheduler_fn=decay)
    trainer.save_checkpoint(tmp_path / "a.pt", save_optimizer=False, save_scheduler=False)
    assert set(torch.load(tmp_path / "a.pt", weights_only=True)) == {"model_state_dict"}


def test_checkpoints_of_several_optimizers(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": tiny_model(), "b": tiny_model()})
    optimizers = {n: torch.optim.Adam(m.parameters()) for n, m in model.items()}

    class Two(Trainer):
        def train_step(self, batch: Any) -> None:
            for name, part in self.model.items():
                self.update(nn.functional.cross_entropy(part(batch[0]), batch[1]), name)

    trainer = Two(model, None, optimizers, callbacks=())
    trainer.train(tiny_data(), 1)
    trainer.save_checkpoint(tmp_path / "a.pt")
    expected = weights(trainer)
    trainer.train(tiny_data(), 1)
    trainer.load_checkpoint(tmp_path / "a.pt")
    assert same(weights(trainer), expected)


# ------------------------------------------------------------------------- resuming

FULL = 4
OPTIONS: dict[str, Any] = {
    "per_device_batch_size": 4,
    "create_scheduler_fn": decay,
    "train_dataloader_kwargs": {"num_workers": 0},
    "eval_dataloader_kwargs": {"num_workers": 0},
}


def run(dataset: Any, epochs: int, *, callbacks: Any = (), accumulate: int = 1, **more: Any) -> Any:
    """Train with dropout, which needs the random state, and from weights made anew."""
    torch.manual_seed(77)
    trainer = tiny_trainer(model=tiny_model(dropout=0.5), callbacks=callbacks)
    trainer.train(
        dataset,
        epochs,
        tiny_data(5),
        gradient_accumulation_steps=accumulate,
        **{**OPTIONS, **more},
    )
    return trainer


def histories(trainer: Any) -> dict[str, list[Any]]:
    history = trainer.run_history
    return {name: history.get_metric_values(name) for name in history.get_metric_names()}


def assert_same_end(found: Any, expected: Any) -> None:
    assert same(weights(found), weights(expected))
    assert histories(found) == histories(expected)
    assert found.scheduler.state_dict() == expected.scheduler.state_dict()
    assert found.run_history.current_epoch == expected.run_history.current_epoch
    assert found.progress.step == expected.progress.step
    assert found.progress.samples == expected.progress.samples


DATASETS = {"tensors": tiny_data(14), "map-style": MapData(14, noise=True)}


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_resumed_after_an_epoch_ends_with_the_same_bits(
    name: str, accumulate: int, tmp_path: Path
) -> None:
    """P-76 to P-78: epochs 2, 3 and 4 are what is trained."""
    whole = run(DATASETS[name], FULL, accumulate=accumulate)
    saving = SaveTrainingStateCallback(tmp_path, save_every_n_epochs=1, save_at_end=False)
    run(DATASETS[name], FULL, accumulate=accumulate, callbacks=[saving])
    for epoch in (1, 3):
        resumed = run(
            DATASETS[name], FULL, accumulate=accumulate, resume_from=tmp_path / f"epoch_{epoch}"
        )
        assert_same_end(resumed, whole)


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_resumed_within_an_epoch_ends_with_the_same_bits(
    name: str, accumulate: int, tmp_path: Path
) -> None:
    whole = run(DATASETS[name], FULL, accumulate=accumulate)
    saving = SaveTrainingStateCallback(tmp_path, save_every_n_steps=1, save_at_end=False)
    run(DATASETS[name], FULL, accumulate=accumulate, callbacks=[saving])
    states = sorted(tmp_path.iterdir(), key=lambda path: int(path.name.split("_")[1]))
    assert len(states) == whole.progress.step
    for state in states:
        resumed = run(DATASETS[name], FULL, accumulate=accumulate, resume_from=state)
        assert_same_end(resumed, whole)


class Asked(MapData):
    """Notes which samples are made."""

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.made: list[int] = []

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> Any:
        self.made.append(index)
        return super().__getitem__(index % 12)


def test_going_on_far_into_an_epoch_makes_no_sample_twice(tmp_path: Path) -> None:
    """At step 100,000, which the saved position is set to rather than trained up to."""

    class Save(TrainerCallback):
        def on_train_step_start(self, trainer: Any, **kwargs: Any) -> None:
            trainer.save_training_state(tmp_path / "state")

    def train(data: Asked, steps: int, **options: Any) -> None:
        trainer = tiny_trainer(callbacks=options.pop("callbacks", ()))
        trainer.train(
            data,
            None,
            per_device_batch_size=2,
            max_num_train_steps=steps,
            train_dataloader_kwargs={"num_workers": 0},
            **options,
        )

    first, later = Asked(200_010), Asked(200_010)
    order = epoch_order(200_010, seed=3, epoch=1).tolist()
    train(first, 3, callbacks=[Save])
    assert first.made == order[:6]
    state = read_state(tmp_path / "state")
    state["progress"] |= dict.fromkeys(("step", "epoch_step", "micro_batch"), 100_000)
    write_state(tmp_path / "far", state)
    train(later, 100_002, resume_from=tmp_path / "far")
    assert later.made == order[200_000:200_004]


def test_a_resumed_run_does_the_updates_that_are_left(tmp_path: Path) -> None:
    """P-78: two epochs of four, with five steps each."""
    steps = []

    class Counting(TrainerCallback):
        def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
            steps.append(trainer.progress.epoch)

    run(tiny_data(14), 3).save_training_state(tmp_path / "state", {"note": "mine"})
    resumed = run(tiny_data(14), 5, callbacks=[Counting], resume_from=tmp_path / "state")
    assert steps == [4] * 4 + [5] * 4
    assert len(resumed.run_history.get_metric_values("train_loss_epoch")) == 5
    other = tiny_trainer()  # P-76: the entries given are returned
    other.scheduler = decay(other.optimizer)
    assert other.load_training_state(tmp_path / "state")["note"] == "mine"
    assert same(weights(other), weights(run(tiny_data(14), 3)))


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    whole = run(tiny_data(14), 2)
    whole.save_training_state(tmp_path / "state")
    assert_same_end(run(tiny_data(14), 2, resume_from=tmp_path / "state"), whole)


def test_resuming_goes_on_with_the_seed_of_the_run(tmp_path: Path) -> None:
    """A process whose generators are seeded otherwise does not change the order of data."""

    def with_seed_of_torch(seed: int, epochs: int, **more: Any) -> Any:
        torch.manual_seed(seed)
        trainer = tiny_trainer(seed=None)
        trainer.train(tiny_data(14), epochs, per_device_batch_size=4, **more)
        return trainer

    whole = with_seed_of_torch(1, 4)
    with_seed_of_torch(1, 2).save_training_state(tmp_path / "state")
    resumed = with_seed_of_torch(2, 4, resume_from=tmp_path / "state")
    assert same(weights(resumed), weights(whole))


def test_a_stop_within_an_update_can_be_saved_and_resumed(tmp_path: Path) -> None:
    """P-92: the open update is dropped, and done again when the run goes on."""

    class Stop(TrainerCallback):
        def on_train_step_end(self, trainer: Any, step: int, **kwargs: Any) -> None:
            if trainer.progress.epoch == 2 and step == 1:
                raise StopTrainingError("enough")

    data = tiny_data(16)
    saving = SaveTrainingStateCallback(tmp_path)
    whole = tiny_trainer()
    whole.train(data, 3, per_device_batch_size=4, gradient_accumulation_steps=2)
    stopped = tiny_trainer(callbacks=[Stop, saving])
    stopped.train(data, 3, per_device_batch_size=4, gradient_accumulation_steps=2)
    assert stopped.stop_reason == "enough"
    assert all(parameter.grad is None for parameter in stopped.model.parameters())
    resumed = tiny_trainer()
    resumed.train(
        data,
        3,
        per_device_batch_size=4,
        gradient_accumulation_steps=2,
        resume_from=tmp_path / "final",
    )
    assert same(weights(resumed), weights(whole))
    assert histories(resumed) == histories(whole)


def test_saving_within_an_update_is_refused(tmp_path: Path) -> None:
    class Save(TrainerCallback):
        def on_train_step_start(self, trainer: Any, **kwargs: Any) -> None:
            if trainer.progress.micro_batch == 1:
                trainer.save_training_state(tmp_path / "state")

    trainer = tiny_trainer(callbacks=[Save])
    with pytest.raises(CheckpointError, match="middle of an update"):
        trainer.train(tiny_data(), 1, per_device_batch_size=4, gradient_accumulation_steps=2)
    assert not (tmp_path / "state").exists()


class OwnLoader(Trainer):
    def create_train_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        return DataLoader(MapData(12), batch_size=4, shuffle=True)


class OwnGenerator(Trainer):
    def create_train_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        generator = torch.Generator().manual_seed(9)
        return DataLoader(MapData(12), batch_size=4, shuffle=True, generator=generator)


@pytest.mark.parametrize("cls", [OwnLoader, OwnGenerator, Trainer])
def test_other_loaders_go_on_at_the_end_of_an_epoch(cls: type[Trainer], tmp_path: Path) -> None:
    saving = SaveTrainingStateCallback(tmp_path, save_every_n_epochs=1)
    trainer = tiny_trainer(cls, callbacks=[saving])
    torch.manual_seed(4)
    trainer.train(Stream(12), 2, per_device_batch_size=4)
    resumed = tiny_trainer(cls)
    resumed.train(Stream(12), 2, per_device_batch_size=4, resume_from=tmp_path / "epoch_1")
    assert same(weights(resumed), weights(trainer))


def test_a_stream_goes_on_inside_an_epoch(tmp_path: Path) -> None:
    trainer = tiny_trainer(callbacks=[SaveTrainingStateCallback(tmp_path, save_every_n_steps=1)])
    trainer.train(Stream(12), 2, per_device_batch_size=4)
    for step in (1, 2, 4):
        resumed = tiny_trainer()
        folder = tmp_path / f"step_{step}"
        resumed.train(Stream(12), 2, per_device_batch_size=4, resume_from=folder)
        assert same(weights(resumed), weights(trainer))


class Noisy(Stream):
    """Adds noise from the global generators, or from one of its own that each epoch seeds."""

    def __init__(self, *, own: bool) -> None:
        super().__init__()
        self.own = own

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(1) if self.own else None
        for inputs, target in super().__iter__():
            noise = torch.rand(3, generator=generator)
            yield inputs + noise + (0.0 if self.own else np.random.rand() + random.random()), target


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("reproducible_draws", [True, False])
def test_a_stream_that_draws_goes_on_inside_an_epoch(
    own: bool, reproducible_draws: bool, tmp_path: Path
) -> None:
    """Beside dropout, which draws from a global generator too."""

    def train(folder: Path, resume: Path | None = None) -> Any:
        torch.manual_seed(77)
        policy = CheckpointPolicy(every_steps=1, keep_latest=9)
        model = tiny_model(dropout=0.5)
        trainer = tiny_trainer(model=model, run_dir=folder, checkpoint=policy)
        loader = {"reproducible_draws": reproducible_draws, "num_workers": 0}
        options = {"per_device_batch_size": 4, "train_dataloader_kwargs": loader}
        trainer.train(Noisy(own=own), 2, resume=resume, **options)
        return trainer

    whole = train(tmp_path / "whole")
    states = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    for number in (0, 2, 4):
        resumed = train(tmp_path / str(number), states[number])
        assert same(weights(resumed), weights(whole))


def test_a_state_from_inside_a_step_over_an_own_loader_is_refused(tmp_path: Path) -> None:
    """The next batch was drawn already, so going on would not be exact: never silently wrong."""
    saving = SaveTrainingStateCallback(tmp_path, save_every_n_steps=1)
    tiny_trainer(OwnLoader, callbacks=[saving]).train(Stream(12), 2, per_device_batch_size=4)
    with pytest.raises(CheckpointError, match="CheckpointPolicy"):
        tiny_trainer(OwnLoader).train(
            Stream(12), 2, per_device_batch_size=4, resume_from=tmp_path / "step_1"
        )


def test_a_damaged_state_restores_nothing(tmp_path: Path) -> None:
    run(tiny_data(14), 1).save_training_state(tmp_path / "state")
    (tmp_path / "state" / "model.safetensors").write_bytes(b"damaged")
    other = tiny_trainer()
    with pytest.raises(CheckpointError, match="model.safetensors is damaged"):
        other.train(tiny_data(14), 2, resume_from=tmp_path / "state")
    assert same(weights(other), tiny_model().parameters())


def test_names_of_the_state_cannot_be_taken(tmp_path: Path) -> None:
    with pytest.raises((CheckpointError, ValueError), match="model"):
        trained().save_training_state(tmp_path / "state", {"model": 1})
