"""Schedules as plain functions of (iteration, epoch, accuracy), for learning rates and momentum.

They have no state but the history that they may keep for a plot, so a run can go on anywhere.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from loopwright.schedulers.base import require_not_negative, require_positive


@dataclass(kw_only=True)
class ScheduleFunction(ABC):
    """Gives a value for an iteration, an epoch and the accuracies measured so far.

    Subclasses write `value`. Not every one uses every argument; all take the same, so that one can
    be put in the place of another.
    """

    stepsize: int = 1000
    """Iterations in half a cycle."""
    start_iter: int = 0
    """The iteration that the schedule starts at; before it the value is that of the start."""
    lr_history_size: int = 0
    """How many of the latest values are kept for `plot_history`."""
    no_lr_history: bool = False
    """Keep none, whatever `lr_history_size` says."""

    reads: ClassVar[tuple[str, ...]] = ("iteration",)
    """What `get_lr` takes, in order: of "iteration", "epoch" and "accuracy"."""

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)
        require_not_negative(start_iter=self.start_iter, lr_history_size=self.lr_history_size)
        size = 0 if self.no_lr_history else self.lr_history_size
        self._history: deque[float] = deque(maxlen=size)
        self._accuracy: list[float] = []

    def __call__(self, iteration: int, epoch: int = 0, accuracy: Sequence[float] = ()) -> float:
        """Return the value.

        Args:
            iteration: Optimizer updates done so far, from 0.
            epoch: Epochs done so far, from 0.
            accuracy: The accuracies measured so far, the newest last.
        """
        return self.value(max(0, iteration - self.start_iter), epoch, accuracy)

    @abstractmethod
    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        """Return the value, the iteration counted from `start_iter`."""

    def get_lr(self, *values: float) -> float:
        """Return the value for what `reads` names, and keep it in the history.

        An accuracy is remembered: the next call sees it among those measured so far.
        """
        if len(values) != len(self.reads):
            raise TypeError(
                f"{type(self).__name__}.get_lr takes {', '.join(self.reads)}; got {len(values)} "
                "values."
            )
        given = dict(zip(self.reads, values, strict=True))
        if "accuracy" in given:
            self._accuracy.append(given["accuracy"])
        iteration, epoch = int(given.get("iteration", 0)), int(given.get("epoch", 0))
        return self.record(self(iteration, epoch, self._accuracy))

    def record(self, value: float) -> float:
        """Keep a value in the history, and return it."""
        self._history.append(value)
        return value

    @property
    def lr_history(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The latest values that were used, the newest last."""
        return np.array(self._history)

    def plot_history(self, axes: Any, title: str | None = None) -> Any:
        """Draw the values that were used on matplotlib axes, and return the axes.

        Raises:
            ValueError: None are kept.
        """
        if not self._history:
            raise ValueError(
                f"{type(self).__name__} has no history. Give it lr_history_size, and use it first."
            )
        axes.plot(self.lr_history)
        axes.set_xlabel("iteration")
        axes.set_ylabel("value")
        axes.set_title(title or type(self).__name__)
        return axes


@dataclass(kw_only=True)
class RateFunction(ScheduleFunction):
    """Is the base of schedules between `lr_min` and `lr_max`; they serve for momentum too."""

    lr_min: float = 1e-4
    lr_max: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(lr_min=self.lr_min, lr_max=self.lr_max)
        if self.lr_min > self.lr_max:
            raise ValueError(f"lr_min={self.lr_min} is above lr_max={self.lr_max}; exchange them.")

    def between(self, share: float) -> float:
        """Return what lies at a share of the way from `lr_min` to `lr_max`."""
        return self.lr_min + (self.lr_max - self.lr_min) * share


def triangle(iteration: float, stepsize: float) -> float:
    """Return 0 at the start, 1 after `stepsize` iterations, 0 after two, and so on."""
    cycle = math.floor(1 + iteration / (2 * stepsize))
    return max(0.0, 1.0 - abs(iteration / stepsize - 2 * cycle + 1))


def halving(iteration: float, stepsize: float) -> float:
    """Return 1 in the first cycle of two `stepsize`, and half as much in each one after it."""
    return 0.5 ** math.floor(iteration / (2 * stepsize))


@dataclass(kw_only=True)
class Step(RateFunction):
    """Multiplies `lr_max` by `lr_decay` every so many iterations, down to `lr_min`."""

    lr_decay: float = 0.001
    lr_decay_every: int = 10000

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        return max(self.lr_min, self.lr_max * self.lr_decay ** (iteration // self.lr_decay_every))


@dataclass(kw_only=True)
class LinearDecay(RateFunction):
    """Falls from `lr_max` to `lr_min` in a straight line."""

    num_iters: int = 100_000
    """Iterations until `lr_min` is reached."""

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        return self.between(1 - min(iteration / self.num_iters, 1.0))


@dataclass(kw_only=True)
class LogDecay(RateFunction):
    """Falls from `lr_max` to `lr_min` by the same factor in each iteration."""

    num_iters: int = 50_000
    """Iterations until `lr_min` is reached."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(lr_min=self.lr_min)

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        share = min(iteration / self.num_iters, 1.0)
        return float(self.lr_max * (self.lr_min / self.lr_max) ** share)


@dataclass(kw_only=True)
class ExponentialDecay(RateFunction):
    """Is `lr_max * exp(-k * iteration)`; `lr_min` is no limit to it."""

    k: float = 0.001

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        return self.lr_max * math.exp(-self.k * iteration)


@dataclass(kw_only=True)
class WarmRestart(RateFunction):
    """Falls along half a cosine from `lr_max` to `lr_min` in `stepsize` iterations, and restarts.

    SGDR (Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983): `stepsize` is its T_0 in
    iterations, `cycle_mult` its T_mult.
    """

    cycle_mult: int = 1
    """How many times as long as the one before each cycle is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(cycle_mult=self.cycle_mult)

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        length, position = self.stepsize, iteration
        if self.cycle_mult == 1:
            position %= length
        while position >= length:
            position, length = position - length, length * self.cycle_mult
        return self.between((1 + math.cos(math.pi * position / length)) / 2)


@dataclass(kw_only=True)
class Triangular(RateFunction):
    """Rises from `lr_min` to `lr_max` in `stepsize` iterations, falls as long, and repeats.

    Cyclical learning rates (Smith 2017, https://arxiv.org/abs/1506.01186), "triangular".
    """

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        return self.between(triangle(iteration, self.stepsize))


@dataclass(kw_only=True)
class InvTriangular(RateFunction):
    """Falls from `lr_max` to `lr_min` in `stepsize` iterations, rises as long, and repeats."""

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        return self.between(1 - triangle(iteration, self.stepsize))


@dataclass(kw_only=True)
class TriangularExp(RateFunction):
    """Is `Triangular` with a height that decays by exp(-k) in each iteration.

    Cyclical learning rates (Smith 2017, https://arxiv.org/abs/1506.01186), "exp_range" with
    gamma = exp(-k).
    """

    k: float = 0.1

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        return self.between(triangle(iteration, self.stepsize) * math.exp(-self.k * iteration))


@dataclass(kw_only=True)
class Triangular2(RateFunction):
    """Is `Triangular` with a height that halves after each cycle.

    Cyclical learning rates (Smith 2017, https://arxiv.org/abs/1506.01186), "triangular2".
    """

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        height = halving(iteration, self.stepsize)
        return self.between(triangle(iteration, self.stepsize) * height)


@dataclass(kw_only=True)
class Triangular2Exp(RateFunction):
    """Is `Triangular2` with a height that also decays by exp(-k) in each iteration."""

    k: float = 0.1

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        height = halving(iteration, self.stepsize) * math.exp(-self.k * iteration)
        return self.between(triangle(iteration, self.stepsize) * height)


@dataclass(kw_only=True)
class EpochSet(RateFunction):
    """Takes its values from a table of epochs.

    Raises:
        ValueError: `schedule` is no dict with integer keys and a key 0.
    """

    schedule: dict[int, float] = field(kw_only=False)
    """Values by epoch, from 0; the one at 0 is the value of the start."""
    lr_value: bool = False
    """Whether a later entry is the value itself; otherwise it multiplies the value before it."""

    reads: ClassVar[tuple[str, ...]] = ("epoch",)

    def __post_init__(self) -> None:
        super().__post_init__()
        keys = list(self.schedule) if isinstance(self.schedule, dict) else []
        if 0 not in keys or not all(type(key) is int for key in keys):
            raise ValueError(
                f"schedule is {self.schedule!r}; expected a dict of values by epoch, with whole "
                "numbers as keys and a key 0."
            )

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        past = [self.schedule[key] for key in sorted(self.schedule) if 0 <= key <= epoch]
        return past[-1] if self.lr_value else math.prod(past)


@dataclass(kw_only=True)
class DecayWhenEpoch(RateFunction):
    """Multiplies `lr_max` by `lr_decay` every `num_epochs` epochs, down to `lr_min`."""

    num_epochs: int = 8
    lr_decay: float = 0.9

    reads: ClassVar[tuple[str, ...]] = ("epoch",)

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        return max(self.lr_min, self.lr_max * self.lr_decay ** (epoch // self.num_epochs))


@dataclass(kw_only=True)
class DecayToEpoch(RateFunction):
    """Stays at `initial_lr`, then falls in a straight line to `final_lr`, never below it.

    CycleGAN's schedule (Zhu et al. 2017, https://arxiv.org/abs/1703.10593, section 7.1).
    """

    non_decay_time: int = 100
    """Epochs at the initial rate."""
    decay_length: int = 100
    """Epochs of decay after them."""
    initial_lr: float = 0.01
    final_lr: float = 0.0

    reads: ClassVar[tuple[str, ...]] = ("epoch",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(decay_length=self.decay_length)
        if self.final_lr > self.initial_lr:
            raise ValueError(
                f"final_lr={self.final_lr} is above initial_lr={self.initial_lr}; a decay falls."
            )

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        share = min(max(epoch - self.non_decay_time, 0) / self.decay_length, 1.0)
        return self.initial_lr * (1 - share) + self.final_lr * share


@dataclass(kw_only=True)
class DecayWhenAcc(RateFunction):
    """Multiplies the rate by `lr_decay` whenever the accuracy falls back.

    That is for each measured accuracy that is below the best before it by more than the share
    `acc_thresh`.
    """

    initial_lr: float = 0.01
    acc_thresh: float = 0.05
    lr_decay: float = 0.9

    reads: ClassVar[tuple[str, ...]] = ("accuracy",)

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        best, value = 0.0, self.initial_lr
        for measured in accuracy:
            best = max(best, measured)
            if measured < best * (1 - self.acc_thresh):
                value *= self.lr_decay
        return value


@dataclass(kw_only=True)
class TriangularDecayWhenAcc(RateFunction):
    """Is `Triangular`, times `lr_decay` while the accuracy is below its best.

    Below means by more than the share `acc_thresh`.
    """

    lr_decay: float = 0.9
    acc_thresh: float = 0.05

    reads: ClassVar[tuple[str, ...]] = ("iteration", "accuracy")

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        value = self.between(triangle(iteration, self.stepsize))
        fell_back = accuracy and accuracy[-1] < max(accuracy) * (1 - self.acc_thresh)
        return value * self.lr_decay if fell_back else value


@dataclass(kw_only=True)
class TriangularMomentum(ScheduleFunction):
    """Falls from `mtm_max` to `mtm_min` in `stepsize` iterations, rises as long, and repeats.

    Cyclical momentum, which is lowest where the rate of `Triangular` is highest (Smith 2018,
    https://arxiv.org/abs/1803.09820, section 4.3).
    """

    mtm_min: float = 1e-3
    mtm_max: float = 0.9

    def value(self, iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
        share = triangle(iteration, self.stepsize)
        return self.mtm_max - (self.mtm_max - self.mtm_min) * share

    def get_mtm(self, iteration: int) -> float:
        """Return the momentum for an iteration, and keep it in the history."""
        return self.get_lr(iteration)
