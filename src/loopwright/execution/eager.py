"""Steps that run line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from loopwright.execution.report import StepReport

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


class EagerStepping:
    """Takes the steps of one run as they are written; the other forms start from it."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.report: StepReport | None = None
        """What was chosen; None before the first batch of a run."""
        self.step: Callable[[Any], Any]
        """Runs a micro-batch, and returns what `train_step` returns."""
        self._adopt(StepReport(asked="eager", choice="eager", reason="it was asked for"))

    def begin_epoch(self) -> None:
        """Look again, before the next step, at what programs were made for."""

    def begin_phase(self, num_batches: int) -> None:
        """Look again, before the next batch without gradients, at what programs were made for.

        Args:
            num_batches: How many there are in all phases like this one of a run; 0 if not known.
        """

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold what the mode needs during a run."""
        yield

    def evaluate(self, batch: Any) -> Any:
        """Return what `calculate_eval_batch_loss` returns."""
        with self._trainer.autocast():
            return self._trainer.calculate_eval_batch_loss(batch)

    def predict(self, batch: Any) -> Any:
        """Return what `calculate_prediction` returns."""
        with self._trainer.autocast():
            return self._trainer.calculate_prediction(batch)

    def state(self) -> dict[str, Any] | None:
        """Return the choice for a checkpoint."""
        return None if self.report is None else self.report.to_dict()

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Keep to the choice of a checkpoint."""

    def _adopt(self, report: StepReport) -> None:
        self.report = report
        eager = self._eager if self._trainer.precision != "fp32" else self._trainer.train_step
        self.step = eager

    def _eager(self, batch: Any) -> Any:
        with self._trainer.autocast():
            return self._trainer.train_step(batch)
