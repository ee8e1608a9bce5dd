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
        self._trainer = trainer
        self._values = dict(self._read())

    def keep(self, names: set[str]) -> None:
        """Keep those that the code of the step names, and that the step left as they were."""
        now = dict(self._read())
        if _PROGRESS not in names:
            now = {key: value for key, value in now.items() if key[0] != _PROGRESS}
        self._values = {
            key: value
            for key, value in self._values.items()
            if key[1] in names and key in now and is_same(now[key], value)
        }

    def changed(self) -> str | None:
        """Return the name of one that is not what it was."""
        for key, value in self._read():
            if key in self._values and not is_same(value, self._values[key]):
                return ".".join(key)
        return None

    def _read(self) -> Iterator[tuple[tuple[str, str], Any]]:
        trainer = self._trainer
        owners = [
            (".".join(filter(None, (type(module).__name__, path))), part)
            for module in modules_of(trainer)
            for path, part in module.named_modules()
        ]
        owners += [(type(each).__name__, each) for each in trainer._step_users]
        owners.append((_PROGRESS, trainer.progress))
        for owner, holder in owners:
            for name, value in attributes_of(holder).items():
                if isinstance(value, (*PLAIN, torch.Tensor)):
                    yield (owner, name), value
