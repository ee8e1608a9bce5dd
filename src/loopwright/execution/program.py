"""A micro-batch as one call: a compiled graph, bound to the tensors of a trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from loopwright.execution.graphs import Draw
from loopwright.execution.slots import slots_of
from loopwright.execution.tracing import Rates, StepGraph
from loopwright.execution.trees import unflatten
from loopwright.history import LossTracker

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

Call = Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], Sequence[torch.Tensor]]
"""Called with the inputs that stay in their place and with those that come anew."""


class DirectCall:
    """Calls a compiled graph as it is, the draws of the step made before it."""

    def __init__(self, call: Callable[..., Sequence[torch.Tensor]], draws: Sequence[Draw]) -> None:
        self._call = call
        self._draws = draws

    def __call__(
        self, fixed: Sequence[torch.Tensor], fresh: Sequence[torch.Tensor]
    ) -> Sequence[torch.Tensor]:
        """Return the outputs of the graph."""
        return self._call(*fixed, *fresh, *[draw.make() for draw in self._draws])


class StepProgram:
    """Runs a micro-batch as its graph says, and keeps the trainer's books as the step does.

    Args:
        step: The graph, and what its inputs and outputs are.
        call: Its compiled form.
        rates: The rates that it reads.
    """

    def __init__(self, step: StepGraph, call: Call, rates: Rates) -> None:
        self.step = step
        self._call = call
        self._rates = rates
        self._bind()

    def _bind(self) -> None:
        self._fixed = [each.detach() for each in self.step.fixed()]

    def rebind(self, trainer: Trainer) -> bool:
        """Take the tensors that stand in the places of a trainer now; False if they do not fit."""
        slots = slots_of(trainer)
        if len(slots) != len(self.step.slots):
            return False
        self.step.slots = slots
        self._bind()
        return True

    def compute(self, batch: Any) -> Sequence[torch.Tensor]:
        """Change parameters, buffers, optimizer and gradients as the step does; return outputs."""
        step = self.step
        self._rates.refresh()
        outputs = self._call(self._fixed, step.fresh(batch))
        for parameter, place in step.gradients_out:
            parameter.grad = None if place is None else outputs[place]
        for index, place in step.rebound:
            step.slots[index].put(outputs[place])
        if step.rebound:
            self._bind()
        return outputs

    def run(self, trainer: Trainer, batch: Any) -> Any:
        """Run the micro-batch that the trainer stands before; return what `train_step` returns."""
        step = self.step
        outputs = self.compute(batch)
        output = unflatten(step.output, outputs)
        for function, arguments in step.calls:
            trainer._note(function, *unflatten(arguments, outputs))
        if step.is_reported:
            trainer._report_train_step(batch, output)
        guard = trainer._guard
        if guard is not None:
            for place in step.noted:
                guard.note(trainer, outputs[place])
        for name, loss, count in step.named_losses:
            tracker = trainer._named_losses.setdefault(name, LossTracker())
            trainer._track(tracker, unflatten(loss, outputs), unflatten(count, outputs))
        if guard is not None:
            for place in step.norms:
                guard.note_norm(trainer, outputs[place])
        for optimizer, num_items in step.counts.items():
            trainer._accumulation.count(optimizer, num_items)
        trainer._updated.update(step.updated)
        for optimizer in step.finished:
            trainer._turn = optimizer
            trainer.scheduler_step()
        return output
