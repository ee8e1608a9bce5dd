"""Saving the best model, and states to resume from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.events import TrainerCallback
from loopwright.watching import is_better, watched_value

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


class SaveBestModelCallback(TrainerCallback):
    """Keeps the checkpoint of the best epoch, and reloads it when the run ends.

    Args:
        save_path: The `.pt` file, written by `Trainer.save_checkpoint`.
        watch_metric: The metric of the run history that is compared after each epoch.
        greater_is_better: Whether larger values are better.
        reset_on_train: Whether a new run forgets the best value of the one before.
        save_optimizer: Whether to include the optimizer.
        save_scheduler: Whether to include the scheduler.
        load_saved_checkpoint: Whether to load the best checkpoint at the end of the run.
    """

    def __init__(
        self,
        save_path: str | os.PathLike[str] = "best_model.pt",
        watch_metric: str = "eval_loss_epoch",
        greater_is_better: bool = False,
        reset_on_train: bool = True,
        save_optimizer: bool = True,
        save_scheduler: bool = True,
        load_saved_checkpoint: bool = True,
    ) -> None:
        self.save_path = save_path
        self.watch_metric = watch_metric
        self.greater_is_better = greater_is_better
        self.reset_on_train = reset_on_train
        self.save_optimizer = save_optimizer
        self.save_scheduler = save_scheduler
        self.load_saved_checkpoint = load_saved_checkpoint
        self.best_metric: Any = None
        self.best_metric_epoch: int | None = None

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        if self.reset_on_train:
            self.best_metric = self.best_metric_epoch = None

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        value = watched_value(trainer.run_history, self.watch_metric, self)
        if not is_better(value, self.best_metric, greater_is_better=self.greater_is_better):
            return
        self.best_metric = value
        self.best_metric_epoch = trainer.run_history.current_epoch
        trainer.save_checkpoint(
            save_path=self.save_path,
            checkpoint_kwargs={self.watch_metric: value, "epoch": self.best_metric_epoch},
            save_optimizer=self.save_optimizer,
            save_scheduler=self.save_scheduler,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return which epoch was best, for checkpoints."""
        return {"best": self.best_metric, "epoch": self.best_metric_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on comparing with what `state_dict` returned."""
        self.best_metric, self.best_metric_epoch = state["best"], state["epoch"]

    def on_training_run_end(self, trainer: Trainer, **kwargs: Any) -> None:
        if self.load_saved_checkpoint and self.best_metric_epoch is not None:
            trainer.print(
                f"Loading the checkpoint of epoch {self.best_metric_epoch} "
                f"({self.watch_metric} {self.best_metric})"
            )
            trainer.load_checkpoint(self.save_path)


class SaveTrainingStateCallback(TrainerCallback):
    """Saves states from which a run can be resumed, and drops the oldest.

    Folders are named `epoch_N`, `step_N` (N counts updates of the run) and `final`. A state is
    saved when an update is complete, before the next micro-batch is used.

    Args:
        save_dir: Where the folders are made.
        save_every_n_epochs: Save after every so many epochs; None does not.
        save_every_n_steps: Save after every so many updates; None does not.
        save_at_end: Whether to save when the run ends.
        max_checkpoints: How many of the states saved by this callback are kept; None keeps all.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str] = "training_states",
        save_every_n_epochs: int | None = None,
        save_every_n_steps: int | None = None,
        save_at_end: bool = True,
        max_checkpoints: int | None = None,
    ) -> None:
        if max_checkpoints is not None and max_checkpoints < 1:
            raise ValueError(f"max_checkpoints is {max_checkpoints}; expected 1 or more, or None.")
        self.save_dir = Path(save_dir)
        self.save_every_n_epochs = save_every_n_epochs
        self.save_every_n_steps = save_every_n_steps
        self.save_at_end = save_at_end
        self.max_checkpoints = max_checkpoints
        self._saved: list[Path] = []
        self._last_step = 0

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._saved = []
        self._last_step = trainer.progress.step

    def on_train_step_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._save_step(trainer)

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        epoch = trainer.run_history.current_epoch
        if self.save_every_n_epochs and epoch % self.save_every_n_epochs == 0:
            self._save(trainer, f"epoch_{epoch}")
        self._save_step(trainer)

    def on_training_run_end(self, trainer: Trainer, **kwargs: Any) -> None:
        if self.save_at_end:
            self._save(trainer, "final")

    def _save_step(self, trainer: Trainer) -> None:
        step = trainer.progress.step
        if self.save_every_n_steps and step % self.save_every_n_steps == 0:
            if step != self._last_step:
                self._save(trainer, f"step_{step}")
            self._last_step = step

    def _save(self, trainer: Trainer, name: str) -> None:
        folder = self.save_dir / name
        trainer.save_training_state(
            folder, checkpoint_kwargs={"global_step": trainer.progress.step}
        )
        trainer.print(f"Saved the training state to {folder}")
        self._saved = [path for path in self._saved if path != folder] + [folder]
        while self.max_checkpoints is not None and len(self._saved) > self.max_checkpoints:
            shutil.rmtree(self._saved.pop(0))
