"""Whether to capture: what it costs against what it gains in the steps that are left."""

from __future__ import annotations

import inspect
import platform
import time
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch

from loopwright.execution.building import Built, positions, rehearse, trace
from loopwright.execution.obstacles import NotCapturableError, check_capturable, modules_of
from loopwright.execution.report import StepReport
from loopwright.execution.slots import options_of, slots_of
from loopwright.execution.snapshot import Snapshot, recording, run_recorded
from loopwright.execution.stored import key_of, read_decision, write_decision
from loopwright.execution.torch_internals import num_dispatched
from loopwright.execution.tracing import Rates
from loopwright.execution.trees import signature_of
from loopwright.train_arguments import optimizers_in

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

LEAST_GAIN = 1.1
"""How many times faster a captured step has to be."""
FEWEST_STEPS = 500
"""Below which nothing is tried: not even the first seconds of compiling come back."""
SECONDS_TO_COMPILE = 5.0, 0.035, 1.0
"""What compiling is taken to cost before it is known: in any case, for each operation of a program,
and besides for each convolution; on a machine where a tiny operation takes `_SECONDS_PER_CALL`."""
SECONDS_TO_LOAD = 4.0
"""What a program costs that an earlier run compiled: traced, found and checked again."""
FUSED_SHARE = 0.15
"""The part of a step that fewer passes over memory are taken to save."""
FUSED_SHARE_AROUND_CONVOLUTIONS = 0.05
"""The same where libraries do most of the work."""
MARGIN = 2.0
"""How many times its cost a program that is not there yet is to save: both are guesses."""
_MOST_SAVED = 0.9  # of a step
_SECONDS_TO_MEASURE = 0.4
_SECONDS_PER_CALL = 2.8e-6
_CALLS_PER_OPERATION = 2.0  # of a tiny operation: Python, autograd and dispatch around each


class NoGainError(NotCapturableError):
    """Tells that a program was made, and is not faster."""


def choose(trainer: Trainer, batch: Any, base: type) -> tuple[StepReport, Built | None]:
    """Return how to execute the steps of a run, with the programs where they are captured.

    Args:
        trainer: The trainer, before its first step; it is left as it was.
        batch: The first micro-batch.
        base: `Trainer`, whose own methods are known.
    """
    try:
        check_capturable(trainer, base, batch)
        return _weigh(trainer, batch, _steps_left(trainer))
    except NotCapturableError as error:
        return StepReport(asked="auto", choice="eager", reason=str(error)), None
    except Exception as error:  # which the step that follows raises again, if it is its own
        first = f"{type(error).__name__}: {error}".partition("\n")[0]
        reason = f"an exception while it was tried: {first}"
        return StepReport(asked="auto", choice="eager", reason=reason), None


def _steps_left(trainer: Trainer) -> int:
    total = trainer.progress.total_steps
    if total is None:
        raise NotCapturableError("how many steps are left is not known")
    left = total - trainer.progress.step
    if left < FEWEST_STEPS:
        raise NotCapturableError(
            f"too few steps are left ({left}; from {FEWEST_STEPS} on it is tried)"
        )
    return left


def _weigh(trainer: Trainer, batch: Any, left: int) -> tuple[StepReport, Built | None]:
    key = key_of(_facts(trainer, batch))
    known = read_decision(key)
    if known is not None and "refused" in known:
        raise NotCapturableError(f"{known['refused']} (found in an earlier run)")
    if known is not None:
        eager, program = known["eager_seconds"], known["program_seconds"]
        _require_worth(left * (eager - program), SECONDS_TO_LOAD, left)
        built = rehearse(trainer, batch, Rates(trainer))
    else:
        try:
            built, eager, program = _try(trainer, batch, left)
        except NoGainError as error:  # whatever else it is, it may be mended, and is found early
            write_decision(key, {"refused": str(error)})
            raise
        write_decision(key, {"eager_seconds": eager, "program_seconds": program})
    report = StepReport(
        asked="auto",
        choice="capture",
        reason=f"a step takes {1e6 * program:,.0f} µs instead of {1e6 * eager:,.0f}",
        gain=eager / program,
        seconds=eager,
        reference=built.reference,
        batch=repr(signature_of(batch)),
    )
    return report, built


def _try(trainer: Trainer, batch: Any, left: int) -> tuple[Built, float, float]:
    """Return checked programs with the seconds of a step without and with them.

    Raises:
        NotCapturableError: They cannot be made, or gain too little.
    """
    before = Snapshot(trainer)
    try:
        eager = _seconds_of(lambda: _run_update(trainer, batch), left)
        call = _seconds_per_call()
        cost = SECONDS_TO_COMPILE[0] * call / _SECONDS_PER_CALL
        _require_worth(left * _MOST_SAVED * eager / MARGIN, cost, left)  # before what takes longer
        saved, cost = _expect(trainer, batch, eager, call)
        _require_worth(left * saved / MARGIN, cost, left)
        before.restore()
        built = rehearse(trainer, batch, Rates(trainer))
        eager, program = _measure(trainer, batch, built)
    finally:
        before.restore()
    if eager / program < LEAST_GAIN:
        raise NoGainError(
            f"no gain: a step takes {1e6 * program:,.0f} µs captured and {1e6 * eager:,.0f} µs "
            "in eager mode"
        )
    return built, eager, program


def _require_worth(saved: float, cost: float, left: int) -> None:
    if saved <= cost:
        raise NotCapturableError(
            f"too few steps are left ({left:,}) to be worth {cost:.0f} s of compiling"
        )


def _run_update(trainer: Trainer, batch: Any, built: Built | None = None) -> None:
    for role in positions(trainer):
        if built is None:
            run_recorded(trainer, batch)
        else:
            with recording(trainer):
                built.programs[role].run(trainer, batch)


def _expect(trainer: Trainer, batch: Any, eager: float, call: float) -> tuple[float, float]:
    """Return the seconds that programs are taken to save in an update, and to cost once.

    Args:
        trainer: The trainer; it moves on by an update.
        batch: The first micro-batch.
        eager: Seconds of an update.
        call: Seconds of a tiny operation.
    """
    programs, dispatched = {}, 0
    for role in positions(trainer):
        if role not in programs:
            programs[role] = trace(trainer, batch, Rates(trainer))
        dispatched += num_dispatched(lambda: run_recorded(trainer, batch))
    operations = sum(each.num_operations for each in programs.values())
    convolutions = sum(each.num_convolutions for each in programs.values())
    share = FUSED_SHARE_AROUND_CONVOLUTIONS if convolutions else FUSED_SHARE
    saved = dispatched * _CALLS_PER_OPERATION * call + share * eager
    fixed, for_each, for_convolution = SECONDS_TO_COMPILE
    cost = fixed + for_each * operations + for_convolution * convolutions
    return min(_MOST_SAVED * eager, saved), cost * call / _SECONDS_PER_CALL


def _seconds_of(run: Callable[[], None], left: int) -> float:
    """Return the median time of a call after the first, which sets things up.

    Args:
        run: What is called.
        left: How often it will be called; measuring takes a small share of that.
    """
    times: list[float] = []
    run()
    while len(times) < 3 or (sum(times) < _SECONDS_TO_MEASURE / 2 and len(times) < left / 50):
        times.append(_timed(run))
    return _median(times)


def _measure(trainer: Trainer, batch: Any, built: Built) -> tuple[float, float]:
    """Return the median seconds of an update in eager mode and captured, taking turns."""
    eager: list[float] = []
    captured: list[float] = []
    end = time.perf_counter() + _SECONDS_TO_MEASURE
    while len(eager) < 5 or (time.perf_counter() < end and len(eager) < 200):
        eager.append(_timed(lambda: _run_update(trainer, batch)))
        captured.append(_timed(lambda: _run_update(trainer, batch, built)))
    return _median(eager), _median(captured)


def _timed(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _seconds_per_call() -> float:
    """Return what a tiny operation takes on this machine."""
    tensor, times = torch.zeros(1), []
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(100):
            tensor.add_(1.0)
        times.append((time.perf_counter() - began) / 100)
    return _median(times)


def _facts(trainer: Trainer, batch: Any) -> dict[str, Any]:
    """Return what a decision rests on: another model, machine or version decides anew."""
    config = trainer.run_config
    kinds = {type(part) for module in modules_of(trainer) for part in module.modules()}
    kinds |= {type(each) for each in trainer._step_users}
    optimizers = [type(each) for each in optimizers_in(trainer.optimizer)]
    ours = {kind for kind in (*kinds, *optimizers) if not _is_known(kind)}
    return {
        "torch": torch.__version__,
        "machine": (platform.machine(), platform.node(), str(trainer.device)),
        "threads": torch.get_num_threads(),
        "modules": [repr(module) for module in modules_of(trainer)],
        "code": sorted(_source(kind) for kind in ours),
        "loss": _described(trainer.loss_func),
        "tensors": [(list(each.shape), str(each.dtype)) for each in _tensors(trainer)],
        "options": repr(options_of(trainer.optimizer)),
        "optimizers": [kind.__qualname__ for kind in optimizers],
        "precision": trainer.precision,
        "accumulation": trainer._accumulation.size,
        "clipping": config and (config.gradient_clip_value, config.gradient_clip_norm),
        "batch": repr(signature_of(batch)),
    }


def _tensors(trainer: Trainer) -> list[torch.Tensor]:
    return [slot.get() for slot in slots_of(trainer)]


def _described(value: Any) -> Any:
    """Return what tells a function, or its argument, from others in every process alike."""
    if isinstance(value, partial):
        given = [_described(each) for each in value.args]
        return [
            _described(value.func),
            given,
            {k: _described(v) for k, v in value.keywords.items()},
        ]
    if isinstance(value, FunctionType) and not _is_known(value):
        return _source(value)
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    if repr(value) == object.__repr__(value):  # which names an address
        plain = {k: v for k, v in vars(value).items() if isinstance(v, (bool, int, float, str))}
        return [_source(type(value)), plain]
    return repr(value)


def _is_known(code: type | FunctionType) -> bool:
    return code.__module__.startswith(("torch.", "loopwright."))


def _source(code: type | FunctionType) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):  # made in a shell
        return code.__qualname__


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
