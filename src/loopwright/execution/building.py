"""From a step that runs line by line to a program that is checked: trace, compile, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loopwright.execution.checking import check_forward, check_program
from loopwright.execution.constants import Constants, names_used
from loopwright.execution.cuda_graph import GraphedCall
from loopwright.execution.obstacles import NotCapturableError
from loopwright.execution.program import Call, DirectCall, StepProgram
from loopwright.execution.python_state import PythonState
from loopwright.execution.slots import keeps_outputs, settings_of_step
from loopwright.execution.snapshot import Snapshot, run_recorded
from loopwright.execution.stored import cache_folder
from loopwright.execution.torch_internals import compile_graph
from loopwright.execution.tracing import (
    Rates,
    StepGraph,
    trace_forward,
    trace_micro_batch,
)
from loopwright.execution.trees import unflatten
from loopwright.seed import preserved_random_states

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

Role = tuple[int, bool, bool]


@dataclass
class Built:
    """Holds the programs of a step by the role of their micro-batch, and what they took."""

    rates: Rates
    settings: tuple[Any, ...]
    """What the programs hold as constants."""
    programs: dict[Role, StepProgram] = field(default_factory=dict)
    reference: str = "float64"
    constants: Constants | None = None
    """What they hold as constants besides, where that was looked at."""
    starts_up: bool = False
    """Whether the first step did something in Python that later ones do not."""


def trace(trainer: Trainer, batch: Any, rates: Rates) -> StepGraph:
    """Return the graph of the micro-batch that a trainer stands before; the trainer stays so.

    Raises:
        NotCapturableError: It is not one program.
    """
    before = Snapshot(trainer)
    try:
        return trace_micro_batch(
            trainer,
            batch,
            rates,
            guards=trainer._guard is not None,
            keeps_outputs=keeps_outputs(trainer),
        )
    finally:
        before.restore()


def build(trainer: Trainer, batch: Any, rates: Rates) -> Built:
    """Return the program of the micro-batch that a trainer stands before, compiled and checked.

    Args:
        trainer: The trainer, which stays as it is.
        batch: The micro-batch.
        rates: The rates that the program will read.

    Raises:
        NotCapturableError: There is none, or it does not agree with eager.
    """
    step = trace(trainer, batch, rates)
    program = StepProgram(step, compile_step(trainer, batch, step), rates)
    reference = check_program(trainer, batch, program)
    role = trainer._accumulation.role
    assert role is not None
    return Built(rates, settings_of_step(trainer), {role: program}, reference)


def compile_step(trainer: Trainer, batch: Any, step: StepGraph) -> Call:
    """Return the compiled form of a graph, inside a CUDA graph where the device is CUDA."""
    if any(each.device.type != trainer.device.type for each in step.fixed()):
        raise NotCapturableError(
            "there is a tensor on the CPU, which a program on a device cannot read or change; an "
            "optimizer keeps none there with fused=True or capturable=True"
        )
    with preserved_random_states():
        draws = [draw.make() for draw in step.draws]
    inputs = [each.detach() for each in (*step.fixed(), *step.fresh(batch), *draws)]
    call = compile_graph(step.graph, inputs, cache_folder())
    return (GraphedCall if trainer.device.type == "cuda" else DirectCall)(call, step.draws)


def build_forward(
    trainer: Trainer, function: Callable[[Any], Any], batch: Any
) -> Callable[[Any], Any]:
    """Return the compiled form of a function of a batch, checked on it.

    Raises:
        NotCapturableError: There is none, or it does not agree with eager.
    """
    with preserved_random_states():
        step = trace_forward(trainer, function, batch)
    call = compile_step(trainer, batch, step)
    fixed = [each.detach() for each in step.fixed()]

    def run(batch: Any) -> Any:
        return unflatten(step.output, call(fixed, step.fresh(batch)))

    check_forward(trainer, function, run, batch)
    return run


def positions(trainer: Trainer) -> Iterator[Role]:
    """Take a trainer through the micro-batches of one update, giving the role of each."""
    accumulation = trainer._accumulation
    for _ in range(accumulation.size):
        accumulation.begin(trainer.progress.micro_batch)
        role = accumulation.role
        assert role is not None, "an update of equal micro-batches"
        yield role
        accumulation.end()


def rehearse(trainer: Trainer, batch: Any, rates: Rates) -> Built:
    """Build the programs of an update before it is run; the trainer stays as it is.

    An update is run first, so that the state of optimizers is there; it does not count.

    Raises:
        NotCapturableError: There is none, or it does not agree with eager.
    """
    before, python, names = Snapshot(trainer), PythonState(trainer), set[str]()
    constants = Constants(trainer)
    built = Built(rates, settings_of_step(trainer), constants=constants)
    try:
        with names_used(names):
            for _ in positions(trainer):
                run_recorded(trainer, batch)
        constants.keep(names)
        built.starts_up = python.changed() is not None
        for role in positions(trainer):
            if role not in built.programs:
                one = build(trainer, batch, rates)
                built.programs |= one.programs
                built.reference = min(built.reference, one.reference)
            run_recorded(trainer, batch)
    finally:
        before.restore()
    return built
