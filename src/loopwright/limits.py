"""Callbacks that limit how many batches a run sees, and the limit that the environment sets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from loopwright.data import DataLoaderSlice, limit_from_environment
from loopwright.events import CallbackHandler, TrainerCallback

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


class LimitBatchesCallback(TrainerCallback):
    """Limits each epoch of training and evaluation to a number of batches, for a quick try.

    It is added to every trainer while LOOPWRIGHT_LIMIT_BATCHES is set.

    Args:
        num_batches: Micro-batches in an epoch.
    """

    def __init__(self, num_batches: int) -> None:
        if num_batches < 1:
            raise ValueError(f"num_batches is {num_batches}; expected 1 or more.")
        self.num_batches = num_batches

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        trainer._train_dataloader = DataLoaderSlice(trainer._train_dataloader, self.num_batches)
        self._limit_evaluation(trainer)

    def on_evaluation_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._limit_evaluation(trainer)

    def _limit_evaluation(self, trainer: Trainer) -> None:
        if trainer._eval_dataloader is not None:
            trainer._eval_dataloader = DataLoaderSlice(trainer._eval_dataloader, self.num_batches)


class LimitEvalStepsCallback(TrainerCallback):
    """Limits the batches of an evaluation; place it before callbacks that show its length.

    Args:
        num_eval_steps: Batches of an evaluation, over all processes.
        limit_intermediate_only: Leave evaluations at the end of an epoch whole.
    """

    def __init__(self, num_eval_steps: int, limit_intermediate_only: bool = True) -> None:
        if num_eval_steps < 1:
            raise ValueError(f"num_eval_steps is {num_eval_steps}; expected 1 or more.")
        self.num_eval_steps = num_eval_steps
        self.limit_intermediate_only = limit_intermediate_only

    def on_eval_epoch_start(
        self, trainer: Trainer, is_intermediate: bool = False, **kwargs: Any
    ) -> None:
        applies = is_intermediate or not self.limit_intermediate_only
        # Set either way: an evaluation that was interrupted has left its limit behind.
        trainer.max_eval_batches = self.num_eval_steps if applies else None

    def on_eval_epoch_end(
        self, trainer: Trainer, is_intermediate: bool = False, **kwargs: Any
    ) -> None:
        trainer.max_eval_batches = None


def make_handler(callbacks: Iterable[Any]) -> CallbackHandler:
    """Return the handler of callbacks; of their limit and the environment's the smaller holds."""
    handler = CallbackHandler(callbacks)
    limit = limit_from_environment()
    present = [each for each in handler if isinstance(each, LimitBatchesCallback)]
    if limit is None or any(each.num_batches <= limit for each in present):
        return handler
    others = [each for each in handler if each not in present]
    return CallbackHandler([LimitBatchesCallback(limit), *others])
