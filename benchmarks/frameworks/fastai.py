"""fastai, its optimizer around the workload's: `default` with bar and table, `lean` without."""

from functools import partial

import fastai.callback.progress  # noqa: F401  (importing it gives every Learner its bar)
from clock import Clock
from fastai.basics import Callback, CancelValidException, DataLoaders, Learner, OptimWrapper
from torch import nn
from workloads import Work

VARIANTS = ("default", "lean")


class Laps(Callback):
    """Ends the clock's lap with each epoch; the recorder has its losses by then."""

    order = 90

    def __init__(self, clock: Clock, evaluated: bool) -> None:
        self.clock, self.evaluated = clock, evaluated

    def before_validate(self) -> None:
        """Skips validation where the workload has none; a Learner always wants to validate."""
        if not self.evaluated:
            raise CancelValidException

    def after_epoch(self) -> None:
        """Reads the recorder: the smoothed training loss, or the validation loss."""
        recorder = self.learn.recorder
        self.clock.lap(recorder.values[-1][1] if self.evaluated else recorder.smooth_loss.value)


def train(work: Work, clock: Clock, variant: str, *, evaluated: bool = False) -> None:
    """Trains all epochs; with `evaluated`, evaluates after each."""
    settings = work.settings
    learner = Learner(
        DataLoaders(work.train_loader(), work.eval_loader()),
        work.model(),
        loss_func=nn.CrossEntropyLoss(),
        opt_func=partial(OptimWrapper, opt=work.spec.optimizer, **settings),
        lr=settings["lr"],
        cbs=Laps(clock, evaluated),
    )
    if variant == "lean":
        with learner.no_bar(), learner.no_logging():
            learner.fit(work.epochs)
    else:
        learner.fit(work.epochs)


def evaluate(work: Work, clock: Clock, variant: str) -> None:
    """Trains and evaluates in every epoch."""
    train(work, clock, variant, evaluated=True)
