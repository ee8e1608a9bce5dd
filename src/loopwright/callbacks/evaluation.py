"""Evaluating within an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopwright.events import TrainerCallback
from loopwright.history import RunHistory, history_state

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
        before = history_state(trainer.run_history)
        trainer.print(f"\nEvaluating after {step} steps of the epoch")
        try:
            trainer._run_eval_epoch(trainer._eval_dataloader, is_intermediate=True)
        finally:
            _forget_changes(trainer.run_history, before)


def _forget_changes(history: RunHistory, before: dict[str, list[Any]]) -> None:
    """Bring metrics that were recorded since back to their values before; leave the others."""
    prefix = history.metric_name_prefix
    history.set_metric_name_prefix("")
    for name, values in history_state(history).items():
        if len(values) == len(before.get(name, ())):
            continue
        history.delete_metric(name)
        for value in before.get(name, ()):
            history.update_metric(name, value)
    history.set_metric_name_prefix(prefix)
