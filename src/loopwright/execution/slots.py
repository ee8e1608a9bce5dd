"""The places where the tensors live that a step reads and changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from loopwright.execution.obstacles import modules_of, parameters_of
from loopwright.train_arguments import optimizers_in

if TYPE_CHECKING:
    from loopwright.finite import DeviceLatch
    from loopwright.trainer import Trainer


@dataclass(frozen=True)
class Slot:
    """Is one place: an attribute of an object, or an entry of a dict."""

    owner: Any
    key: Any

    def get(self) -> Any:
        """Return what stands there."""
        if isinstance(self.owner, dict):
            return self.owner.get(self.key)
        return getattr(self.owner, self.key)

    def put(self, tensor: torch.Tensor | None) -> None:
        """Put a tensor there."""
        if isinstance(self.owner, dict):
            self.owner[self.key] = tensor
        else:
            setattr(self.owner, self.key, tensor)


@dataclass(frozen=True)
class Fixed:
    """Is a parameter, which stays the same tensor while its values change."""

    tensor: torch.Tensor
    owner: Any = "a parameter"

    def get(self) -> torch.Tensor:
        """Return the parameter."""
        return self.tensor

    def put(self, tensor: torch.Tensor | None) -> None:
        """Refuse another tensor."""
        raise AssertionError("a parameter cannot be replaced")


def slots_of(trainer: Trainer) -> list[Slot | Fixed]:
    """Return the places of the tensors of a step, in an order that two processes share.

    These are the parameters and buffers of every module of the trainer, the state of its
    optimizers, and the latch for values that are not finite; each tensor once.
    """
    found: dict[int, Slot | Fixed] = {}
    for module in modules_of(trainer):
        for parameter in module.parameters():
            found.setdefault(id(parameter), Fixed(parameter))
        for part in module.modules():
            for name, buffer in part.named_buffers(recurse=False):
                found.setdefault(id(buffer), Slot(part, name))
    for optimizer in optimizers_in(trainer.optimizer):
        for each in parameters_of(optimizer):
            found.setdefault(id(each), Fixed(each))
        for entry in _entries(optimizer):
            found.setdefault(id(entry.get()), entry)
    latch = latch_of(trainer)
    if latch is not None:
        for name in LATCH:
            found[id(getattr(latch, name))] = Slot(latch, name)
    return list(found.values())


LATCH = ("flag", "losses", "norms")
"""What a step changes of the flag on a device that stands for a value that is not finite."""


def latch_of(trainer: Trainer) -> DeviceLatch | None:
    """Return the latch that a trainer's steps are guarded by, where they are on a device."""
    return None if trainer._guard is None else trainer._guard.latch


def _entries(optimizer: Any) -> Iterator[Slot]:
    """Give the tensors in the state of an optimizer, in the order of its parameters."""
    for parameter in parameters_of(optimizer):
        state = optimizer.state.get(parameter, {})
        for key in sorted(key for key, value in state.items() if isinstance(value, torch.Tensor)):
            yield Slot(state, key)


def settings_of_step(trainer: Trainer) -> tuple[Any, ...]:
    """Return what a program holds as constants, whatever tensors it is bound to."""
    trained = tuple(slot.tensor.requires_grad for slot in slots_of(trainer) if type(slot) is Fixed)
    modes = tuple(part.training for module in modules_of(trainer) for part in module.modules())
    return (trained, modes, options_of(trainer.optimizer), keeps_outputs(trainer))


def structure_of(trainer: Trainer) -> tuple[Any, ...]:
    """Return what a program was made for beside values: another structure needs another one."""
    tensors = [slot.get() for slot in slots_of(trainer)]
    places = tuple((each.data_ptr(), each.shape, each.dtype) for each in tensors)
    return (places, settings_of_step(trainer))


def options_of(optimizer: Any) -> tuple[Any, ...]:
    """Return the options of optimizers that are constants of a program: all but the rates."""
    return tuple(
        (key, value if not isinstance(value, list) else tuple(value))
        for each in optimizers_in(optimizer)
        for group in each.param_groups
        for key, value in group.items()
        if key not in ("params", "lr", "initial_lr")
    )


def plain_state_of(optimizer: Any) -> list[Any]:
    """Return what the state of optimizers holds beside tensors."""
    return [
        (key, value)
        for each in optimizers_in(optimizer)
        for parameter in parameters_of(each)
        for key, value in each.state.get(parameter, {}).items()
        if not isinstance(value, torch.Tensor)
    ]


def keeps_outputs(trainer: Trainer) -> bool:
    """Whether somebody looks at the outputs of a step: callbacks that are not of this package."""
    listeners = trainer.callback_handler.listeners("on_train_step_end")
    return trainer._has_other_listeners or not all(map(_is_ours, listeners))


def _is_ours(listener: Any) -> bool:
    function = getattr(listener, "__func__", listener)
    return bool(function.__module__ == "loopwright.default_callbacks")
