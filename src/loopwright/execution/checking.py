"""A program is trusted after single steps from one state agree with the step run line by line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from loopwright.execution.obstacles import NotCapturableError
from loopwright.execution.program import StepProgram
from loopwright.execution.slots import Fixed, slots_of
from loopwright.execution.snapshot import Snapshot, run_recorded
from loopwright.execution.tracing import without_flags
from loopwright.execution.trees import flatten, tensors_in, unflatten
from loopwright.seed import preserved_random_states
from loopwright.train_arguments import optimizers_in

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

TIMES_THE_ERROR = 10.0
"""How much farther than eager a program may be from the same step in float64."""
_WITHOUT_REFERENCE = {torch.float32: 1e-4, torch.float64: 1e-9}
_LOW_PRECISION = 0.05
_LARGEST_ERROR = 0.05  # of a reference in float64; beyond, it drew other numbers


@dataclass
class Outcome:
    """Is what a micro-batch led to: values by what they are, all copied."""

    values: dict[str, list[torch.Tensor]]
    random: torch.Tensor


def check_program(trainer: Trainer, batch: Any, program: StepProgram) -> str:
    """Compare a program with the step run line by line, and leave the trainer as it was.

    Losses, gradients and what the step leaves in parameters, buffers and optimizer are compared
    on the batch and on one with other rows in it, from the same state and random state.

    Returns:
        What the error was measured against: "float64", or "float32" where the step cannot run in
        float64.

    Raises:
        NotCapturableError: They disagree; the message says in what.
    """
    references = {_check_one(trainer, each, program) for each in (batch, _with_other_rows(batch))}
    return min(references)


def _check_one(trainer: Trainer, batch: Any, program: StepProgram) -> str:
    before = Snapshot(trainer)
    try:
        eager = _outcome(trainer, lambda: _run_eagerly(trainer, batch))
        before.restore()
        exact = _in_double_precision(trainer, batch)
        before.restore()
        with _refusing_failures():
            ours = _outcome(trainer, lambda: _run_program(program, batch))
    finally:
        before.restore()
    if not torch.equal(eager.random, ours.random):
        raise NotCapturableError("a disagreement: it draws other random numbers than eager")
    if exact is not None and not _is_close(eager, exact):
        exact = None
    is_low = trainer.precision != "fp32"
    for name, found in ours.values.items():
        expected = eager.values[name]
        if len(expected) != len(found):
            raise NotCapturableError(f"a disagreement: {len(found)} {name}, eager {len(expected)}")
        scale = _norm(expected)
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            reference = None if exact is None else exact.values[name][index]
            error, allowed = _distance(one, other, reference, scale, is_low=is_low)
            if not error <= allowed:  # NaN disagrees
                raise NotCapturableError(
                    f"a disagreement: {name} {index} is off by {error:.2g}, allowed {allowed:.2g}"
                )
    return "float32" if exact is None else "float64"


def check_forward(
    trainer: Trainer, function: Callable[[Any], Any], program: Callable[[Any], Any], batch: Any
) -> None:
    """Compare a program of a function of a batch with the function itself.

    Raises:
        NotCapturableError: They disagree; the message says in what.
    """
    for each in (batch, _with_other_rows(batch)):
        with preserved_random_states(), torch.no_grad(), trainer.autocast():
            eager = tensors_in(function(each))
        with preserved_random_states(), torch.no_grad():
            exact = _forward_in_double_precision(trainer, function, each)
        with preserved_random_states(), _refusing_failures():
            ours = tensors_in(program(each))
        for index, (one, other) in enumerate(zip(ours, eager, strict=True)):
            reference = None if exact is None else exact[index]
            scale, is_low = _norm([other]), trainer.precision != "fp32"
            error, allowed = _distance(one, other, reference, scale, is_low=is_low)
            if not error <= allowed:
                raise NotCapturableError(
                    f"a disagreement: output {index} is off by {error:.2g}, allowed {allowed:.2g}"
                )


@contextmanager
def _refusing_failures() -> Iterator[None]:
    """Refuse a program that was compiled and does not run, as for some recurrent layers."""
    try:
        yield
    except Exception as error:  # whatever a compiler's mistake leads to
        first = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise NotCapturableError(f"an exception in the program: {first}") from error


def _distance(
    ours: torch.Tensor,
    eager: torch.Tensor,
    exact: torch.Tensor | None,
    scale: float,
    *,
    is_low: bool,
) -> tuple[float, float]:
    if not eager.is_floating_point() or torch.equal(ours, eager):
        return float(not torch.equal(ours, eager)), 0.0
    rounding = torch.finfo(eager.dtype).eps * scale
    ours, eager = ours.double(), eager.double()
    if exact is None:
        share = _LOW_PRECISION if is_low else _WITHOUT_REFERENCE.get(eager.dtype, 1e-4)
        return _norm([ours - eager]), max(share * _norm([eager]), rounding)
    error = _norm([eager - exact])
    return _norm([ours - exact]), TIMES_THE_ERROR * max(error, rounding)


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return math.sqrt(sum(float(each.double().square().sum()) for each in tensors))


def _is_close(eager: Outcome, exact: Outcome) -> bool:
    """Whether the reference did the same step; one with other random draws did not."""
    pairs = zip(eager.values["gradients"], exact.values["gradients"], strict=True)
    error = _norm([one.double() - other for one, other in pairs])
    return error <= _LARGEST_ERROR * _norm(exact.values["gradients"]) + 1e-12


def _run_eagerly(trainer: Trainer, batch: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    record = run_recorded(trainer, batch)
    return record.losses, record.gradients


def _run_program(program: StepProgram, batch: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    outputs = program.compute(batch)
    step = program.step
    return [outputs[i] for i in step.losses], [outputs[i] for i in step.gradients]


def _outcome(
    trainer: Trainer, run: Callable[[], tuple[list[torch.Tensor], list[torch.Tensor]]]
) -> Outcome:
    losses, gradients = run()
    state = [slot.get() for slot in slots_of(trainer)]
    named = {"losses": losses, "gradients": gradients, "state": state}
    copies = {name: [each.detach().clone() for each in some] for name, some in named.items()}
    is_cuda = trainer.device.type == "cuda"
    random = torch.cuda.get_rng_state(trainer.device) if is_cuda else torch.get_rng_state()
    return Outcome(copies, random)


def _in_double_precision(trainer: Trainer, batch: Any) -> Outcome | None:
    """Run the step in float64; None where the model is not made for that."""
    precision = trainer.precision
    try:
        with _doubled(trainer):
            trainer.precision = "fp32"
            return _outcome(trainer, lambda: _run_eagerly(trainer, _wide(batch)))
    except Exception:  # whatever a model says to numbers of another type
        return None
    finally:
        trainer.precision = precision


def _forward_in_double_precision(
    trainer: Trainer, function: Callable[[Any], Any], batch: Any
) -> list[torch.Tensor] | None:
    try:
        with _doubled(trainer):
            return tensors_in(function(_wide(batch)))
    except Exception:  # as above
        return None


def _wide(batch: Any) -> Any:
    tensors: list[torch.Tensor] = []
    form = flatten(batch, tensors)
    return unflatten(form, [each.double() if _is_float(each) else each for each in tensors])


@contextmanager
def _doubled(trainer: Trainer) -> Iterator[None]:
    """Hold parameters, buffers, gradients and the state of optimizers in float64."""
    slots = slots_of(trainer)
    tensors = [slot.get() for slot in slots]
    data = [each.data for each in tensors]
    gradients = [each.grad if each.is_leaf else None for each in tensors]
    try:
        for slot, tensor in zip(slots, tensors, strict=True):
            if isinstance(slot, Fixed):
                if tensor.grad is not None:
                    wide = tensor.grad.double()
                    tensor.grad = None
                    tensor.data = tensor.data.double()
                    tensor.grad = wide
                elif _is_float(tensor):
                    tensor.data = tensor.data.double()
            elif _is_float(tensor):
                slot.put(tensor.double())
        with _plain_steps(trainer):
            yield
    finally:
        for slot, tensor, kept, gradient in zip(slots, tensors, data, gradients, strict=True):
            if isinstance(slot, Fixed):
                tensor.grad = None
                tensor.data = kept
                tensor.grad = gradient
            else:
                slot.put(tensor)


@contextmanager
def _plain_steps(trainer: Trainer) -> Iterator[None]:
    """Step in the form of the optimizer that takes any dtype."""
    groups = [g for each in optimizers_in(trainer.optimizer) for g in each.param_groups]
    before = [group.get("fused") for group in groups]
    for group in groups:
        if group.get("fused"):
            group["fused"] = False
    try:
        with without_flags(list(optimizers_in(trainer.optimizer))):
            yield
    finally:
        for group, fused in zip(groups, before, strict=True):
            if fused:
                group["fused"] = fused


def _is_float(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point()


def _with_other_rows(batch: Any) -> Any:
    """Return a batch of the same shapes in which the first half of the samples stands twice."""
    tensors: list[torch.Tensor] = []
    form = flatten(batch, tensors)
    lengths = {len(each) for each in tensors if each.ndim}
    if len(lengths) != 1:
        return batch
    (length,) = lengths
    changed = []
    for each in tensors:
        if each.ndim == 0:
            changed.append(each)
            continue
        other = torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device=each.device)
        rows = torch.arange(length, device=each.device) // 2
        changed.append(other.copy_(each.index_select(0, rows)))
    return unflatten(form, changed)
