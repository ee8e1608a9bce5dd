"""Checkpoints before and after each decay of a warm-up, stable, decay schedule."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.checkpoint import read_state
from loopwright.events import TrainerCallback
from loopwright.seed import restore_random_states

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

_PRE_DECAY, _POST_DECAY = "wsd_pre_decay", "wsd_post_decay"


class WSDCheckpointCallback(TrainerCallback):
    """Saves a run before and after each decay of its `WSDLrScheduler`.

    Before a decay the whole training state goes to the folder `checkpoint_<step>_wsd_pre_decay`,
    from which training can go on at the full rate. After it the model goes to the file
    `checkpoint_<step>_wsd_post_decay.pt`, ready for use. The steps are the optimizer updates that
    the scheduler counts; both are saved between two updates.

    A later run starts from either, given as `initial_checkpoint`, with a scheduler made with
    `is_continuation_from_checkpoint=True`: from the folder the decay is undone (WSD), from the
    file it is kept (WSD-S). It is a run of its own, with its own length, epochs and history.

    Args:
        save_dir: Where checkpoints go; made when the first is saved.
        save_optimizer: Whether files after a decay hold the optimizer.
        save_scheduler: Whether files after a decay hold the scheduler.
        initial_checkpoint: A folder or file to start from.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str] = "checkpoints",
        save_optimizer: bool = True,
        save_scheduler: bool = True,
        initial_checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.save_dir = Path(save_dir)
        self.save_optimizer = save_optimizer
        self.save_scheduler = save_scheduler
        self.initial_checkpoint = Path(initial_checkpoint) if initial_checkpoint else None
        self._pre_decay_steps: set[int] = set()
        self._post_decay_steps: set[int] = set()

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        """Load the initial checkpoint and note the steps to save at.

        Raises:
            ValueError: The scheduler of the run has no checkpoints, or is no continuation
                although there is an initial checkpoint.
            FileNotFoundError: The initial checkpoint does not exist.
        """
        if not hasattr(trainer.scheduler, "get_decay_info"):
            raise ValueError(
                f"WSDCheckpointCallback needs a scheduler with checkpoints, and this run has "
                f"{type(trainer.scheduler).__name__}. Call train with "
                "create_scheduler_fn=WSDLrScheduler.create_scheduler_fn()."
            )
        # A run that was resumed has loaded its own state, which comes after the initial one.
        if self.initial_checkpoint is not None and trainer.progress.step == 0:
            self._start_from(trainer, self.initial_checkpoint)
        periods = trainer.scheduler.get_decay_info()
        self._pre_decay_steps = {info["pre_decay_step"] for info in periods}
        self._post_decay_steps = {info["period_end"] for info in periods}
        done = trainer.scheduler.get_current_step()
        if done > 0:
            self._pre_decay_steps -= set(range(done + 1))
            self._post_decay_steps -= set(range(done + 1))

    def on_train_step_start(self, trainer: Trainer, **kwargs: Any) -> None:
        """Save what is due after the update before."""
        self._save_state_if_due(trainer)
        self._save_model_if_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Save the model if the last update of the epoch ended a decay."""
        self._save_model_if_due(trainer)

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Save the state if the epoch ended where a decay begins.

        Not before the evaluation, so that a run that goes on from here begins a new epoch.
        """
        self._save_state_if_due(trainer)

    def _start_from(self, trainer: Trainer, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(
                f"The initial checkpoint {path} does not exist. Give a folder "
                f"..._{_PRE_DECAY} or a file ..._{_POST_DECAY}.pt that a run has saved."
            )
        if not getattr(trainer.scheduler, "is_continuation_from_checkpoint", False):
            raise ValueError(
                f"The initial checkpoint {path} starts a new schedule, and the scheduler of this "
                "run is no continuation. Make it with is_continuation_from_checkpoint=True; or, to "
                "go on with a run that was interrupted, call train with resume_from instead."
            )
        entries = _load_folder(trainer, path) if path.is_dir() else trainer.load_checkpoint(path)
        trainer.scheduler.start_continuation()
        trainer.print(f"Starting from {path}, saved after step {entries.get('step')}")

    def _save_state_if_due(self, trainer: Trainer) -> None:
        step = trainer.scheduler.get_current_step()
        if step in self._pre_decay_steps:
            self._pre_decay_steps.remove(step)
            folder = self.save_dir / f"checkpoint_{step}_{_PRE_DECAY}"
            entries = self._entries(trainer, step, _PRE_DECAY)
            trainer.save_training_state(folder, checkpoint_kwargs=entries)
            trainer.print(f"Saved {folder}: the decay begins after step {step}")

    def _save_model_if_due(self, trainer: Trainer) -> None:
        step = trainer.scheduler.get_current_step()
        if step in self._post_decay_steps:
            self._post_decay_steps.remove(step)
            path = self.save_dir / f"checkpoint_{step}_{_POST_DECAY}.pt"
            trainer.save_checkpoint(
                path,
                save_optimizer=self.save_optimizer,
                save_scheduler=self.save_scheduler,
                checkpoint_kwargs=self._entries(trainer, step, _POST_DECAY),
            )
            trainer.print(f"Saved {path}: the decay ended with step {step}")

    def _entries(self, trainer: Trainer, step: int, kind: str) -> dict[str, Any]:
        return {
            "step": step,
            "checkpoint_type": kind,
            "total_steps": trainer.scheduler.get_checkpoint_steps()[-1],
            "decay_fraction": trainer.scheduler.decay_phase_ratio,
            "timestamp": datetime.now(UTC).isoformat(),
        }


def _load_folder(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """Restore what a new run takes over from an earlier one: all but its progress and history."""
    state = read_state(folder)
    trainer.get_model(keep_torch_compile=False).load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.scheduler.load_state_dict(state["scheduler"])
    restore_random_states(state["random"])
    return state
