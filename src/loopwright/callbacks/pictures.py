"""Plots of a training, which the report of its run shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.events import TrainerCallback
from loopwright.extras import require_installed
from loopwright.plots import (
    gan_losses,
    plot_accuracy,
    plot_gan_losses,
    plot_losses,
    plot_schedule,
    save_figure,
)
from loopwright.run_record import PICTURES_FOLDER
from loopwright.schedulers import FunctionScheduler, SchedulerList

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


class TrainingPlotsCallback(TrainerCallback):
    """Draws losses, accuracy and schedules at the end of a run, into the folder of the run.

    Schedules are drawn where they are functions, over all updates of the run.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(self) -> None:
        require_installed(("matplotlib",), "plots")

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        pictures_of(trainer)

    def on_training_run_end(self, trainer: Trainer, **kwargs: Any) -> None:
        folder, history = pictures_of(trainer), trainer.run_history
        names = {"train": "train_loss_epoch", "eval": "eval_loss_epoch"}
        losses = {key: list(history.get_metric_values(name)) for key, name in names.items()}
        if losses := {key: values for key, values in losses.items() if values}:
            ax = plot_losses(losses)
            ax.set(xlabel="epoch")
            save_figure(ax, folder / "losses.svg")
        if gan_losses(history):
            save_figure(plot_gan_losses(history), folder / "gan-losses.svg")
        if accuracy := list(history.get_metric_values("accuracy")):
            save_figure(plot_accuracy(accuracy), folder / "accuracy.svg")
        for scheduler in _functions_in(trainer.scheduler):
            self._draw_schedule(trainer, scheduler, folder)

    def _draw_schedule(self, trainer: Trainer, scheduler: FunctionScheduler, folder: Path) -> None:
        field = (
            "momentum" if scheduler.param_group_field == "betas" else scheduler.param_group_field
        )
        config = trainer.run_config
        ax = plot_schedule(
            scheduler.function,
            scheduler.num_updates,
            iterations_per_epoch=(config and config.num_update_steps_per_epoch) or 1,
            accuracy=list(trainer.run_history.get_metric_values(scheduler.watch)),
            name="learning rate" if field == "lr" else field,
        )
        save_figure(ax, folder / f"schedule-{field}.svg")


def pictures_of(trainer: Trainer) -> Path:
    """Return the folder of a run's pictures, made if need be.

    Raises:
        ValueError: The run has no folder.
    """
    if trainer.run_dir is None:
        raise ValueError("Pictures need a folder for the run: give Trainer(run_dir=...).")
    folder = trainer.run_dir / PICTURES_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _functions_in(scheduler: Any) -> list[FunctionScheduler]:
    """Return the schedules that are functions; of several optimizers those of the first."""
    if isinstance(scheduler, dict):
        scheduler = next(iter(scheduler.values()), None)
    schedulers = scheduler.schedulers if isinstance(scheduler, SchedulerList) else [scheduler]
    return [each for each in schedulers if isinstance(each, FunctionScheduler)]
