"""The states of models, optimizers and the like, alone or by name: taken, compared and loaded."""

from collections.abc import Mapping
from typing import Any

import torch

from loopwright.errors import CheckpointError


def states_of(owned: Any) -> Any:
    """Return the state of an object, or of each one of a dict; None for None."""
    if isinstance(owned, Mapping):
        return {name: states_of(each) for name, each in owned.items()}
    return None if owned is None else owned.state_dict()


def load_states(owned: Any, states: Any) -> None:
    """Load what `states_of` returned."""
    if isinstance(owned, Mapping):
        for name, each in owned.items():
            load_states(each, states[name])
    else:
        owned.load_state_dict(states)


def check_fits(owned: Any, states: Any, what: str) -> None:
    """Refuse a state of other names, shapes or groups, before anything is loaded.

    Raises:
        CheckpointError: The message names what differs.
    """
    if states is None:
        raise CheckpointError(f"There is no {what}.")
    if isinstance(owned, torch.nn.Module):
        _check_tensors(owned.state_dict(), states, what)
    elif isinstance(owned, torch.optim.Optimizer):
        here = [len(group["params"]) for group in owned.param_groups]
        there = [len(group["params"]) for group in states["param_groups"]]
        if here != there:
            raise CheckpointError(
                f"{what} has groups of {there} parameters, and the trainer's optimizer {here}."
            )
    elif isinstance(owned, Mapping):
        if set(owned) != set(states):
            raise CheckpointError(f"{what} is of {sorted(states)}, and here is {sorted(owned)}.")
        for name, each in owned.items():
            check_fits(each, states[name], f"{what} {name!r}")


def _check_tensors(expected: Mapping[str, Any], found: Mapping[str, Any], what: str) -> None:
    for difference, names in (
        ("lacks", expected.keys() - found.keys()),
        ("has, and the model has not,", found.keys() - expected.keys()),
    ):
        if names:
            raise CheckpointError(f"{what} {difference} {', '.join(sorted(names))}.")
    for name, tensor in expected.items():
        if name.endswith("_extra_state"):  # of what shape it is, the module that reads it knows
            continue
        shapes = [list(getattr(value, "shape", ())) for value in (tensor, found[name])]
        if shapes[0] != shapes[1]:
            raise CheckpointError(f"{what}: expected {shapes[0]}, found {shapes[1]} at {name}.")
