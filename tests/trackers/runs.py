"""A small declared run, and callbacks that disturb it."""

import os
import signal
from typing import Any

from loopwright.callbacks.pictures import pictures_of
from loopwright.events import TrainerCallback
from loopwright.trainer import Trainer


def declared(*trackers: Any, **more: Any) -> dict[str, Any]:
    """Return a run of iris in three epochs, seeded."""
    return {
        "dataset": {
            "dataset": "iris",
            "samples": {"train": 0.6, "validation": 0.2, "test": 0.2},
        },
        "model": {
            "model": {"type": "mlp", "hidden": [4]},
            "training": {"epochs": 3, "optimizer": {"type": "adam", "lr": 0.01}},
        },
        "tracking": {"trackers": list(trackers), "tags": {"team": "vision"}, **more},
        "run": {
            "folder": "run",
            "seed": 1,
            "threads": 1,
            "device": "cpu",
            "checkpoint": {"every_epochs": 1},
        },
    }


class Draw(TrainerCallback):
    """Draws a picture after each epoch."""

    def on_train_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        from PIL import Image

        epoch = trainer.progress.epoch
        image = Image.new("RGB", (3, 2), (epoch, 0, 0))
        image.save(pictures_of(trainer) / f"square-{epoch}.png")


class Stop(TrainerCallback):
    """Asks for the end in an epoch, as a job manager does."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
        if trainer.progress.epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGTERM)
