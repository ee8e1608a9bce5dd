"""Learning rate schedules by name, as long as the run. A schedule steps once per update."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from loopwright.placeholders import TrainerPlaceholderValues
from loopwright.registry import Registry
from loopwright.schedulers import CosineLrScheduler, WSDLrScheduler

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


def find_schedule(name: str) -> Schedule:
    """Return a registered schedule, or the scheduler class at a path.

    Raises:
        UnknownNameError: there is none.
    """
    found: Any = schedules.get(name)
    return found if isinstance(found, Schedule) else Schedule(found)


def build_schedule(name: str, arguments: Mapping[str, Any]) -> Callable[[Optimizer], Any]:
    """Return what the trainer takes as `create_scheduler_fn`."""
    schedule = find_schedule(name)
    return partial(schedule.scheduler, **schedule.fill(arguments))


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
