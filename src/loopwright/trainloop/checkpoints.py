"""The files that a TrainLoop's models are saved in: what they hold, and going on from one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from loopwright.checkpoint import Snapshot, read_snapshot, take_snapshot
from loopwright.errors import CheckpointError
from loopwright.plain_values import mask_secrets, to_plain
from loopwright.states import check_fits
from loopwright.training_state import take_state
from loopwright.trainloop.multi_loss import MultiOptimizer

if TYPE_CHECKING:
    from loopwright.trainloop.train_loop import TrainLoop

_REQUIRED = ("model_state_dict", "optimizer_state_dict", "epoch")
_STATE = "training_state"


def checkpoint_of(loop: TrainLoop, hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is saved of a loop between two updates, for a file read with `weights_only`.

    Beside the documented entries there is `training_state`: what exact continuing needs.

    Raises:
        CheckpointError: Gradients wait for the rest of their update.
    """
    state = take_state(loop.trainer)
    content = {
        "model_state_dict": state.pop("model"),
        "optimizer_state_dict": loop.optimizer.state_dict(),
        "schedulers_state_dict": [each.state_dict() for each in loop.get_schedulers()],
        "epoch": loop.epoch,
        "iteration_idx": loop.total_iteration_idx,
        "hyperparams": mask_secrets(_storable(hyperparams)),
    }
    if loop.use_amp:
        content["amp"] = loop.amp_scaler.state_dict()
    del state["optimizer"]
    snapshot = take_snapshot(state)
    return {**content, _STATE: {"tree": snapshot.tree, "parts": snapshot.parts}}


def _storable(value: Any) -> Any:
    """Return a value that a safe file can hold; what it cannot is described in words."""
    if isinstance(value, Mapping):
        return {str(key): _storable(item) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_storable(item) for item in value)
    return value if isinstance(value, torch.Tensor) else to_plain(value)


def exact_state(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state of a Trainer in a saved model; None for one that was saved elsewhere.

    Raises:
        CheckpointError: It is no saved model.
    """
    missing = [name for name in _REQUIRED if name not in content]
    if missing:
        raise CheckpointError(
            f"The saved model has no {', '.join(missing)}, so it is not one of a TrainLoop."
        )
    if _STATE not in content:
        return None
    saved = content[_STATE]
    state = read_snapshot(Snapshot(saved["tree"], saved["parts"]))
    optimizers = content["optimizer_state_dict"]
    if isinstance(optimizers, list):
        optimizers = {str(index): each for index, each in enumerate(optimizers)}
    return {**state, "model": content["model_state_dict"], "optimizer": optimizers}


def load_weights(loop: TrainLoop, content: Mapping[str, Any]) -> None:
    """Load model, optimizer and counters, for a file without the state of a Trainer.

    Raises:
        CheckpointError: They do not fit.
    """
    model, optimizer = loop.trainer.get_model(keep_torch_compile=False), loop.optimizer
    check_fits(model, content["model_state_dict"], "the saved model")
    if not isinstance(optimizer, MultiOptimizer):
        check_fits(optimizer, content["optimizer_state_dict"], "the saved optimizer")
    model.load_state_dict(content["model_state_dict"])
    optimizer.load_state_dict(content["optimizer_state_dict"])
    loop.epoch = content["epoch"] + 1
    loop.total_iteration_idx = content.get("iteration_idx", -1)
    loop.trainer.run_history._set_epoch(content["epoch"] + 2)


def load_schedulers(
    schedulers: list[Any], saved: list[Any], *, ignore_saved: bool, ignore_missing: bool
) -> None:
    """Load the states of schedulers, in order.

    Args:
        schedulers: Those of the loop.
        saved: Their states.
        ignore_saved: Accept states without schedulers.
        ignore_missing: Accept schedulers without states.

    Raises:
        CheckpointError: Their numbers differ, and that is not accepted.
    """
    if (not saved and ignore_missing) or (not schedulers and ignore_saved):
        return
    if len(saved) != len(schedulers):
        raise CheckpointError(
            f"The saved model has {len(saved)} schedulers and this loop {len(schedulers)}. Give "
            "fit the same schedulers, or accept the difference with ignore_saved_schedulers or "
            "ignore_missing_saved_schedulers."
        )
    for scheduler, state in zip(schedulers, saved, strict=True):
        scheduler.load_state_dict(state)
