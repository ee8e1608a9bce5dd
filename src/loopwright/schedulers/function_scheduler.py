"""Applying a schedule that is a function to an optimizer, and several schedulers as one."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer

from loopwright.history import RunHistory
from loopwright.placeholders import RUN_HISTORY
from loopwright.schedulers.base import SchedulerBase
from loopwright.schedulers.functions import ScheduleFunction

Function = Callable[[int, int, Sequence[float]], float]
"""Takes the updates and the epochs done so far, and the accuracies measured so far."""


class FunctionScheduler(SchedulerBase):
    """Gives all parameter groups the value of a function of (iteration, epoch, accuracy).

    The value before the first update is that for iteration 0, after n updates that for n. The
    first update of an epoch sees its number, and the accuracy of the epoch before it.

    Args:
        optimizer: The optimizer.
        function: A `ScheduleFunction`, or any function of these three.
        field: "lr", "momentum" (the first of `betas` in optimizers of the Adam kind), or another
            field of the parameter groups.
        history: Where epoch and accuracy are read; the trainer's own history.
        watch: The metric of that history which is the accuracy.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        function: Function,
        *,
        field: str = "lr",
        history: RunHistory | None = None,
        watch: str = "accuracy",
    ) -> None:
        self.function = function
        self.history = history
        self.watch = watch
        self.num_updates = 0
        super().__init__(optimizer, momentum_field(optimizer) if field == "momentum" else field)
        self.step_update(0)

    def get_updated_values(self, num_updates: int) -> list[Any]:
        """Return the value of each group after `num_updates` optimizer updates."""
        value = self.value_after(num_updates)
        if self.param_group_field == "betas":
            return [(value, *group["betas"][1:]) for group in self.optimizer.param_groups]
        return [value] * len(self.optimizer.param_groups)

    def value_after(self, num_updates: int) -> float:
        """Return the value of the function after `num_updates` updates, in the present epoch."""
        return self.function(num_updates, self._epoch(), self._accuracy())

    def step(self) -> None:
        """Set the values after one more update; a `ScheduleFunction` keeps it in its history."""
        self.num_updates += 1
        self.step_update(self.num_updates)
        if isinstance(self.function, ScheduleFunction) and self.function.lr_history_size:
            self.function.record(self.value_after(self.num_updates))

    def begin_epoch(self) -> None:
        """Set the values again, now that the epoch has a new number."""
        if self._reads("epoch") or self._reads("accuracy"):
            self.step_update(self.num_updates)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates; the rest is what the scheduler was made with."""
        return {"num_updates": self.num_updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the optimizer's own state holds the values."""
        self.num_updates = state_dict["num_updates"]

    def _reads(self, name: str) -> bool:
        return not isinstance(self.function, ScheduleFunction) or name in self.function.reads

    def _epoch(self) -> int:
        return 0 if self.history is None else self.history.current_epoch - 1

    def _accuracy(self) -> list[float]:
        if self.history is None or not self._reads("accuracy"):
            return []
        measured = list(self.history.get_metric_values(self.watch))
        if not measured and self._epoch() and isinstance(self.function, ScheduleFunction):
            known = ", ".join(sorted(self.history.get_metric_names())) or "none"
            raise ValueError(
                f"{type(self.function).__name__} follows the metric {self.watch!r}, and none was "
                f"recorded (recorded: {known}). Evaluate after each epoch with that metric, or "
                "give watch."
            )
        return measured


class SchedulerList:
    """Steps several schedulers of one optimizer together, such as rate and momentum."""

    def __init__(self, schedulers: Sequence[Any]) -> None:
        self.schedulers = list(schedulers)

    def step(self) -> None:
        """Step each one, in order."""
        for scheduler in self.schedulers:
            scheduler.step()

    def begin_epoch(self) -> None:
        """Tell those that heed it that an epoch begins."""
        for scheduler in self.schedulers:
            if hasattr(scheduler, "begin_epoch"):
                scheduler.begin_epoch()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each one, in order."""
        return {"schedulers": [scheduler.state_dict() for scheduler in self.schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for scheduler, state in zip(self.schedulers, state_dict["schedulers"], strict=True):
            scheduler.load_state_dict(state)


def function_schedule(
    function: Function, *, field: str = "lr", watch: str = "accuracy"
) -> Callable[[Optimizer], FunctionScheduler]:
    """Return what `Trainer.train` takes as `create_scheduler_fn`, for a schedule function.

    Args:
        function: A `ScheduleFunction`, or any function of (iteration, epoch, accuracy).
        field: What is scheduled; see `FunctionScheduler`.
        watch: The metric of the run history that is the accuracy.
    """
    return partial(
        FunctionScheduler, function=function, field=field, history=RUN_HISTORY, watch=watch
    )


def all_of(*create: Callable[[Optimizer], Any]) -> Callable[[Optimizer], SchedulerList]:
    """Return what `Trainer.train` takes as `create_scheduler_fn`, for several schedulers at once.

    ```python
    create_scheduler_fn = all_of(
        function_schedule(Triangular()), function_schedule(TriangularMomentum(), field="momentum")
    )
    ```
    """
    return partial(_make_all, list(create))


def _make_all(create: list[Callable[[Optimizer], Any]], optimizer: Optimizer) -> SchedulerList:
    return SchedulerList([each(optimizer) for each in create])


def momentum_field(optimizer: Optimizer) -> str:
    """Return the field that holds the momentum of an optimizer: "momentum" or "betas".

    Raises:
        ValueError: It has none.
    """
    for field in ("momentum", "betas"):
        if all(field in group for group in optimizer.param_groups):
            return field
    raise ValueError(
        f"{type(optimizer).__name__} has no momentum to schedule: no `momentum` and no `betas` in "
        "its parameter groups. Use SGD, RMSprop or one of the Adam kind."
    )
