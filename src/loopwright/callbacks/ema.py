"""Keeping, evaluating and saving averaged weights during a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from loopwright.callbacks.saving import SaveBestModelCallback
from loopwright.ema import ModelEma
from loopwright.events import CallbackHandler, TrainerCallback

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

_PREFIX = "ema_model_"


class ModelEmaCallback(SaveBestModelCallback):
    """Follows the model with a moving average of its weights, taken after each epoch.

    The averaged model is evaluated after each evaluation of the model (metrics carry the prefix
    `ema_model_`) and saved when it is the best so far. Place this callback after those that change
    the model and before those that log metrics.

    Args:
        decay: How much of the average stays at an update.
        evaluate_during_training: False saves the averaged model after each epoch instead of
            evaluating it.
        save_path: The `.pt` file of the averaged model.
        watch_metric: The metric of the run history that is compared after each epoch.
        greater_is_better: Whether larger values are better.
        model_ema: Makes the averaged model: called with the model and `decay=`.
        callbacks: Callbacks for the evaluation of the averaged model, in place of the trainer's.
    """

    def __init__(
        self,
        decay: float = 0.99,
        evaluate_during_training: bool = True,
        save_path: str | os.PathLike[str] = "ema_model.pt",
        watch_metric: str = "ema_model_eval_loss_epoch",
        greater_is_better: bool = False,
        model_ema: Callable[..., ModelEma] = ModelEma,
        callbacks: Iterable[TrainerCallback | type[TrainerCallback]] = (),
    ) -> None:
        super().__init__(
            save_path=save_path,
            watch_metric=watch_metric,
            greater_is_better=greater_is_better,
            reset_on_train=False,
            save_optimizer=False,
            load_saved_checkpoint=False,
        )
        self.decay = decay
        self.evaluate_during_training = evaluate_during_training
        self.ema_model: ModelEma | None = None
        self._is_training = False
        self._make_ema = model_ema
        self._callbacks = CallbackHandler(callbacks)

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self.ema_model = self._make_ema(trainer.get_model(), decay=self.decay)

        self._is_training = True

    def on_evaluation_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._is_training = False

    def on_train_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        assert self.ema_model is not None
        self.ema_model.update(trainer.get_model())

    def on_eval_epoch_end(
        self, trainer: Trainer, is_intermediate: bool = False, **kwargs: Any
    ) -> None:
        if not (self.evaluate_during_training and self._is_training) or is_intermediate:
            return
        history, handler = trainer.run_history, trainer.callback_handler
        prefix = history.metric_name_prefix
        trainer.print("Evaluating the averaged model")
        with self._averaged(trainer):
            trainer.callback_handler = self._callbacks
            history.set_metric_name_prefix(_PREFIX)
            try:
                trainer._run_eval_epoch(trainer._eval_dataloader)
            finally:
                trainer.callback_handler = handler
                history.set_metric_name_prefix(prefix)

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        with self._averaged(trainer):
            if self.evaluate_during_training:
                super().on_training_run_epoch_end(trainer)
            else:
                trainer.save_checkpoint(self.save_path, save_optimizer=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged model and which epoch was best, for checkpoints."""
        averaged = None if self.ema_model is None else self.ema_model.state_dict()
        return {**super().state_dict(), "averaged": averaged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on averaging from what `state_dict` returned."""
        super().load_state_dict(state)
        if state["averaged"] is not None and self.ema_model is not None:
            self.ema_model.load_state_dict(state["averaged"])

    @contextmanager
    def _averaged(self, trainer: Trainer) -> Iterator[None]:
        """Put the averaged model in place of the trainer's."""
        assert self.ema_model is not None
        model, trainer.model = trainer.model, self.ema_model.module
        try:
            yield
        finally:
            trainer.model = model
