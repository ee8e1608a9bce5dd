"""Cosine annealing of the learning rate, with warm-up and cool-down."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer

from loopwright.placeholders import Operand, TrainerPlaceholderValues
from loopwright.schedulers.base import (
    StatefulSchedulerBase,
    require_not_negative,
    require_positive,
)


class CosineLrScheduler(StatefulSchedulerBase):
    """Lowers the learning rate along half a cosine, once, without restarts.

    With T updates in all, W of warm-up and C of cool-down, a group of rate `lr` gets after n:

    - n < W: `start + (lr - start) * n / W`;
    - W <= n < T - C: `low + (lr - low) * (1 + cos(pi * p**k_decay)) / 2`, where
      `p = (n - W) / (T - C - W)`;
    - from T - C on: `low`, also when stepped beyond T.

    The cosine is that of SGDR (Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983), the
    exponent that of k-decay (Zhang and Li 2020, https://arxiv.org/abs/2004.05909).

    Args:
        optimizer: The optimizer whose learning rates are scheduled.
        total_num_epochs: Epochs in all, warm-up and cool-down included.
        num_update_steps_per_epoch: Optimizer updates in an epoch.
        k_decay: Above 1 the rate stays high for longer, below 1 it falls sooner.
        lr_min: The lowest rate, for all groups.
        min_lr_ratio: The lowest rate as a share of each group's own; goes before `lr_min`.
        num_warmup_epochs: Epochs in which the rate rises in a straight line.
        warmup_starting_lr: The rate that warm-up starts at, for all groups.
        warmup_starting_lr_ratio: The same as a share of each group's own rate; goes before
            `warmup_starting_lr`.
        num_cooldown_epochs: Epochs at the end that keep the lowest rate.

    Raises:
        ValueError: A number is out of its range, or warm-up and cool-down exceed the epochs.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_num_epochs: float,
        num_update_steps_per_epoch: float,
        k_decay: float = 1.0,
        lr_min: float = 1e-6,
        min_lr_ratio: float | None = None,
        num_warmup_epochs: float = 0,
        warmup_starting_lr: float = 1e-6,
        warmup_starting_lr_ratio: float | None = None,
        num_cooldown_epochs: float = 0,
    ) -> None:
        require_positive(
            total_num_epochs=total_num_epochs,
            num_update_steps_per_epoch=num_update_steps_per_epoch,
            k_decay=k_decay,
        )
        require_not_negative(
            lr_min=lr_min,
            min_lr_ratio=min_lr_ratio,
            num_warmup_epochs=num_warmup_epochs,
            warmup_starting_lr=warmup_starting_lr,
            warmup_starting_lr_ratio=warmup_starting_lr_ratio,
            num_cooldown_epochs=num_cooldown_epochs,
        )
        if num_warmup_epochs + num_cooldown_epochs > total_num_epochs:
            raise ValueError(
                f"num_warmup_epochs={num_warmup_epochs} and num_cooldown_epochs="
                f"{num_cooldown_epochs} do not fit into total_num_epochs={total_num_epochs}, which "
                "includes both. Give fewer of them, or train for longer."
            )
        super().__init__(optimizer)
        self.total_iterations = total_num_epochs * num_update_steps_per_epoch
        self.lr_min_ratio = min_lr_ratio
        self.lr_min = lr_min
        self.warmup_iterations = num_warmup_epochs * num_update_steps_per_epoch
        self.warmup_lr_init = warmup_starting_lr
        self.warmup_lr_ratio = warmup_starting_lr_ratio
        self.k_decay = k_decay
        self.num_cooldown_iterations = num_cooldown_epochs * num_update_steps_per_epoch
        self.step_update(0)

    def get_updated_values(self, num_updates: int) -> list[float]:
        """Return the learning rate of each group after `num_updates` optimizer updates."""
        return [self._rate(base, num_updates) for base in self.base_lr_values]

    def _rate(self, base: float, num_updates: int) -> float:
        if num_updates < self.warmup_iterations:
            start = _share(self.warmup_lr_ratio, base, self.warmup_lr_init)
            return start + (base - start) * num_updates / self.warmup_iterations
        low = _share(self.lr_min_ratio, base, self.lr_min)
        end = self.total_iterations - self.num_cooldown_iterations
        if num_updates >= end:
            return low
        progress = (num_updates - self.warmup_iterations) / (end - self.warmup_iterations)
        weight = (1 + math.cos(math.pi * progress**self.k_decay)) / 2
        # Written as a mean of both ends, so that each of them is met to the bit.
        return base * weight + low * (1 - weight)

    @classmethod
    def create_scheduler_fn(
        cls,
        total_num_epochs: Operand = TrainerPlaceholderValues.NUM_EPOCHS,
        num_update_steps_per_epoch: Operand = TrainerPlaceholderValues.NUM_UPDATE_STEPS_PER_EPOCH,
        k_decay: float = 1.0,
        lr_min: float = 1e-6,
        min_lr_ratio: float | None = None,
        num_warmup_epochs: float = 0,
        warmup_starting_lr: float = 1e-6,
        warmup_starting_lr_ratio: float | None = None,
        num_cooldown_epochs: float = 0,
    ) -> Callable[[Optimizer], "CosineLrScheduler"]:
        """Return a function that makes this scheduler for an optimizer, for `Trainer.train`.

        The trainer puts in the epochs of its run and the updates of an epoch. The arguments are
        those of the class.
        """
        settings: dict[str, Any] = {
            "total_num_epochs": total_num_epochs,
            "num_update_steps_per_epoch": num_update_steps_per_epoch,
            "k_decay": k_decay,
            "lr_min": lr_min,
            "min_lr_ratio": min_lr_ratio,
            "num_warmup_epochs": num_warmup_epochs,
            "warmup_starting_lr": warmup_starting_lr,
            "warmup_starting_lr_ratio": warmup_starting_lr_ratio,
            "num_cooldown_epochs": num_cooldown_epochs,
        }
        return partial(cls, **settings)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, and the learning rates that belong to it.

        Raises:
            ValueError: The state is that of another scheduler or of other parameter groups.
        """
        super().load_state_dict(state_dict)
        self.step_update(max(self._num_updates, 0))


def _share(ratio: float | None, base: float, fixed: float) -> float:
    return fixed if ratio is None else ratio * base
