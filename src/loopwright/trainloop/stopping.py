"""A signal that ends the training of a TrainLoop: its model is saved first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from loopwright.ends import StopRequested
from loopwright.keeper import Keeper

if TYPE_CHECKING:
    from loopwright.trainer import Trainer
    from loopwright.trainloop.train_loop import TrainLoop


class LoopKeeper(Keeper):
    """Listens for signals where a callback of the loop saves models, and lets it save.

    A loop leaves between two updates, or after an epoch with its evaluations and callbacks.
    """

    def __init__(self, loop: TrainLoop) -> None:
        super().__init__(None, None)
        self.loop = loop

    @contextmanager
    def keeping(self, trainer: Trainer, *, resumes: bool) -> Iterator[None]:
        """Save when a signal ends the run.

        Raises:
            RunInterrupted: SIGTERM, SIGHUP or SIGUSR1 ended it.
            KeyboardInterrupt: SIGINT did.
        """
        saving = [each for each in self.loop.callbacks if hasattr(each, "save_interrupted")]
        if not saving:
            yield
            return
        with self.requests.listening():  # while saving, too: job managers ask twice
            with suppress(StopRequested):
                yield
            if self.requests.signal is not None:
                timestamp = self.loop.experiment_timestamp
                self.goes_on_with = f"ModelLoadContinueTraining({timestamp!r}) among the callbacks"
                raise self._interruption(saving[0].save_interrupted())

    def save_if_due(self, trainer: Trainer) -> None:
        """Leave when a signal asks for it, between two updates."""
        if self.requests.signal is not None and not trainer._accumulation.is_open:
            raise StopRequested

    def save_after_epoch(self, trainer: Trainer) -> None:
        """Leave when a signal asks for it."""
        self.save_if_due(trainer)
