"""Searching for a learning rate: one run with rising rates, on copies of model and optimizer.

The range test is that of Smith (2017, https://arxiv.org/abs/1506.01186, section 3.3).
"""

import copy
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from loopwright.checkpoint import write_text_aside
from loopwright.errors import CheckpointError, NotSupportedError
from loopwright.events import StopTrainingError, TrainerCallback
from loopwright.extras import require
from loopwright.plain_values import read_number, to_plain
from loopwright.plots import plot_rate_search
from loopwright.rate_selection import SELECTIONS, Curve, Floats
from loopwright.registry import nearest_name
from loopwright.results.plots import Axes
from loopwright.schedulers import function_schedule
from loopwright.schedulers.base import require_positive
from loopwright.seed import preserved_random_states
from loopwright.train_arguments import check_numbers
from loopwright.trainer import Trainer
from loopwright.trainers.classification import ClassificationTrainer, count_correct


@dataclass(kw_only=True, eq=False)
class FinderOptions:
    """Holds the options of a search with their defaults."""

    lr_min: float = 1e-6
    """The first rate."""
    lr_max: float = 1.0
    """The last rate."""
    num_epochs: int = 8
    """Epochs that the search takes, unless `max_batches` or an explosion end it sooner."""
    explode_thresh: float = 4.0
    """Stop when the smoothed loss is above the best one times this."""
    beta: float = 0.999
    """What the smoothed loss keeps of itself from one batch to the next."""
    lr_select_method: str = "max_acc"
    """How the range is chosen: a name in `SELECTIONS`."""
    lr_min_factor: float = 10.0
    """Where a method finds one rate alone, the range begins at it divided by this."""
    max_batches: int = 0
    """Batches that the search takes; 0 for all of `num_epochs`."""
    acc_test: bool = True
    """Whether the accuracy on the validation data is measured after each batch."""
    print_every: int = 20
    """Batches between two lines of progress."""
    verbose: bool = False
    """Whether these lines are printed."""
    train_dataset: Any = None
    """Training data, where the trainer has none of its own."""
    val_dataset: Any = None
    """Validation data, likewise."""
    batch_size: int | None = None
    """Samples in a batch; by default the trainer's, or 32."""

    def __post_init__(self) -> None:
        require_positive(
            lr_min=self.lr_min, explode_thresh=self.explode_thresh, lr_min_factor=self.lr_min_factor
        )
        check_numbers(
            num_epochs=self.num_epochs,
            max_batches=self.max_batches or None,
            print_every=self.print_every,
            batch_size=self.batch_size,
        )
        if not self.lr_min < self.lr_max:
            raise ValueError(f"lr_min={self.lr_min} has to be below lr_max={self.lr_max}.")
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta={self.beta} has to be at least 0 and below 1.")
        if self.lr_select_method not in SELECTIONS:
            nearest = nearest_name(self.lr_select_method, list(SELECTIONS))
            hint = f" Did you mean {nearest!r}?" if nearest else ""
            raise ValueError(
                f"lr_select_method is {self.lr_select_method!r}; expected one of "
                f"{', '.join(SELECTIONS)}.{hint}"
            )


_STORED = tuple(
    each.name
    for each in fields(FinderOptions)
    if each.name not in ("train_dataset", "val_dataset", "batch_size")
)
_MEASURED = ("lr_history", "smooth_loss_history", "acc_history")


class LRFinder(FinderOptions, ABC):
    """Is the base of searches for a learning rate.

    A search trains copies of the trainer's model, loss and optimizer. The trainer itself, its
    weights, optimizer and history, the order of its data and the global random states stay as they
    are, to the bit, however the search ends. Only what a subclass of `Trainer` keeps in attributes
    of its own is shared with it.

    Args:
        trainer: A `ClassificationTrainer`, or a `Trainer` with one optimizer; None where results
            are only loaded.
        options: See `FinderOptions`.
    """

    kinds: ClassVar[dict[str, type["LRFinder"]]] = {}
    """The finders by the names that their files hold."""

    def __init__(self, trainer: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.trainer = trainer
        self.lr_history: list[float] = []
        """The rate of each batch."""
        self.smooth_loss_history: list[float] = []
        """The smoothed loss of each batch, before its update."""
        self.acc_history: list[float] = []
        """The accuracy on the validation data after the update of each batch."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        LRFinder.kinds[cls.__name__] = cls

    @abstractmethod
    def rate(self, batch: int, num_batches: int) -> float:
        """Return the rate of a batch, counted from 0."""

    def find(self) -> tuple[float, float]:
        """Search, and return the lowest and the highest rate of the range that was chosen.

        Raises:
            ValueError: There is no training data, or no validation data to measure the accuracy.
            NotSupportedError: The trainer has several optimizers.
        """
        for name in _MEASURED:
            setattr(self, name, [])
        with preserved_random_states():
            search = _Search(self)
            search.run()
        return self.get_lr_range()

    def get_lr_range(self) -> tuple[float, float]:
        """Return the range that `lr_select_method` chooses from what was measured.

        Raises:
            ValueError: Nothing was measured, or not what the method needs.
        """
        return SELECTIONS[self.lr_select_method](self._curve(), self.lr_min_factor)

    def get_lr_history(self) -> list[float] | None:
        """Return the rate of each batch; None before a search."""
        return self.lr_history or None

    def _curve(self) -> Curve:
        if not self.lr_history:
            raise ValueError(f"{type(self).__name__} has no history. Call find() or load() first.")
        return Curve(*(np.asarray(getattr(self, name), dtype=float) for name in _MEASURED))

    def plot_lr_vs_acc(self, ax: Axes = None, title: str | None = None, log: bool = True) -> Axes:
        """Draw the accuracy at each rate, with the chosen range, and return the axes.

        Raises:
            ValueError: Nothing was measured.
        """
        return self._plot("accuracy", self._curve().accuracy, ax, title, log)

    def plot_lr_vs_loss(self, ax: Axes = None, title: str | None = None, log: bool = True) -> Axes:
        """Draw the smoothed loss at each rate, with the chosen range, and return the axes.

        Raises:
            ValueError: Nothing was measured.
        """
        return self._plot("smoothed loss", self._curve().losses, ax, title, log)

    def _plot(self, name: str, values: Floats, ax: Axes, title: str | None, log: bool) -> Axes:
        if not len(values):
            raise ValueError(f"The {name} was not measured. Search with acc_test=True.")
        chosen, rates = self.get_lr_range(), self.lr_history
        ax = plot_rate_search(rates, values, name=name, chosen=chosen, log=log, ax=ax)
        ax.set_title(title or f"{name} by learning rate ({self.lr_select_method})")
        return ax

    def save_plot(self, fname: str | os.PathLike[str]) -> None:
        """Write a picture of what was measured; the ending of the name decides the format.

        Raises:
            ValueError: Nothing was measured.
            MissingExtraError: matplotlib is not installed.
        """
        draw = [self.plot_lr_vs_loss, self.plot_lr_vs_acc][: 1 + bool(self.acc_history)]
        figure = require("matplotlib.figure", extra="plots").Figure(
            figsize=(6.4, 3.6 * len(draw)), layout="constrained"
        )
        for each, ax in zip(draw, figure.subplots(len(draw), squeeze=False)[:, 0], strict=True):
            each(ax)
        figure.savefig(fname)

    def save(self, fname: str | os.PathLike[str]) -> None:
        """Write options and what was measured to a JSON file."""
        state = {name: getattr(self, name) for name in (*_STORED, *_MEASURED)}
        text = json.dumps(to_plain({"finder": type(self).__name__, **state}), allow_nan=False)
        write_text_aside(Path(fname), text)

    def load(self, fname: str | os.PathLike[str]) -> None:
        """Take over what `save` wrote.

        Raises:
            CheckpointError: The file is missing, is none of a search, or of another kind.
        """
        state = _read(fname)
        if state["finder"] != type(self).__name__:
            raise CheckpointError(
                f"{fname} is of a {state['finder']}, not of a {type(self).__name__}. Use "
                "lr_finder_auto_load."
            )
        FinderOptions.__init__(self, **{name: state[name] for name in _STORED})
        for name in _MEASURED:
            setattr(self, name, [float(read_number(value)) for value in state[name]])  # type: ignore[arg-type]


class LogFinder(LRFinder):
    """Raises the rate by the same factor from each batch to the next, from `lr_min` to `lr_max`."""

    def rate(self, batch: int, num_batches: int) -> float:
        """Return the rate of a batch, counted from 0."""
        share = batch / max(1, num_batches - 1)
        return float(self.lr_min * (self.lr_max / self.lr_min) ** min(share, 1.0))


def lr_finder_auto_load(fname: str | os.PathLike[str]) -> LRFinder:
    """Return the finder of the kind that wrote a file, with what it measured.

    Raises:
        CheckpointError: The file is missing, or of no finder that is known here.
    """
    kind = LRFinder.kinds.get(_read(fname)["finder"])
    if kind is None:
        raise CheckpointError(
            f"{fname} is of no finder that is known here: {', '.join(LRFinder.kinds)}."
        )
    finder = kind()
    finder.load(fname)
    return finder


def _read(fname: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(Path(fname).read_text(encoding="utf-8"))
        missing = {"finder", *_STORED, *_MEASURED} - set(state)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{fname} cannot be read as a finder's file: {error}.") from None
    if missing:
        raise CheckpointError(f"{fname} is no finder's file: it lacks {', '.join(sorted(missing))}")
    return state


class _Search(TrainerCallback):
    """Runs a twin of the finder's trainer with rising rates, and measures."""

    def __init__(self, finder: LRFinder) -> None:
        self.finder = finder
        source = finder.trainer
        self.train_data, self.val_data = finder.train_dataset, finder.val_dataset
        self.batch_size = finder.batch_size or 32
        self.order: dict[str, Any] = {}
        self.count_correct: Callable[..., Any] = count_correct
        if isinstance(source, ClassificationTrainer):
            self.train_data, self.val_data = source.train_dataset, source.val_dataset
            self.batch_size = finder.batch_size or source.batch_size
            self.order = {"drop_last": source.drop_last, "shuffle": source.shuffle}
            self.count_correct = source.count_correct
        if source is None or self.train_data is None:
            raise ValueError("A search needs a trainer and training data. Give train_dataset.")
        if finder.acc_test and self.val_data is None:
            raise ValueError(
                "A search needs validation data to measure the accuracy. Give val_dataset, or "
                "acc_test=False and another lr_select_method than max_acc."
            )
        self.trainer = _twin(source, self)
        self._average = 0.0
        self._correct: Any = None
        self._num_samples = 0
        self._eval_loader: Any = None

    def run(self) -> None:
        """Train with rising rates until they are through, or the loss explodes."""
        finder, trainer = self.finder, self.trainer
        trainer.train_dataset = self.train_data
        num_batches = finder.num_epochs * len(self._make_train_loader())
        if finder.max_batches:
            num_batches = min(num_batches, finder.max_batches)

        def rate(iteration: int, epoch: int, accuracy: Sequence[float]) -> float:
            return finder.rate(iteration, num_batches)

        trainer.train(
            self.train_data,
            None,
            max_num_train_steps=num_batches,
            per_device_batch_size=self.batch_size,
            create_scheduler_fn=function_schedule(rate),
            train_dataloader_kwargs=self.order,
        )

    def _make_train_loader(self) -> Any:
        return self.trainer.create_train_dataloader(self.batch_size, self.order)

    def on_training_run_start(self, trainer: Any, **kwargs: Any) -> None:
        if self.finder.acc_test:
            trainer.eval_dataset = self.val_data
            self._eval_loader = trainer.create_eval_dataloader(self.batch_size)

    def on_train_step_start(self, trainer: Any, **kwargs: Any) -> None:
        self._measure_accuracy(trainer)

    def on_training_run_end(self, trainer: Any, **kwargs: Any) -> None:
        self._measure_accuracy(trainer)

    def on_train_step_end(self, trainer: Any, batch_output: Any, **kwargs: Any) -> None:
        finder = self.finder
        loss = float(
            batch_output["loss"].detach()
        )  # note: this waits for the device, as a search has to
        rate, number = float(trainer.optimizer.param_groups[0]["lr"]), len(finder.lr_history)
        if not math.isfinite(loss):
            raise StopTrainingError(f"The loss became {loss} at the learning rate {rate:.3g}.")
        self._average = finder.beta * self._average + (1 - finder.beta) * loss
        smooth = self._average / (1 - finder.beta ** (number + 1))
        finder.lr_history.append(rate)
        finder.smooth_loss_history.append(smooth)
        if finder.verbose and number % finder.print_every == 0:
            print(f"[FIND] batch {number}: learning rate {rate:.3g}, smoothed loss {smooth:.4f}")
        if smooth > finder.explode_thresh * min(finder.smooth_loss_history):
            raise StopTrainingError(f"The loss exploded at the learning rate {rate:.3g}.")

    def _measure_accuracy(self, trainer: Any) -> None:
        """Measure after the update of each batch, which is when the next one comes."""
        finder = self.finder
        if not finder.acc_test or len(finder.acc_history) == len(finder.lr_history):
            return
        self._correct, self._num_samples = None, 0
        trainer._run_eval_epoch(self._eval_loader, is_intermediate=True)
        if self._correct is None:
            raise ValueError(
                "The accuracy cannot be measured: the targets are no classes. Give acc_test=False "
                "and lr_select_method='min_loss'."
            )
        finder.acc_history.append(int(self._correct) / self._num_samples)

    def on_eval_step_end(self, trainer: Any, batch: Any, batch_output: Any, **kwargs: Any) -> None:
        correct = self.count_correct(batch, batch_output)
        if correct is not None:
            self._correct = correct if self._correct is None else self._correct + correct
        self._num_samples += batch_output["batch_size"]


class _OwnerTrainer(Trainer):
    """Asks a trainer with epochs of its own for the loss of a batch."""

    def __init__(self, owner: ClassificationTrainer, *args: Any, **options: Any) -> None:
        self.owner = owner
        super().__init__(*args, **options)

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        return self.owner.calculate_batch_loss(batch)

    calculate_eval_batch_loss = calculate_train_batch_loss


def _twin(source: Any, search: TrainerCallback) -> Trainer:
    """Return a trainer like another one, with copies of its model, loss and optimizer.

    Raises:
        NotSupportedError: It has several optimizers.
    """
    if isinstance(source, ClassificationTrainer):
        owner, inner = copy.copy(source), source.trainer
        parts = copy.deepcopy((source.model, source.criterion, source.optimizer))
        owner.model, owner.criterion, owner.optimizer = parts
        return _OwnerTrainer(
            owner, *parts, [search], device=inner.device, precision=inner.precision, seed=inner.seed
        )
    if isinstance(source.optimizer, Mapping):
        raise NotSupportedError(
            f"The trainer has the optimizers {', '.join(source.optimizer)}; a search is for one."
        )
    parts = copy.deepcopy((source.model, source.loss_func, source.optimizer))
    twin: Trainer = copy.copy(source)
    Trainer.__init__(
        twin, *parts, [search], device=source.device, precision=source.precision, seed=source.seed
    )
    return twin
