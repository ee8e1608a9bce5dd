"""From a step that runs line by line to the graph of its operations."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from loopwright.execution.graphs import (
    Draw,
    changed_inputs,
    guard,
    lift_constants,
    refuse_changing_shapes,
    take_out_draws,
    with_numbers_apart,
    without_profiler,
)
from loopwright.execution.obstacles import NotCapturableError, modules_of, parameters_of
from loopwright.execution.python_state import PythonState
from loopwright.execution.recurrent import with_own_lstm
from loopwright.execution.slots import Fixed, Slot, latch_of, options_of, plain_state_of, slots_of
from loopwright.execution.snapshot import Record, run_recorded
from loopwright.execution.torch_internals import record_operations
from loopwright.execution.trees import flatten, tensors_in
from loopwright.seed import random_states
from loopwright.train_arguments import optimizers_in

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


class Rates:
    """Keeps the learning rates of all groups as tensors, which a program reads in every step."""

    def __init__(self, trainer: Trainer) -> None:
        self._optimizers = list(optimizers_in(trainer.optimizer))
        self._groups = [group for each in self._optimizers for group in each.param_groups]
        self.tensors = [_rate_of(group, trainer.device) for group in self._groups]
        self._values: list[Any] = [None] * len(self._groups)

    def fit(self, trainer: Trainer) -> bool:
        """Whether they are those of all groups of a trainer's optimizers."""
        groups = [g for each in optimizers_in(trainer.optimizer) for g in each.param_groups]
        return len(groups) == len(self._groups) and all(map(operator.is_, groups, self._groups))

    def refresh(self) -> None:
        """Take over what schedules and callbacks wrote into the groups."""
        for index, group in enumerate(self._groups):
            rate = group["lr"]
            if rate is not self._values[index] and rate is not self.tensors[index]:
                self.tensors[index].fill_(rate)
                self._values[index] = rate

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let optimizers read the tensors, and step in the form that reads no values."""
        before = [dict(group) for group in self._groups]
        wanted = {"fused": False, "foreach": True, "capturable": True}
        for group, rate in zip(self._groups, self.tensors, strict=True):
            group.update({key: value for key, value in wanted.items() if key in group})
            group["lr"] = rate
        try:
            with without_flags(self._optimizers):
                yield
        finally:
            for group, values in zip(self._groups, before, strict=True):
                group.update({key: values[key] for key in (*wanted, "lr") if key in values})


@contextmanager
def without_flags(optimizers: Sequence[Any]) -> Iterator[None]:
    """Take from optimizers the flag by which their fused steps skip; other steps refuse it."""
    flags = [(each, each.found_inf) for each in optimizers if hasattr(each, "found_inf")]
    for optimizer, _ in flags:
        del optimizer.found_inf
    try:
        yield
    finally:
        for optimizer, flag in flags:
            optimizer.found_inf = flag


def _rate_of(group: dict[str, Any], device: torch.device) -> torch.Tensor:
    rate = group["lr"]
    if isinstance(rate, torch.Tensor):
        return rate
    is_double = any(each.dtype == torch.float64 for each in group["params"])
    dtype = torch.float64 if is_double else torch.float32
    return torch.full((), float(rate), dtype=dtype, device=device)


@dataclass
class StepGraph:
    """Is a micro-batch as a graph: its inputs, and what its outputs are."""

    graph: Any
    slots: list[Slot | Fixed]
    """The places of all tensors that a step may touch."""
    used: list[int]
    """Those of them that are inputs, changed in place by the graph."""
    rates: list[torch.Tensor]
    """Inputs after those."""
    gradients_in: list[torch.Tensor]
    """Parameters whose gradients are inputs next: those of an update that has begun. The tensors of
    the batch follow, and then the draws."""
    constants: list[torch.Tensor] = field(default_factory=list)
    """Inputs between those: tensors that have no place, which whoever made them may change."""
    draws: list[Draw] = field(default_factory=list)
    output: Any = None
    """What `train_step` returned, tensors as places in the outputs."""
    is_reported: bool = False
    named_losses: list[tuple[str, Any, Any]] = field(default_factory=list)
    losses: list[int] = field(default_factory=list)
    noted: list[int] = field(default_factory=list)
    norms: list[int] = field(default_factory=list)
    gradients: list[int] = field(default_factory=list)
    """Outputs that the optimizers stepped with; those of an update that goes on, so far."""
    gradients_out: list[tuple[torch.Tensor, int | None]] = field(default_factory=list)
    """Parameters that have another gradient afterwards: an output, or none."""
    rebound: list[tuple[int, int]] = field(default_factory=list)
    """Slots that hold another tensor afterwards, and the output that it is."""
    counts: dict[str | None, int] = field(default_factory=dict)
    """Items that each optimizer's share of an accumulated update grows by."""
    finished: list[str | None] = field(default_factory=list)
    updated: tuple[str | None, ...] = ()
    calls: list[tuple[Callable[..., Any], Any]] = field(default_factory=list)
    """What has to be called after the program, tensors among its arguments as places."""
    num_operations: int = 0
    num_convolutions: int = 0
    """How many of them are convolutions, forward or backward."""

    def fixed(self) -> list[torch.Tensor]:
        """Return the inputs that stay where they are from step to step."""
        places = [self.slots[index].get() for index in self.used]
        return [*places, *self.rates, *self.constants]

    def fresh(self, batch: Any) -> list[torch.Tensor]:
        """Return the inputs after those, which come anew with each micro-batch."""
        if not self.gradients_in:
            return tensors_in(batch)
        gradients = [each.grad for each in self.gradients_in if each.grad is not None]
        return [*gradients, *tensors_in(batch)]


def trace_micro_batch(
    trainer: Trainer, batch: Any, rates: Rates, *, guards: bool, keeps_outputs: bool
) -> StepGraph:
    """Run the micro-batch that a trainer stands before, and return the graph of what it did.

    The trainer is changed by it: put a `Snapshot` back afterwards.

    Args:
        trainer: The trainer.
        batch: The micro-batch.
        rates: The rates that the program will read.
        guards: Let the program change nothing when a loss or a norm is not finite.
        keeps_outputs: Return all that `train_step` returns, rather than loss and counts.

    Raises:
        NotCapturableError: It is not one program.
    """
    slots = slots_of(trainer)
    leaves = [slot.get() for slot in slots if isinstance(slot, Fixed)]
    gradients_in = [each for each in leaves if each.grad is not None]
    before = [slot.get() for slot in slots]
    gradients_before = [each.grad for each in leaves]
    seen = trainer._accumulation.seen
    plain = (options_of(trainer.optimizer), plain_state_of(trainer.optimizer))
    step = StepGraph(None, slots, list(range(len(slots))), rates.tensors, gradients_in)

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with rates.in_place():
            record = run_recorded(trainer, batch)
        if len(slots_of(trainer)) != len(slots):
            raise NotCapturableError("the step makes state of its optimizer anew")
        if not record.losses:
            raise NotCapturableError("the step has no loss")
        if (options_of(trainer.optimizer), plain_state_of(trainer.optimizer)) != plain:
            raise NotCapturableError("the optimizer keeps numbers that are no tensors")
        outputs: list[torch.Tensor] = []
        _describe(step, record, outputs, keeps_outputs=keeps_outputs)
        step.updated = tuple(trainer._updated)
        step.counts = _counts(trainer, seen)
        step.rebound = _changed(slots, before, outputs)
        step.gradients_out = _new_gradients(leaves, gradients_before, outputs)
        return tuple(each.detach() for each in outputs)

    with _refusing_traces(trainer):
        graph = record_operations(run, [*step.fixed(), *step.fresh(batch)])
    _refuse_gradients_of_others(trainer)
    if guards:
        latch = [i for i, slot in enumerate(slots) if slot.owner is latch_of(trainer)]
        guard(graph, [*step.losses, *step.norms], latch)
    return _finished(step, graph)


def trace_forward(trainer: Trainer, function: Callable[[Any], Any], batch: Any) -> StepGraph:
    """Return the graph of a function of a batch that changes nothing and needs no gradients.

    Raises:
        NotCapturableError: It is not one program.
    """
    slots = slots_of(trainer)
    step = StepGraph(None, slots, list(range(len(slots))), [], [])

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs: list[torch.Tensor] = []
        with torch.no_grad(), trainer.autocast():
            step.output = flatten(function(batch), outputs)
        return tuple(each.detach() for each in outputs)

    before = PythonState(trainer)
    try:
        with torch.no_grad(), trainer.autocast():
            function(batch)  # fills what is filled once
        with _refusing_traces(trainer):
            graph = record_operations(run, [*step.fixed(), *step.fresh(batch)])
    finally:
        before.restore()
    if changed_inputs(graph):
        raise NotCapturableError("the model changes parameters or buffers outside of training")
    return _finished(step, graph)


@contextmanager
def _refusing_traces(trainer: Trainer) -> Iterator[None]:
    """Refuse what leaves traces that a program would not leave: attributes, and other draws."""
    python, draws = PythonState(trainer), _other_draws()
    yield
    python.refuse_changes()
    if _other_draws() != draws:
        raise NotCapturableError(
            "the step draws from random or numpy, which a program would not do again; draw with "
            "torch"
        )


def _other_draws() -> str:
    states = random_states()
    return repr(states["python"]) + str([np.asarray(each).tolist() for each in states["numpy"]])


def _refuse_gradients_of_others(trainer: Trainer) -> None:
    """Refuse gradients that nobody drops: of parameters that are in no optimizer."""
    updated = {id(p) for each in optimizers_in(trainer.optimizer) for p in parameters_of(each)}
    for module in modules_of(trainer):
        for name, parameter in module.named_parameters():
            if parameter.grad is not None and id(parameter) not in updated:
                raise NotCapturableError(
                    f"the parameter {name} gets a gradient and no optimizer has it; freeze it with "
                    "requires_grad_(False)"
                )


def _finished(step: StepGraph, graph: Any) -> StepGraph:
    refuse_changing_shapes(graph)
    step.constants = lift_constants(graph, len(step.used) + len(step.rates))
    step.draws = take_out_draws(graph)
    step.graph = with_numbers_apart(with_own_lstm(without_profiler(graph)))
    _leave_out_unused(step)
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    step.num_operations = len(called)
    step.num_convolutions = sum("convolution" in name for name in called)
    return step


def _describe(
    step: StepGraph, record: Record, outputs: list[torch.Tensor], *, keeps_outputs: bool
) -> None:
    output = record.output
    if isinstance(output, dict) and not keeps_outputs:
        kept = ("loss", "batch_size", "num_items_in_batch")
        output = {key: value for key, value in output.items() if key in kept}
    step.output = flatten(output, outputs)
    step.calls = [(function, flatten(given, outputs)) for function, given in record.calls]
    step.named_losses = [
        (name, flatten(loss, outputs), flatten(count, outputs))
        for name, loss, count in record.named_losses
    ]
    for places, tensors in (
        (step.losses, record.losses),
        (step.noted, record.noted),
        (step.norms, record.norms),
        (step.gradients, record.gradients),
    ):
        places += range(len(outputs), len(outputs) + len(tensors))
        outputs += tensors
    step.is_reported, step.finished = record.is_reported, record.finished


def _counts(trainer: Trainer, before: Mapping[str | None, Any]) -> dict[str | None, int]:
    """Return what was added to the shares of an accumulated update."""
    accumulation = trainer._accumulation
    if not accumulation.is_needed or accumulation.size == 1:
        return {}
    if accumulation.completes_update:
        return dict.fromkeys(trainer._updated, 0)
    now = accumulation.seen
    if any(isinstance(count, torch.Tensor) for count in now.values()):
        raise NotCapturableError("accumulation over counts of items that are tensors")
    return {name: int(count - before.get(name, 0)) for name, count in now.items()}


def _changed(
    slots: list[Slot | Fixed], before: list[torch.Tensor], outputs: list[torch.Tensor]
) -> list[tuple[int, int]]:
    rebound = []
    for index, (slot, tensor) in enumerate(zip(slots, before, strict=True)):
        if slot.get() is not tensor:
            rebound.append((index, len(outputs)))
            outputs.append(slot.get())
    return rebound


def _new_gradients(
    leaves: list[torch.Tensor],
    before: list[torch.Tensor | None],
    outputs: list[torch.Tensor],
) -> list[tuple[torch.Tensor, int | None]]:
    new: list[tuple[torch.Tensor, int | None]] = []
    for leaf, gradient in zip(leaves, before, strict=True):
        if leaf.grad is gradient:
            continue
        new.append((leaf, None if leaf.grad is None else len(outputs)))
        if leaf.grad is not None:
            outputs.append(leaf.grad)
    return new


def _leave_out_unused(step: StepGraph) -> None:
    """Keep as inputs only what the graph reads or changes; the batch stays whole."""
    inputs = [node for node in step.graph.graph.nodes if node.op == "placeholder"]
    number = 0
    kept: list[list[Any]] = []
    for sources in (step.used, step.rates, step.constants, step.gradients_in):
        nodes = inputs[number : number + len(sources)]
        kept.append([each for each, node in zip(sources, nodes, strict=True) if node.users])
        number += len(sources)
        for node in nodes:
            if not node.users:
                step.graph.graph.erase_node(node)
    step.used, step.rates, step.constants, step.gradients_in = kept
    step.graph.recompile()
