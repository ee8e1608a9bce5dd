"""Warm-up, a stable rate, and a decay before each checkpoint."""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TypedDict

from torch.optim import Optimizer

from loopwright.placeholders import Operand, TrainerPlaceholderValues
from loopwright.schedulers.base import (
    StatefulSchedulerBase,
    require_not_negative,
    require_positive,
)


class PhaseInfo(TypedDict):
    """Tells where a period of a WSD schedule lies, in optimizer updates."""

    period_start: int
    """Updates completed when the period begins."""

    period_end: int
    """Updates completed when it ends: the step of its checkpoint."""

    decay_steps: int
    """Updates of its decay."""

    pre_decay_step: int
    """Updates completed when its decay begins."""


class WSDLrScheduler(StatefulSchedulerBase):
    """Warms the learning rate up, keeps it, and lowers it before each checkpoint.

    The run is divided into periods that end at checkpoints; each checkpoint lies at twice the
    step of the one before, and the last at the end of the run (3 of 200 steps: 50, 100, 200).
    In the last `decay_phase_ratio` of a period the rate falls from that of the group to `lr_min`
    times it; the next period starts at the full rate. With t from 0 to 1 along the decay the
    factor is

    - `lr_min + (1 - lr_min) * (1 - sqrt(t))`, or
    - `1 / (t / lr_min + 1 - t)` with `use_inverse_sqrt_decay=False`.

    A run that goes on from a checkpoint (`is_continuation_from_checkpoint`) takes the settings of
    the saved state but its own length: it counts from 0, without warm-up, at the full rate. From
    a state saved before the decay this is WSD, from one saved after it WSD-S. The state of a
    continuation that is itself unfinished is restored as it was.
    `loopwright.callbacks.WSDCheckpointCallback` saves both kinds of state.

    The schedule is that of MiniCPM (Hu et al. 2024, https://arxiv.org/abs/2404.06395), WSD-S and
    the inverse decay come from the river valley paper (Wen et al. 2024,
    https://arxiv.org/abs/2410.05192), the square root from Hägele et al. (2024,
    https://arxiv.org/abs/2405.18392).

    Args:
        optimizer: The optimizer whose learning rates are scheduled.
        num_epochs: Epochs in all; with `num_update_steps_per_epoch` instead of `total_steps`.
        num_update_steps_per_epoch: Optimizer updates in an epoch.
        total_steps: Optimizer updates in all.
        num_warmup_steps: Updates in which the rate rises in a straight line; None takes 1 % of
            the total.
        decay_phase_ratio: Share of each period that is decay.
        lr_min: The lowest rate as a share of each group's own.
        warmup_starting_lr: The rate that warm-up starts at, for all groups.
        use_inverse_sqrt_decay: Whether the decay follows the square root.
        num_checkpoints: How many periods the run has.
        is_continuation_from_checkpoint: Whether this run goes on from a saved state, which
            `load_state_dict` has to be given before the first step.

    Raises:
        ValueError: A number is out of its range, or the length is given twice or not at all.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        num_epochs: float | None = None,
        num_update_steps_per_epoch: float | None = None,
        total_steps: float | None = None,
        num_warmup_steps: float | None = 0,
        decay_phase_ratio: float = 0.1,
        lr_min: float = 1e-6,
        warmup_starting_lr: float = 1e-6,
        use_inverse_sqrt_decay: bool = True,
        num_checkpoints: int = 1,
        is_continuation_from_checkpoint: bool = False,
    ) -> None:
        super().__init__(optimizer)
        self.total_steps = _total_steps(num_epochs, num_update_steps_per_epoch, total_steps)
        require_positive(total_steps=self.total_steps, num_checkpoints=num_checkpoints)
        if num_warmup_steps is None:
            num_warmup_steps = 0.01 * self.total_steps
        self.num_warmup_steps = int(num_warmup_steps)
        self.decay_phase_ratio = decay_phase_ratio
        self.lr_min = lr_min
        self.warmup_starting_lr = warmup_starting_lr
        self.use_inverse_sqrt_decay = use_inverse_sqrt_decay
        self.num_checkpoints = num_checkpoints
        self.is_continuation_from_checkpoint = is_continuation_from_checkpoint
        self._check()
        self.step_update(0)

    def get_updated_values(self, num_updates: int) -> list[float]:
        """Return the learning rate of each group after `num_updates` optimizer updates."""
        if num_updates < self.num_warmup_steps and not self.is_continuation_from_checkpoint:
            start, share = self.warmup_starting_lr, num_updates / self.num_warmup_steps
            return [start + share * (base - start) for base in self.base_lr_values]
        factor = self._decay_factor(num_updates)
        return [base * factor for base in self.base_lr_values]

    def get_checkpoint_steps(self) -> list[int]:
        """Return the steps at which periods end, in order; the last is `total_steps`."""
        return [info["period_end"] for info in self._periods]

    def get_decay_info(self) -> list[PhaseInfo]:
        """Return all periods, in order."""
        return [info.copy() for info in self._periods]

    def get_phase_info(self, num_updates: int) -> PhaseInfo:
        """Return the period that update number `num_updates`, from 1, belongs to.

        The update that completes a checkpoint belongs to the period that it ends; what lies
        beyond the end belongs to the last period.
        """
        return self._period_until(num_updates).copy()

    def get_current_step(self) -> int:
        """Return how many optimizer updates of this run are completed: the calls of `step`."""
        return self._num_updates + 1

    def get_current_phase_info(self) -> PhaseInfo:
        """Return the period of the last completed update."""
        return self.get_phase_info(self.get_current_step())

    @property
    def previous_checkpoint_step(self) -> int | None:
        """The step of the last checkpoint that this run has reached; None before the first."""
        reached = [end for end in self.get_checkpoint_steps() if end <= self.get_current_step()]
        return reached[-1] if reached else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, or go on from it if this is a continuation.

        The state of an unfinished continuation of the same length is restored by a continuation
        too: a run that was interrupted goes on where it was. Call `start_continuation` after
        loading to begin anew nevertheless.

        Raises:
            ValueError: The state is that of another scheduler or of other parameter groups.
        """
        if self.is_continuation_from_checkpoint and not self._is_this_run(state_dict):
            state_dict = self._as_continuation(state_dict)
        super().load_state_dict(state_dict)
        self.step_update(max(self._num_updates, 0))

    def start_continuation(self) -> None:
        """Count from 0 again, as a continuation of `total_steps` updates at the full rate."""
        self.is_continuation_from_checkpoint = True
        self._num_updates = -1
        self.step_update(0)

    @classmethod
    def create_scheduler_fn(
        cls,
        total_num_epochs: Operand = TrainerPlaceholderValues.NUM_EPOCHS,
        num_update_steps_per_epoch: Operand = (
            TrainerPlaceholderValues.PER_PROCESS_NUM_UPDATE_STEPS_PER_EPOCH
        ),
        num_warmup_epochs: float | None = None,
        decay_phase_ratio: float = 0.1,
        lr_min: float = 1e-6,
        warmup_starting_lr: float = 1e-6,
        use_inverse_sqrt_decay: bool = True,
        num_checkpoints: int = 1,
        is_continuation_from_checkpoint: bool = False,
    ) -> Callable[[Optimizer], "WSDLrScheduler"]:
        """Return a function that makes this scheduler for an optimizer, for `Trainer.train`.

        The trainer puts in the epochs of its run and the updates of an epoch. Without
        `num_warmup_epochs`, 1 % of the run is warm-up. The other arguments are those of the class.
        """
        settings: dict[str, Any] = {
            "num_epochs": total_num_epochs,
            "num_update_steps_per_epoch": num_update_steps_per_epoch,
            "num_warmup_steps": (
                None
                if num_warmup_epochs is None
                else num_update_steps_per_epoch * num_warmup_epochs
            ),
            "decay_phase_ratio": decay_phase_ratio,
            "lr_min": lr_min,
            "warmup_starting_lr": warmup_starting_lr,
            "use_inverse_sqrt_decay": use_inverse_sqrt_decay,
            "num_checkpoints": num_checkpoints,
            "is_continuation_from_checkpoint": is_continuation_from_checkpoint,
        }
        return partial(cls, **settings)

    @property
    def _periods(self) -> tuple[PhaseInfo, ...]:
        return _divide(self.total_steps, self.num_checkpoints, self.decay_phase_ratio)

    def _period_until(self, step: int) -> PhaseInfo:
        periods = self._periods
        return next((info for info in periods if step <= info["period_end"]), periods[-1])

    def _get_checkpoint_info(self, num_updates: int) -> tuple[int, int]:
        """Return the length of the period that the next update is in, and its updates so far."""
        info = self._period_until(num_updates + 1)
        return info["period_end"] - info["period_start"], num_updates - info["period_start"]

    def _decay_factor(self, num_updates: int) -> float:
        length, done = self._get_checkpoint_info(num_updates)
        decay_steps = int(length * self.decay_phase_ratio)
        decayed = done - (length - decay_steps)
        if decayed < 0 or decay_steps == 0:
            return 1.0
        share = min(decayed / decay_steps, 1.0)
        # Both are written so that 1 and lr_min are met to the bit at the two ends.
        if self.use_inverse_sqrt_decay:
            weight = 1 - math.sqrt(share)
            return weight + self.lr_min * (1 - weight)
        return self.lr_min / (share + self.lr_min * (1 - share))

    def _is_this_run(self, state: dict[str, Any]) -> bool:
        return (
            bool(state.get("is_continuation_from_checkpoint"))
            and state.get("total_steps") == self.total_steps
            and state.get("num_updates", self.total_steps) + 1 < self.total_steps
        )

    def _as_continuation(self, state: dict[str, Any]) -> dict[str, Any]:
        return {
            "base_lr_values": self.base_lr_values,
            "param_group_field": self.param_group_field,
            **{name: value for name, value in state.items() if name not in _DERIVED},
            "total_steps": self.total_steps,
            "is_continuation_from_checkpoint": True,
            "num_updates": -1,
        }

    def _check(self) -> None:
        if not 0 <= self.decay_phase_ratio <= 1:
            raise ValueError(f"decay_phase_ratio={self.decay_phase_ratio} has to be from 0 to 1.")
        require_not_negative(
            lr_min=self.lr_min,
            warmup_starting_lr=self.warmup_starting_lr,
            num_warmup_steps=self.num_warmup_steps,
        )
        if self.lr_min == 0 and not self.use_inverse_sqrt_decay:
            raise ValueError(
                "lr_min=0 cannot be reached by the inverse decay. Give an lr_min above 0, or "
                "use_inverse_sqrt_decay=True."
            )
        if self.num_warmup_steps > self.total_steps:
            raise ValueError(
                f"num_warmup_steps={self.num_warmup_steps} exceeds the {self.total_steps} steps of "
                "the run, which include it. Give fewer, or train for longer."
            )
        highest = max(self.base_lr_values)
        if self.num_warmup_steps and self.warmup_starting_lr > highest:
            raise ValueError(
                f"warmup_starting_lr={self.warmup_starting_lr} is above the highest learning rate "
                f"of the optimizer, {highest}, so that warm-up would lower it. Give a smaller one."
            )


# Kept in states of pytorch-accelerated, from whose checkpoints a run can go on.
_DERIVED = ("checkpoint_steps", "checkpoint_decay_info", "previous_checkpoint_step")


def checkpoint_steps(total_steps: int, num_checkpoints: int) -> list[int]:
    """Return the steps of the checkpoints: the last at the end, each at half of the next one's.

    Raises:
        ValueError: There are too few steps for so many halvings.
    """
    if total_steps < 2 ** (num_checkpoints - 1):
        raise ValueError(
            f"num_checkpoints={num_checkpoints} needs at least {2 ** (num_checkpoints - 1)} steps, "
            f"since each checkpoint lies at half the step of the next; the run has {total_steps}."
        )
    return [total_steps >> halvings for halvings in reversed(range(num_checkpoints))]


@lru_cache(maxsize=16)
def _divide(
    total_steps: int, num_checkpoints: int, decay_phase_ratio: float
) -> tuple[PhaseInfo, ...]:
    ends = checkpoint_steps(total_steps, num_checkpoints)
    periods = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        decay_steps = int((end - start) * decay_phase_ratio)
        periods.append(
            PhaseInfo(
                period_start=start,
                period_end=end,
                decay_steps=decay_steps,
                pre_decay_step=end - decay_steps,
            )
        )
    return tuple(periods)


def _total_steps(
    num_epochs: float | None, num_update_steps_per_epoch: float | None, total_steps: float | None
) -> int:
    by_epochs = (num_epochs, num_update_steps_per_epoch)
    if total_steps is not None and by_epochs == (None, None):
        return int(total_steps)
    if total_steps is None and num_epochs is not None and num_update_steps_per_epoch is not None:
        return int(num_epochs * num_update_steps_per_epoch)
    raise ValueError(
        f"The length of the schedule was given as num_epochs={num_epochs}, "
        f"num_update_steps_per_epoch={num_update_steps_per_epoch}, total_steps={total_steps}. "
        "Give either total_steps or both of the others."
    )
