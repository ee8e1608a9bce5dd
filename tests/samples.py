"""The samples of the document after a change of their imports, and what they take for granted."""

import gzip
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from loopwright.trainloop import TTModel

DATA = Path(os.environ.get("LOOPWRIGHT_DATA", Path(__file__).parents[2] / "shared" / "data"))
DOCUMENT = DATA.parent / "seeds" / "aitoolbox-train-loop.rst"
IMPORTS = {
    "aitoolbox.torchtrain.train_loop": "loopwright.trainloop",
    "aitoolbox.experiment.result_package.basic_packages": "loopwright.results",
}
LOOPS = ["TrainLoop", "TrainLoopCheckpoint", "TrainLoopEndSave", "TrainLoopCheckpointEndSave"]


def sample(loop: str) -> str:
    """Return the code of a loop's sample, with imports of ours."""
    if not (DATA / "mnist").is_dir() or not DOCUMENT.exists():
        pytest.skip(f"needs MNIST at {DATA / 'mnist'} and {DOCUMENT} (or below LOOPWRIGHT_DATA)")
    blocks = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", DOCUMENT.read_text())
    (code,) = (block for block in blocks if f"tl = {loop}(" in block)
    for old, new in IMPORTS.items():
        code = code.replace(old, new)
    return re.sub("^    ", "", code, flags=re.MULTILINE)


def images(name: str, count: int) -> TensorDataset:
    """Return the first images, [count, 1, 28, 28] in 0 to 1, with their digits."""
    with gzip.open(DATA / "mnist" / f"{name}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(16 + count * 784), np.uint8, offset=16)
    with gzip.open(DATA / "mnist" / f"{name}-labels-idx1-ubyte.gz") as file:
        digits = np.frombuffer(file.read(8 + count), np.uint8, offset=8)
    inputs = torch.tensor(pixels.reshape(count, 1, 28, 28)) / 255
    return TensorDataset(inputs, torch.tensor(digits, dtype=torch.int64))


class CNNModel(TTModel):
    """Is a small convolutional network with a log-softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(256, 10), nn.LogSoftmax(dim=1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(inputs))

    def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
        inputs, targets = (item.to(device) for item in batch_data)
        return criterion(self(inputs), targets)

    def get_predictions(self, batch_data: Any, device: Any) -> Any:
        return self(batch_data[0].to(device)).argmax(dim=1), batch_data[1], {}


def namespace() -> dict[str, Any]:
    """Return what the samples take for granted; their loaders take three sets in turn."""
    loaders = (
        DataLoader(images(name, count), batch_size=100, shuffle=shuffle)
        for name, count, shuffle in (
            ("train", 2000, True),
            ("t10k", 500, False),
            ("t10k", 500, False),
        )
    )
    return {
        "CNNModel": CNNModel,
        "DataLoader": lambda ellipsis: next(loaders),
        "nn": nn,
        "optim": optim,
    }
