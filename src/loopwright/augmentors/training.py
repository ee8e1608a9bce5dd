"""A trainer whose training batches are augmented on the device, inside of the step."""

from typing import Any

import torch

from loopwright.augmentors.base import Augmentation
from loopwright.trainer import Trainer


class AugmentingTrainer(Trainer):
    """Augments images before the model sees them in training; evaluation sees them as they are.

    A training sample is (image, target, number of the sample): from that number, the epoch and the
    seed alone comes what is drawn, so that neither the batch nor a resumed run changes it.

    Args:
        *args: those of `Trainer`.
        augmentation: what is done to a batch.
        **kwargs: those of `Trainer`.
    """

    def __init__(self, *args: Any, augmentation: Augmentation, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.augmentation = augmentation.to(self.device)

    def training_run_start(self) -> None:
        """Say where images are augmented."""
        super().training_run_start()
        names = ", ".join(type(step).__name__ for step in self.augmentation.steps)
        self.print(f"Augmenting in batches on {self.device}: {names}")

    def train_epoch_start(self) -> None:
        """Let the draws be those of this epoch."""
        super().train_epoch_start()
        self.augmentation.epoch.fill_(self.run_history.current_epoch)

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        """Return the loss of a micro-batch whose images are augmented."""
        images, targets, samples = batch
        with torch.no_grad():
            images = self.augmentation(images, samples)
        return super().calculate_train_batch_loss([images, targets])
