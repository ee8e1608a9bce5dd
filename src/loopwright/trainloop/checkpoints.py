"""The files that a TrainLoop's models are saved in: what they hold, and going on from one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from loopwright.checkpoint import Snapshot, load_export, read_snapshot, take_snapshot
from loopwright.errors import CheckpointError
from loopwright.plain_values import mask_secrets, to_plain
from loopwright.training_state import check_fits, take_state
from loopwright.trainloop.multi_loss import MultiOptimizer

if TYPE_CHECKING:
    from loopwright.trainloop.train_loop import TrainLoop

REQUIRED = ("model_state_dict", "optimizer_state_dict", "epoch", "hyperparams")
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
        return {key: _storable(item) for key, item in value.items() if isinstance(key, (str, int))}
    if type(value) in (list, tuple, set):
        return type(value)(_storable(item) for item in value)
    return value if isinstance(value, torch.Tensor) else to_plain(value)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the file of a saved model onto the CPU, executing nothing.

    Raises:
        CheckpointError: It cannot be read, or is no saved model.
    """
    try:
        content = load_export(path)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
    except Exception as error:  # unpickling errors of several kinds, all of them refusals
        raise CheckpointError(
            f"{path} holds objects that only executing code could load ({error}). Save it again "
            "as numbers, strings, tensors, and lists and dicts of them."
        ) from None
    missing = [name for name in REQUIRED if name not in content]
    if missing:
        raise CheckpointError(f"{path} is no saved model: it has no {', '.join(missing)}.")
    return content


def exact_state(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state of a Trainer in a saved model; None for one that was saved elsewhere."""
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
