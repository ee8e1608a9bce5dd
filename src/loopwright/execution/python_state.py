"""What a step leaves in the attributes of modules, and of objects that it runs code of."""

from __future__ import annotations

import random
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
import torch

from loopwright.execution.obstacles import NotCapturableError, modules_of
from loopwright.execution.slots import slots_of
from loopwright.execution.trees import PLAIN

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

_OF_ANY_MODULE = frozenset(vars(torch.nn.Module())) - {"training"}
_CONTAINERS = (list, tuple, dict, set, deque)
_NOT_LOOKED_INTO = (
    *("torch", "lightning", "pytorch_lightning", "loopwright", "numpy", "threading", "logging"),
    *("weakref", "functools", "builtins"),
)
_CODE = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType)
_MOST_OBJECTS = 100_000
_LARGEST_ARRAY = 2**20  # bytes


class PythonState:
    """Knows the attributes of a trainer's modules, and what is in them: containers, plain objects,
    arrays, generators and tensors that have no place in a program.

    Of the objects beside a trainer that say how a loss is calculated it knows the attributes alone.

    Args:
        trainer: The trainer, before what may change them.

    Raises:
        NotCapturableError: They cannot be looked at.
    """

    def __init__(self, trainer: Trainer) -> None:
        placed = {id(slot.get()) for slot in slots_of(trainer)}
        try:
            owners = list(_owners(trainer, placed))
            self._kept = [(name, _kind_of(owner)(owner)) for name, owner in owners]
        except Exception as error:  # whatever an object says to being looked at
            raise NotCapturableError(
                f"attributes of modules cannot be looked at: {type(error).__name__}: {error}"
            ) from error

    def changed(self) -> str | None:
        """Return the name of an attribute in which something is not as it was."""
        for name, kept in self._kept:
            key = kept.difference()
            if key is not None:
                return f"{name}.{key}" if type(kept) is _Kept else name
        return None

    def refuse_changes(self) -> None:
        """Refuse a step that changed something: a program would not do that again.

        Raises:
            NotCapturableError: It did; the message names the attribute.
        """
        name = self.changed()
        if name is not None:
            raise NotCapturableError(
                f"the step changes {name} in Python, which a program does not do again"
            )

    def restore(self) -> None:
        """Put everything back, as often as needed."""
        for _, kept in self._kept:
            if kept.difference() is not None:
                kept.restore()


def _owners(trainer: Trainer, placed: set[int]) -> Iterator[tuple[str, Any]]:
    """Give what holds something that a step may change, with the attribute that leads there."""
    seen = set(placed)
    for module in modules_of(trainer):
        for path, part in module.named_modules():
            name = ".".join(filter(None, (type(module).__name__, path)))
            yield from _inside(name, part, seen)
    for user in trainer._step_users:
        if user is not trainer:
            name = type(user).__name__
            yield name, user
            for key, value in vars(user).items():
                if isinstance(value, _CONTAINERS) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{name}.{key}", value


def _inside(name: str, owner: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if id(owner) in seen or len(seen) > _MOST_OBJECTS:
        return
    seen.add(id(owner))
    yield name, owner
    if isinstance(owner, dict):
        children = [(name, each) for each in dict.values(owner)]
    elif isinstance(owner, _CONTAINERS):
        children = [(name, each) for each in owner]
    elif isinstance(owner, torch.nn.Module):
        children = [(f"{name}.{key}", each) for key, each in attributes_of(owner).items()]
    elif isinstance(owner, (torch.Tensor, np.ndarray)) or not hasattr(owner, "__dict__"):
        return
    else:
        children = [(name, each) for each in vars(owner).values()]
    for path, each in children:
        if _may_change(each):
            yield from _inside(path, each, seen)


def attributes_of(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object, but for those that every module has."""
    is_module = isinstance(owner, torch.nn.Module)
    return {
        key: each for key, each in vars(owner).items() if not is_module or key not in _OF_ANY_MODULE
    }


def _may_change(value: Any) -> bool:
    """Whether there is something to look at in a value, beside which one it is."""
    if isinstance(value, (*PLAIN, torch.nn.Module, type, *_CODE)):
        return False
    if isinstance(value, (*_CONTAINERS, torch.Tensor, np.ndarray, np.random.Generator)):
        return True
    if isinstance(value, random.Random | torch.Generator):
        return True
    owner = type(value).__module__.partition(".")[0]
    return hasattr(value, "__dict__") and owner not in _NOT_LOOKED_INTO


class _Kept:
    """Holds what an object holds: the attributes of a module or of another object."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.content = self.read()

    def read(self) -> Any:
        return attributes_of(self.owner)

    def difference(self) -> str | None:
        """Return where it holds something else; None where it does not."""
        return _difference(self.read(), self.content)

    def restore(self) -> None:
        for key in self.read().keys() - self.content.keys():
            del vars(self.owner)[key]
        vars(self.owner).update(self.content)


class _KeptDict(_Kept):
    def read(self) -> Any:
        return dict(dict.items(self.owner))

    def restore(self) -> None:
        dict.clear(self.owner)
        dict.update(self.owner, self.content)


class _KeptItems(_Kept):
    def read(self) -> Any:
        return dict(enumerate(self.owner))

    def restore(self) -> None:
        items = list(self.content.values())
        if isinstance(self.owner, list):
            list.__setitem__(self.owner, slice(None), items)
        elif isinstance(self.owner, deque):
            deque.clear(self.owner)
            deque.extend(self.owner, items)


class _KeptSet(_Kept):
    def read(self) -> Any:
        return dict.fromkeys(self.owner)

    def difference(self) -> str | None:
        return "" if self.read().keys() != self.content.keys() else None

    def restore(self) -> None:
        set.clear(self.owner)
        set.update(self.owner, self.content)


class _KeptArray(_Kept):
    def read(self) -> Any:
        is_looked_at = self.owner.flags.writeable and self.owner.nbytes <= _LARGEST_ARRAY
        return self.owner.copy() if is_looked_at else None

    def difference(self) -> str | None:
        is_same = self.content is None or self.owner.tobytes() == self.content.tobytes()
        return None if is_same else ""

    def restore(self) -> None:
        self.owner[...] = self.content


class _KeptGenerator(_Kept):
    def read(self) -> Any:
        if isinstance(self.owner, random.Random):
            return self.owner.getstate()
        if isinstance(self.owner, torch.Generator):
            return self.owner.get_state().tolist()
        return self.owner.bit_generator.state

    def difference(self) -> str | None:
        return None if str(self.read()) == str(self.content) else ""

    def restore(self) -> None:
        if isinstance(self.owner, random.Random):
            self.owner.setstate(self.content)
        elif isinstance(self.owner, torch.Generator):
            self.owner.set_state(torch.tensor(self.content, dtype=torch.uint8))
        else:
            self.owner.bit_generator.state = self.content


class _KeptTensor(_Kept):
    """Holds a tensor by the count of its changes; those who hold the same share a copy."""

    _copies: ClassVar[WeakValueDictionary[tuple[int, int], torch.Tensor]] = WeakValueDictionary()

    def read(self) -> Any:
        key = id(self.owner), _version_of(self.owner)
        copy = self._copies.get(key)
        if copy is None:
            copy = self._copies[key] = self.owner.detach().clone()
        return key[1], copy

    def difference(self) -> str | None:
        return None if _version_of(self.owner) == self.content[0] else ""

    def restore(self) -> None:
        copy = self.content[1]
        self.owner.detach().copy_(copy)
        self.content = _version_of(self.owner), copy


def _version_of(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _kind_of(owner: Any) -> type[_Kept]:
    kinds: Mapping[type | tuple[type, ...], type[_Kept]] = {
        dict: _KeptDict,
        (list, tuple, deque): _KeptItems,
        set: _KeptSet,
        np.ndarray: _KeptArray,
        torch.Tensor: _KeptTensor,
        (random.Random, np.random.Generator, torch.Generator): _KeptGenerator,
    }
    return next((kind for types, kind in kinds.items() if isinstance(owner, types)), _Kept)


def _difference(now: Mapping[Any, Any], before: Mapping[Any, Any]) -> str | None:
    for key, value in now.items():
        if key not in before or not is_same(value, before[key]):
            return str(key)
    return next((str(key) for key in before if key not in now), None)


def is_same(value: Any, before: Any) -> bool:
    """Whether two values are one object, or plain and equal."""
    are_plain = isinstance(value, PLAIN) and isinstance(before, PLAIN)
    return value is before or (are_plain and value == before)
