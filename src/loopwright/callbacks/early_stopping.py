"""Ending a run that no longer gets better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopwright.events import StopTrainingError, TrainerCallback
from loopwright.watching import is_better, watched_value

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


class EarlyStoppingCallback(TrainerCallback):
    """Ends the run when a metric has not improved enough for a number of epochs.

    Args:
        early_stopping_patience: Epochs in a row without improvement after which the run ends.
        early_stopping_threshold: A change has to be larger than this to count, in the metric's
            unit.
        watch_metric: The metric of the run history that is compared after each epoch.
        greater_is_better: Whether larger values are better.
        reset_on_train: Whether a new run forgets the best value and the count of the one before.

    Raises:
        ValueError: The patience is negative.
    """

    def __init__(
        self,
        early_stopping_patience: int = 1,
        early_stopping_threshold: float = 0.01,
        watch_metric: str = "eval_loss_epoch",
        greater_is_better: bool = False,
        reset_on_train: bool = True,
    ) -> None:
        if early_stopping_patience < 0:
            raise ValueError(
                f"early_stopping_patience is {early_stopping_patience}, expected 0 or more epochs"
            )
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold
        self.watch_metric = watch_metric
        self.greater_is_better = greater_is_better
        self.reset_on_train = reset_on_train
        self.best_metric: Any = None
        self.early_stopping_patience_counter = 0

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        if self.reset_on_train:
            self.best_metric = None
            self.early_stopping_patience_counter = 0

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        value = watched_value(trainer.run_history, self.watch_metric, self)
        if self._improves(value):
            self.best_metric = value
            self.early_stopping_patience_counter = 0
            return
        self.early_stopping_patience_counter += 1
        count = f"{self.early_stopping_patience_counter}/{self.early_stopping_patience}"
        trainer.print(f"{self.watch_metric} did not improve: early stopping {count}")
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            raise StopTrainingError(
                f"Stopping: {self.watch_metric} did not improve by more than "
                f"{self.early_stopping_threshold} in {self.early_stopping_patience} epochs; best "
                f"{self.best_metric}, now {value}."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what the count stands on, for checkpoints."""
        return {"best": self.best_metric, "count": self.early_stopping_patience_counter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from what `state_dict` returned."""
        self.best_metric = state["best"]
        self.early_stopping_patience_counter = state["count"]

    def _improves(self, value: Any) -> bool:
        if not is_better(value, self.best_metric, greater_is_better=self.greater_is_better):
            return False
        best = self.best_metric
        return best is None or bool(abs(value - best) > self.early_stopping_threshold)
