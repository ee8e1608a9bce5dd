"""What a step leaves in the attributes of modules, and of objects that it runs code of."""

from __future__ import annotations

import copy
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from loopwright.execution.obstacles import NotCapturableError, modules_of

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

_CONTAINERS = (list, dict, set, deque)
_PLAIN = (bool, int, float, str)
_PLACES = ("_parameters", "_buffers", "_modules")


class PythonState:
    """Knows the attributes of what a step runs code of: lists, dicts, sets and tensors by content.

    That is a trainer's modules, and the objects beside it that say how a loss is calculated.

    Args:
        trainer: The trainer, before what may change them.
    """

    def __init__(self, trainer: Trainer) -> None:
        parts: list[tuple[str, Any]] = [
            (f"{type(module).__name__}{'.' * bool(path)}{path}", part)
            for module in modules_of(trainer)
            for path, part in module.named_modules()
        ]
        parts += [
            (type(each).__name__, each) for each in trainer._step_users if each is not trainer
        ]
        self._parts = [(name, part, _attributes_of(part)) for name, part in parts]
        self._contents = [
            (value, copy.copy(value))
            for _, _, attributes in self._parts
            for value in attributes.values()
            if isinstance(value, _CONTAINERS)
        ]
        self._tensors = [
            (value, value.detach().clone())
            for _, _, attributes in self._parts
            for value in attributes.values()
            if isinstance(value, torch.Tensor)
        ]

    def refuse_changes(self) -> None:
        """Refuse a step that changed an attribute: a program would not do that again.

        Raises:
            NotCapturableError: It did; the message names the attribute.
        """
        filled = [value for value, before in self._contents if _holds_others(value, before)]
        for name, part, before in self._parts:
            for attribute, value in _attributes_of(part).items():
                is_filled = any(value is each for each in filled)
                if is_filled or not _is_same(value, before.get(attribute)):
                    raise NotCapturableError(
                        f"the step changes {name}.{attribute} in Python, which a program does not "
                        "do again"
                    )

    def restore(self) -> None:
        """Put everything back, as often as needed."""
        for _, part, before in self._parts:
            for attribute in [each for each in _attributes_of(part) if each not in before]:
                del vars(part)[attribute]
            vars(part).update(before)
        for value, items in self._contents:
            value.clear()
            (value.extend if isinstance(value, (list, deque)) else value.update)(items)
        for tensor, values in self._tensors:
            tensor.data.copy_(values)


def _attributes_of(part: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if name not in _PLACES}


def _holds_others(value: Any, before: Any) -> bool:
    if isinstance(value, set):
        return bool(value != before)
    items, kept = ((each.values() if isinstance(each, dict) else each) for each in (value, before))
    return len(value) != len(before) or not all(map(_is_same, items, kept))


def _is_same(value: Any, before: Any) -> bool:
    return value is before or (isinstance(value, _PLAIN) and bool(value == before))
