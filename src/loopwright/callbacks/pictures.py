"""Pictures of a run, which its report shows: plots of the training, and reconstructed samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from loopwright.events import TrainerCallback
from loopwright.extras import require_installed
from loopwright.plots import new_axes, plot_accuracy, plot_losses, plot_schedule, save_figure
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
        ax = plot_losses({key: values for key, values in losses.items() if values})
        ax.set(xlabel="epoch")
        save_figure(ax, folder / "losses.svg")
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


class ReconstructionsCallback(TrainerCallback):
    """Draws samples and what an autoencoder makes of them after each epoch.

    The samples are the first of the evaluation data, or of the training data where there is none;
    images of shape [height, width] or [1, height, width].

    Args:
        num_samples: How many.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(self, num_samples: int = 8) -> None:
        require_installed(("matplotlib",), "plots")
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}; expected 1 or more.")
        self.num_samples = num_samples

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        data = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.train_dataset
        samples = _first(data, self.num_samples)
        outputs = trainer.predict(samples, per_device_batch_size=self.num_samples)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        rows = torch.cat([samples, torch.sigmoid(logits)])
        if rows.ndim == 4:
            rows = rows.squeeze(1)
        if rows.ndim != 3:
            raise ValueError(
                f"A sample has the shape {tuple(samples.shape[1:])}; pictures are drawn of images "
                "of shape [height, width] or [1, height, width]."
            )
        ax = new_axes((0.8 * self.num_samples, 1.8))
        above, below = (torch.cat(list(part), dim=1) for part in rows.chunk(2))
        ax.imshow(torch.cat([above, below]).numpy(), cmap="gray", vmin=0, vmax=1)
        epoch = trainer.run_history.current_epoch
        ax.set_title(f"samples and reconstructions, epoch {epoch}", fontsize=9)
        ax.set_axis_off()
        save_figure(ax, pictures_of(trainer) / f"reconstructions-{epoch:04d}.png")


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
    schedulers = scheduler.schedulers if isinstance(scheduler, SchedulerList) else [scheduler]
    return [each for each in schedulers if isinstance(each, FunctionScheduler)]


def _first(data: Any, count: int) -> torch.Tensor:
    if isinstance(data, torch.Tensor):
        return data[:count]
    if isinstance(data, tuple) and isinstance(data[0], torch.Tensor):
        return data[0][:count]
    samples = [data[index] for index in range(min(count, len(data)))]
    return torch.stack([each[0] if isinstance(each, (list, tuple)) else each for each in samples])
