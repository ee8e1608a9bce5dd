"""Evaluating within an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopwright.events import TrainerCallback
from loopwright.history import history_state, restore_history

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


class StepBasedEvaluationCallback(TrainerCallback):
    """Evaluates after every so many updates of an epoch, and leaves no metric of that behind.

    Callbacks see the metrics at `on_eval_epoch_end(is_intermediate=True)`, where they are printed
    by default; afterwards the run history is as it was. The end of an epoch is left to the
    evaluation that takes place there.

    Args:
        eval_every_n_steps: Updates between evaluations.
    """

    def __init__(self, eval_every_n_steps: int) -> None:
        if eval_every_n_steps < 1:
            raise ValueError(f"eval_every_n_steps is {eval_every_n_steps}; expected 1 or more.")
        self.eval_every_n_steps = eval_every_n_steps
        self._evaluated_at = 0

    def on_train_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._evaluated_at = trainer.progress.epoch_step

    def on_train_step_start(self, trainer: Trainer, **kwargs: Any) -> None:
        step = trainer.progress.epoch_step
        if step == self._evaluated_at or step % self.eval_every_n_steps:
            return
        if trainer._eval_dataloader is None:
            raise ValueError(
                "StepBasedEvaluationCallback needs an eval_dataset, and train got none."
            )
        self._evaluated_at = step
        history = trainer.run_history
        metrics, epoch = history_state(history), history.current_epoch
        trainer.print(f"\nEvaluating after {step} steps of the epoch")
        trainer._run_eval_epoch(trainer._eval_dataloader, is_intermediate=True)
        restore_history(history, metrics, epoch=epoch)
