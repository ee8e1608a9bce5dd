"""All that a run needs to go on: taken from a trainer, and put back."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from loopwright.checkpoint import read_state, write_state
from loopwright.errors import CheckpointError
from loopwright.history import LossTracker, history_state, restore_history
from loopwright.progress import Progress
from loopwright.seed import random_states, restore_random_states
from loopwright.states import check_fits, load_states, states_of
from loopwright.train_arguments import optimizers_in

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

_POSITION = (
    "epochs_done",
    "step",
    "epoch_step",
    "micro_batch",
    "samples",
    "epoch_is_trained",
)


def save_state(
    trainer: Trainer, folder: str | os.PathLike[str], further: Mapping[str, Any]
) -> None:
    """Write the state of a trainer and further entries to a folder.

    Raises:
        ValueError: A further entry has the name of one of the state.
        CheckpointError: An update is half done, so that gradients would be missing.
    """
    state = take_state(trainer)
    if clash := sorted(state.keys() & further.keys()):
        raise ValueError(
            f"checkpoint_kwargs has {', '.join(clash)}, which the state itself "
            "holds. Use other names."
        )
    write_state(folder, {**further, **state})


def restore_state(trainer: Trainer, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Bring a trainer to the state in a folder, and return it whole.

    Raises:
        CheckpointError: A file is missing or damaged, or the state does not fit the trainer.
    """
    state = read_state(folder)
    put_state(trainer, state)
    return state


def take_state(trainer: Trainer) -> dict[str, Any]:
    """Return the state of a trainer as a tree that `checkpoint.write_state` takes.

    Raises:
        CheckpointError: An update is half done, so that gradients would be missing.
        NonFiniteLossError: The device has seen a loss that is not finite.
    """
    if trainer._guard is not None and trainer.progress.phase == "train":
        trainer._guard.settle(trainer)
    if trainer.progress.phase in ("eval", "predict"):
        raise CheckpointError(
            f"The training state was asked for in the phase {trainer.progress.phase!r}, which is "
            "no point to go on from. Save from on_train_step_start or on_training_run_epoch_end."
        )
    if trainer._accumulation.is_open:
        raise CheckpointError(
            "The training state was asked for in the middle of an update, where gradients of "
            "earlier micro-batches are not part of it. Save when an update is complete."
        )
    return {
        "seed": trainer._run_seed,
        "current_epoch": trainer._first_epoch + trainer.progress.epochs_done,
        "model": trainer.get_model(keep_torch_compile=False).state_dict(),
        "optimizer": states_of(trainer.optimizer),
        "scheduler": states_of(trainer.scheduler),
        "scalers": [scaler.state_dict() for scaler in trainer._scalers.values()],
        "history": history_state(trainer.run_history),
        "progress": dataclasses.asdict(_position(trainer.progress)),
        "losses": [dict(vars(tracker)) for tracker in trainer.loss_trackers],
        "named_losses": list(trainer._named_losses),
        "loader": trainer._feed.position(trainer),
        "callbacks": {
            name: each.state_dict() for name, each in _with_state(trainer.callback_handler).items()
        },
        "settings": settings_of(trainer),
        "num_parts": 1 if trainer._splitter is None else trainer._splitter.num_parts,
        "steps": trainer._stepping.state(),
        "random": random_states(),
    }


def settings_of(trainer: Trainer) -> dict[str, Any]:
    """Return the settings that decide, beside the data, what weights a run ends with."""
    config = trainer.run_config
    names = ("gradient_accumulation_steps", "gradient_clip_value", "gradient_clip_norm")
    known = {} if config is None else {name: getattr(config, name) for name in names}
    return {
        **known,
        "per_device_batch_size": config and config.train_per_device_batch_size,
        "precision": trainer.precision,
        "on_out_of_memory": trainer.on_out_of_memory,
        "step_mode": trainer.step_mode,
        "optimizer": [type(each).__name__ for each in optimizers_in(trainer.optimizer)],
    }


def _check_settings(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than those a state was saved with.

    Raises:
        CheckpointError: The message shows each difference.
    """
    here = settings_of(trainer)
    differences = [
        f"{name}: {value!r} then, {here[name]!r} now"
        for name, value in state["settings"].items()
        if value is not None and here.get(name) != value
    ]
    if differences:
        raise CheckpointError(
            f"The run was started with other settings ({'; '.join(differences)}), so it would not "
            "end as it was going to. Give the same, or allow_changes=True."
        )


def _with_state(callbacks: Iterable[Any]) -> dict[str, Any]:
    """Return the callbacks that have a state by the name of their class; a second is `Name 2`."""
    named: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for each in callbacks:
        if hasattr(each, "state_dict"):
            name = type(each).__name__
            counts[name] += 1
            named[name if counts[name] == 1 else f"{name} {counts[name]}"] = each
    return named


def _position(progress: Progress) -> Progress:
    """Return where to go on: the start of an epoch, unless one is being trained."""
    if progress.phase == "train":
        return progress
    return dataclasses.replace(progress, epoch_step=0, micro_batch=0)


def put_state(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Bring a trainer to a state that `take_state` returned.

    Raises:
        CheckpointError: The state does not fit the trainer.
    """
    if state["scheduler"] is not None and trainer.scheduler is None:
        raise CheckpointError(
            "The saved state has a scheduler and this run has none. Give the same "
            "create_scheduler_fn as before."
        )
    if trainer._seed not in (None, state["seed"]):
        raise CheckpointError(
            f"The saved run has seed {state['seed']} and this one seed {trainer._seed}, which is "
            "another order of data. Give the same seed, or none."
        )
    if trainer._keeper.refuses_changes:
        _check_settings(trainer, state)
    model = trainer.get_model(keep_torch_compile=False)
    check_fits(model, state["model"], "the saved model")
    check_fits(trainer.optimizer, state["optimizer"], "the saved optimizer")
    trainer._run_seed = state["seed"]
    load_states(model, state["model"])
    load_states(trainer.optimizer, state["optimizer"])
    if state["scheduler"] is not None:
        load_states(trainer.scheduler, state["scheduler"])
    for scaler, scaler_state in zip(trainer._scalers.values(), state["scalers"], strict=True):
        scaler.load_state_dict(scaler_state)
    restore_history(trainer.run_history, state["history"], epoch=state["current_epoch"])
    position = {name: state["progress"][name] for name in _POSITION}
    trainer.progress = dataclasses.replace(
        trainer.progress, epoch=state["current_epoch"], **position
    )
    trainer._first_epoch = state["current_epoch"] - trainer.progress.epochs_done
    trainer._resumes_inside_epoch = (
        trainer.progress.micro_batch > 0 and not trainer.progress.epoch_is_trained
    )
    trainer._loss_tracker = LossTracker()
    trainer._named_losses = {name: LossTracker() for name in state["named_losses"]}
    for tracker, values in zip(trainer.loss_trackers, state["losses"], strict=True):
        vars(tracker).update(values)
    if trainer._splitter is not None:
        trainer._splitter.num_parts = state.get("num_parts", 1)
    trainer._stepping.restore(state.get("steps"))
    trainer._keeper.resumed = state
    restore_random_states(state["random"])


def finish_resuming(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Put back what callbacks may have reset or drawn when the run started.

    Raises:
        CheckpointError: The state has other callbacks than the trainer.
    """
    here = _with_state(trainer.callback_handler)
    check_fits(here, state["callbacks"], "the saved callbacks")
    for name, callback in here.items():
        callback.load_state_dict(state["callbacks"][name])
    restore_random_states(state["random"])
