"""Trains a small CNN on MNIST with the plain Trainer: `python examples/mnist.py PATH`.

PATH is a folder with the four original files, such as train-images-idx3-ubyte.gz.
"""

import argparse
import gzip
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from loopwright import Trainer, TrainerPlaceholderValues, set_seed
from loopwright.callbacks import DEFAULT_CALLBACKS, MetricsCallback


def read_idx(path: Path, header_bytes: int) -> np.ndarray:
    """Return the bytes of an IDX file after its header."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header_bytes)


def load_part(folder: Path, part: str, limit: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images, float32 [N, 1, 28, 28] normalised, and labels, int64 [N]."""
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)[:limit]
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 8)[:limit]
    scaled = (torch.from_numpy(images.astype(np.float32)) / 255 - 0.1307) / 0.3081
    return scaled, torch.from_numpy(labels.astype(np.int64))


def make_model() -> nn.Module:
    """Return two convolutions with batch norm and a linear head."""
    return nn.Sequential(
        *(nn.Conv2d(1, 24, 5, stride=2, padding=2), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(48 * 7 * 7, 10)),
    )


class Accuracy:
    """Counts right answers over all samples."""

    def reset(self) -> None:
        self.right = self.seen = 0

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.right += (outputs.argmax(dim=1) == targets).sum()
        self.seen += len(targets)

    def compute(self) -> float:
        return float(self.right) / self.seen


def main() -> float:
    """Train, evaluate on the test part, and return the accuracy there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, help="samples to use of each part, for a quick try")
    arguments = parser.parse_args()

    set_seed(0)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    metrics = MetricsCallback({"accuracy": Accuracy()})
    trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, [metrics, *DEFAULT_CALLBACKS])
    trainer.train(
        load_part(arguments.path, "train", arguments.limit),
        num_epochs=arguments.epochs,
        per_device_batch_size=64,
        create_scheduler_fn=partial(
            OneCycleLR,
            max_lr=5e-3,
            epochs=TrainerPlaceholderValues.NUM_EPOCHS,
            steps_per_epoch=TrainerPlaceholderValues.NUM_UPDATE_STEPS_PER_EPOCH,
        ),
    )
    trainer.evaluate(load_part(arguments.path, "t10k", arguments.limit), 1000)
    accuracy: float = trainer.run_history.get_latest_metric("accuracy")
    print(f"test accuracy: {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main()
