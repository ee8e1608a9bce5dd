"""Learning rate schedules by name, as long as the run. A schedule steps once per update."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from loopwright.history import RunHistory
from loopwright.placeholders import RUN_HISTORY, TrainerPlaceholderValues
from loopwright.registry import Registry
from loopwright.schedulers import (
    CosineLrScheduler,
    FunctionScheduler,
    ScheduleFunction,
    WSDLrScheduler,
    functions,
)

_EPOCHS = TrainerPlaceholderValues.NUM_EPOCHS
_STEPS_PER_EPOCH = TrainerPlaceholderValues.NUM_UPDATE_STEPS_PER_EPOCH
_PRODUCT = re.compile(r"(?:(\d+(?:\.\d+)?)\s*\*\s*)?([A-Z_]+)")


@dataclass(frozen=True)
class Schedule:
    """Is a scheduler class with the lengths that the run fills in."""

    scheduler: Callable[..., Any]
    lengths: Mapping[str, Any] = field(default_factory=dict)
    """Arguments in placeholders of the trainer, used unless one of them or `instead` is given."""
    instead: str | None = None

    def fill(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments with lengths and placeholders in place."""
        given = {name: read_placeholder(value) for name, value in arguments.items()}
        if self.instead is not None and self.instead in given:
            return given
        return dict(self.lengths) | given

    def create(
        self, arguments: Mapping[str, Any], *, field: str = "lr"
    ) -> Callable[[Optimizer], Any]:
        """Return what the trainer takes as `create_scheduler_fn`.

        Raises:
            ValueError: the schedule is for the learning rate alone.
        """
        if field != "lr":
            known = [n for n in schedules if isinstance(schedules.get(n), FunctionSchedule)]
            raise ValueError(
                f"{self.scheduler.__name__} schedules the learning rate, not {field}. Choose one "
                f"of {', '.join(known)}."
            )
        return partial(self.scheduler, **self.fill(arguments))


class FunctionSchedule(Schedule):
    """Is a class of schedule functions, which serve for momentum as for the learning rate."""

    def create(
        self, arguments: Mapping[str, Any], *, field: str = "lr"
    ) -> Callable[[Optimizer], Any]:
        if field == "lr" and self.scheduler is functions.TriangularMomentum:
            raise ValueError("triangular_momentum is for momentum: name it in momentum_schedule.")
        make = partial(self.scheduler, **self.fill(arguments))
        return partial(_apply_function, make, field, RUN_HISTORY)


def _apply_function(
    make: Callable[[], ScheduleFunction], field: str, history: RunHistory, optimizer: Optimizer
) -> FunctionScheduler:
    return FunctionScheduler(optimizer, make(), field=field, history=history)


schedules: Registry[Schedule] = Registry("schedule")

_RUN = {"num_update_steps_per_epoch": _STEPS_PER_EPOCH}
schedules.add("cosine", Schedule(CosineLrScheduler, {"total_num_epochs": _EPOCHS, **_RUN}))
schedules.add(
    "warmup_stable_decay", Schedule(WSDLrScheduler, {"num_epochs": _EPOCHS, **_RUN}, "total_steps")
)
schedules.add(
    "one_cycle",
    Schedule(
        lr_scheduler.OneCycleLR,
        {"epochs": _EPOCHS, "steps_per_epoch": _STEPS_PER_EPOCH},
        "total_steps",
    ),
)
schedules.add(
    "cosine_annealing",
    Schedule(lr_scheduler.CosineAnnealingLR, {"T_max": _EPOCHS * _STEPS_PER_EPOCH}),
)
for _name, _scheduler in {
    "constant": lr_scheduler.ConstantLR,
    "cosine_annealing_warm_restarts": lr_scheduler.CosineAnnealingWarmRestarts,
    "cyclic": lr_scheduler.CyclicLR,
    "exponential": lr_scheduler.ExponentialLR,
    "linear": lr_scheduler.LinearLR,
    "multi_step": lr_scheduler.MultiStepLR,
    "polynomial": lr_scheduler.PolynomialLR,
    "step": lr_scheduler.StepLR,
}.items():
    schedules.add(_name, Schedule(_scheduler))
for _name, _function in {
    "decay_to_epoch": functions.DecayToEpoch,
    "decay_when_accuracy": functions.DecayWhenAcc,
    "decay_when_epoch": functions.DecayWhenEpoch,
    "epoch_set": functions.EpochSet,
    "exponential_decay": functions.ExponentialDecay,
    "inverse_triangular": functions.InvTriangular,
    "linear_decay": functions.LinearDecay,
    "log_decay": functions.LogDecay,
    "step_decay": functions.Step,
    "triangular": functions.Triangular,
    "triangular2": functions.Triangular2,
    "triangular2_exponential": functions.Triangular2Exp,
    "triangular_decay_when_accuracy": functions.TriangularDecayWhenAcc,
    "triangular_exponential": functions.TriangularExp,
    "triangular_momentum": functions.TriangularMomentum,
    "warm_restart": functions.WarmRestart,
}.items():
    schedules.add(_name, FunctionSchedule(_function))


def find_schedule(name: str) -> Schedule:
    """Return a registered schedule, or the scheduler class at a path.

    Raises:
        UnknownNameError: there is none.
    """
    found: Any = schedules.get(name)
    if isinstance(found, Schedule):
        return found
    is_function = isinstance(found, type) and issubclass(found, ScheduleFunction)
    return FunctionSchedule(found) if is_function else Schedule(found)


def build_schedule(
    name: str, arguments: Mapping[str, Any], *, field: str = "lr"
) -> Callable[[Optimizer], Any]:
    """Return what the trainer takes as `create_scheduler_fn`.

    Args:
        name: a registered name, or a path.
        arguments: of the schedule.
        field: "lr" or "momentum".

    Raises:
        ValueError: the schedule is not for that field.
    """
    return find_schedule(name).create(arguments, field=field)


def read_placeholder(value: Any) -> Any:
    """Return the placeholder that a text such as `NUM_EPOCHS` or `2 * NUM_EPOCHS` names.

    Anything else is returned as it is.
    """
    match = _PRODUCT.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in TrainerPlaceholderValues.__members__:
        return value
    placeholder = TrainerPlaceholderValues[match[2]]
    if match[1] is None:
        return placeholder
    return (float(match[1]) if "." in match[1] else int(match[1])) * placeholder
