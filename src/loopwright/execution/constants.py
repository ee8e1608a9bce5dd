"""What a program holds as it was when the step was recorded: plain values that its code names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from loopwright.execution.obstacles import modules_of
from loopwright.execution.python_state import attributes_of, is_same
from loopwright.execution.trees import PLAIN

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

_PROGRESS = "progress"  # of a trainer, whose plain attributes are the counters of a run
_LIBRARIES = ("torch", "loopwright", "lightning", "pytorch_lightning", "torchmetrics", "numpy")


@contextmanager
def names_used(names: set[str]) -> Iterator[None]:
    """Add the names in all Python code that runs inside, but for that of libraries.

    An attribute can be read by its name alone, so that one which is not among them is not read
    (`getattr` with a name that is put together is not seen).
    """
    before = sys.getprofile()

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            owner = frame.f_globals.get("__name__", "")
            if owner.partition(".")[0] not in _LIBRARIES:
                names.update(frame.f_code.co_names)

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)


class Constants:
    """Knows the plain attributes of modules and of the trainer: numbers, strings, and which tensor
    stands there. A program goes on with what they were when it was made.

    Args:
        trainer: The trainer, before its step is run.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._values = [
            (label, owner, name, value)
            for label, owner in _owners(trainer)
            for name, value in attributes_of(owner).items()
            if isinstance(value, (*PLAIN, torch.Tensor))
        ]

    def keep(self, names: set[str]) -> None:
        """Keep those that the code of the step names, and that the step left as they were."""
        self._values = [
            each
            for each in self._values
            if each[2] in names and (each[0] != _PROGRESS or _PROGRESS in names) and _stands(*each)
        ]

    def changed(self) -> str | None:
        """Return the name of one that is not what it was."""
        changed = (f"{each[0]}.{each[2]}" for each in self._values if not _stands(*each))
        return next(changed, None)


def _owners(trainer: Trainer) -> Iterator[tuple[str, Any]]:
    for module in modules_of(trainer):
        for path, part in module.named_modules():
            yield ".".join(filter(None, (type(module).__name__, path))), part
    for user in trainer._step_users:
        yield type(user).__name__, user
    yield _PROGRESS, trainer.progress


def _stands(label: str, owner: Any, name: str, value: Any) -> bool:
    """Whether an attribute is what it was."""
    return is_same(vars(owner).get(name, owner), value)
