"""The state of a trainer between two steps, put back after a step that must not count."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from loopwright.batches import count_of
from loopwright.execution.python_state import PythonState
from loopwright.execution.slots import Fixed, latch_of, slots_of
from loopwright.seed import random_states, restore_random_states
from loopwright.train_arguments import optimizers_in

if TYPE_CHECKING:
    from loopwright.finite import DeviceLatch
    from loopwright.trainer import Trainer

_COUNTERS = (
    "_named_losses",
    "_updated",
    "_turn",
    "_retain_graph",
    "_num_items",
    "_reported",
)


class Snapshot:
    """Holds copies of all that a training step changes."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._slots = slots_of(trainer)
        self._tensors = [slot.get() for slot in self._slots]
        self._values = [tensor.detach().clone() for tensor in self._tensors]
        self._gradients = [
            (tensor, tensor.grad, None if tensor.grad is None else tensor.grad.clone())
            for tensor in self._tensors
            if tensor.is_leaf
        ]
        self._optimizers = [
            (each, {parameter: dict(state) for parameter, state in each.state.items()})
            for each in optimizers_in(trainer.optimizer)
        ]
        self._groups = [
            (group, {key: value for key, value in group.items() if key != "params"})
            for each in optimizers_in(trainer.optimizer)
            for group in each.param_groups
        ]
        self._counters = {name: copy.deepcopy(vars(trainer)[name]) for name in _COUNTERS}
        self._accumulation = copy.deepcopy(vars(trainer._accumulation))
        self._python = PythonState(trainer)
        self._random = random_states()

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, as often as needed."""
        for slot, tensor, value in zip(self._slots, self._tensors, self._values, strict=True):
            tensor.copy_(value)
            if not isinstance(slot, Fixed) and slot.get() is not tensor:
                slot.put(tensor)
        for parameter, gradient, value in self._gradients:
            if gradient is not None and value is not None:
                gradient.copy_(value)
            parameter.grad = gradient
        for optimizer, states in self._optimizers:
            for parameter in list(optimizer.state):
                if parameter not in states:
                    del optimizer.state[parameter]
            for parameter, state in states.items():
                here = optimizer.state[parameter]
                here.clear()
                here.update(state)
        for group, values in self._groups:
            group.update(values)
        vars(self._trainer).update(copy.deepcopy(self._counters))
        vars(self._trainer._accumulation).update(copy.deepcopy(self._accumulation))
        self._python.restore()
        restore_random_states(self._random)


class Record:
    """Is what a micro-batch did, when it ran inside `recording`."""

    def __init__(self) -> None:
        self.output: Any = None
        self.is_reported = False
        """Whether `train_step` reported the output itself, before it returned."""
        self.losses: list[torch.Tensor] = []
        """What backward ran from."""
        self.noted: list[torch.Tensor] = []
        """Losses that no report tells of."""
        self.norms: list[torch.Tensor] = []
        """Norms of gradients that were clipped."""
        self.named_losses: list[tuple[str, torch.Tensor, Any]] = []
        """Name, loss and count of each named update."""
        self.gradients: list[torch.Tensor] = []
        """What optimizers stepped with."""
        self.finished: list[str | None] = []
        """The optimizers that stepped, in order."""
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        """What was called that is no part of the computation, with arguments."""


class _Notes:
    """Stands in for the guard of a trainer: reads nothing, and sets its flag on the device."""

    def __init__(self, record: Record, latch: DeviceLatch | None) -> None:
        self.latch = latch
        self._record = record

    def note(self, trainer: Trainer, loss: torch.Tensor) -> None:
        self._record.noted.append(loss.detach())
        self.take(loss, "losses")

    def note_norm(self, trainer: Trainer, norm: torch.Tensor) -> None:
        self._record.norms.append(norm.detach())
        self.take(norm, "norms")

    def check_update(self, trainer: Trainer, optimizer: Any) -> None:
        """Let the update go on: a program changes nothing where the flag is set."""

    @torch.no_grad()
    def take(self, value: torch.Tensor, name: str) -> None:
        """Set the flag if a value is not finite."""
        if self.latch is None:
            return
        total, flag = getattr(self.latch, name), self.latch.flag
        total.add_(value.detach().mean())
        flag.copy_(torch.where(total.isfinite(), flag, torch.ones_like(flag)))


@contextmanager
def recording(trainer: Trainer) -> Iterator[Record]:
    """Let steps be recorded instead of reported: no callback, schedule or history sees them."""
    record = Record()
    notes = _Notes(record, latch_of(trainer))
    backward_step, optimizer_step = trainer.backward_step, trainer.optimizer_step

    def report(batch: Any, output: Any) -> None:
        record.is_reported, trainer._reported = True, True
        if isinstance(output, dict) and "loss" in output:
            trainer._num_items = count_of(output)
            notes.take(output["loss"], "losses")

    def track(tracker: Any, loss: torch.Tensor, count: Any) -> None:
        name = next(key for key, value in trainer._named_losses.items() if value is tracker)
        record.named_losses.append((name, loss.detach(), count))
        notes.take(loss, "losses")

    def backward(loss: torch.Tensor) -> None:
        record.losses.append(loss.detach())
        backward_step(loss)

    def step() -> None:
        optimizer_step()
        parameters = trainer._parameters_in_turn()
        record.gradients += [each.grad for each in parameters if each.grad is not None]

    instead = {
        "_report_train_step": report,
        "_track": track,
        "backward_step": backward,
        "optimizer_step": step,
        "_note": lambda function, *given: record.calls.append((function, given)),
        "scheduler_step": lambda: record.finished.append(trainer._turn),
    }
    vars(trainer).update(instead)
    guard = trainer._guard
    trainer._guard = None if guard is None else notes  # type: ignore[assignment]
    try:
        with trainer._recording():
            yield record
    finally:
        trainer._guard = guard
        for name in instead:
            del vars(trainer)[name]


def run_recorded(trainer: Trainer, batch: Any) -> Record:
    """Run the micro-batch that the trainer stands before, line by line, and record it."""
    trainer._micro_batch, trainer._num_items, trainer._reported = batch, None, False
    trainer._updated.clear()
    with recording(trainer) as record, trainer.autocast():
        record.output = trainer.train_step(batch)
    if not record.finished:
        record.gradients = [
            slot.tensor.grad
            for slot in slots_of(trainer)
            if isinstance(slot, Fixed) and slot.tensor.grad is not None
        ]
    return record
