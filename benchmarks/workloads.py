"""The workloads: data, model, optimizer and sizes, the same for every framework.

Every size divides by its batch size, so no framework drops or pads anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

Kind = Literal["train", "predict", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The sizes of one workload."""

    kind: Kind
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    """Shape of one sample."""
    samples: int
    """Samples trained on per epoch, or predicted per call."""
    batch_size: int
    laps: int
    """Timed epochs, or timed calls of predict; one more runs first, untimed."""
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD
    settings: tuple[tuple[str, Any], ...] = (("lr", 0.05), ("momentum", 0.9), ("fused", True))
    eval_samples: int = 0
    """Samples evaluated after every epoch."""


def small_mlp() -> nn.Module:
    """Returns the MLP 32-64-10 of W1."""
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))


def wide_mlp() -> nn.Module:
    """Returns the MLP 784-128-10 of W2."""
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def small_cnn() -> nn.Module:
    """Returns the two-convolution network of W3."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


ADAM = (("lr", 1e-3), ("fused", True))

SPECS: dict[str, Spec] = {
    "W1": Spec(
        kind="train", model=small_mlp, shape=(32,), samples=19_968, batch_size=64, laps=3
    ),
    "W2": Spec(
        kind="train", model=wide_mlp, shape=(784,), samples=59_904, batch_size=64, laps=1,
        optimizer=torch.optim.Adam, settings=ADAM,
    ),
    "W3": Spec(
        kind="train", model=small_cnn, shape=(1, 28, 28), samples=1_984, batch_size=64, laps=3
    ),
    "P2": Spec(
        kind="predict", model=wide_mlp, shape=(784,), samples=59_904, batch_size=256, laps=3
    ),
    # One step of training, then an evaluation that is over two hundred times as long.
    "E2": Spec(
        kind="evaluate", model=wide_mlp, shape=(784,), samples=256, batch_size=256, laps=3,
        optimizer=torch.optim.Adam, settings=ADAM, eval_samples=59_904,
    ),
    # An epoch is a thousand steps, so the first and the last lap are the first and last thousand.
    "S1": Spec(
        kind="train", model=small_mlp, shape=(32,), samples=64_000, batch_size=64, laps=99
    ),
}  # fmt: skip


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """A map-style dataset as a user writes it."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        """Returns the number of samples."""
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Returns one sample."""
        return self.x[index], self.y[index]


@dataclass(frozen=True)
class Work:
    """One workload made ready: the data is in memory, models and optimizers are made on request."""

    spec: Spec
    x: Tensor
    y: Tensor
    eval_x: Tensor
    eval_y: Tensor

    @property
    def epochs(self) -> int:
        """Epochs (or calls) to run in all: the warm-up and the timed ones."""
        return 1 + self.spec.laps

    @property
    def batch_size(self) -> int:
        """Samples per step."""
        return self.spec.batch_size

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments of the optimizer's class."""
        return dict(self.spec.settings)

    def model(self) -> nn.Module:
        """Returns a new model; its weights are the same in every process."""
        torch.manual_seed(1)
        return self.spec.model()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Returns a new optimizer of the model's parameters, made as a user would make it."""
        return self.spec.optimizer(model.parameters(), **self.settings)

    def train_loader(self, variant: str = "loader") -> DataLoader[Any]:
        """Returns the DataLoader that a user would make for the training data.

        Args:
            variant: "samples" for a dataset that makes its samples one by one.
        """
        data = (Samples if variant == "samples" else TensorDataset)(self.x, self.y)
        return DataLoader(data, batch_size=self.batch_size, shuffle=True, num_workers=0)

    def eval_loader(self) -> DataLoader[Any]:
        """Returns the DataLoader that a user would make for the evaluation data."""
        data = TensorDataset(self.eval_x, self.eval_y)
        return DataLoader(data, batch_size=self.batch_size, num_workers=0)

    def predict_loader(self) -> DataLoader[Any]:
        """Returns the DataLoader of (inputs,) batches, in order."""
        return DataLoader(TensorDataset(self.x), batch_size=self.batch_size, num_workers=0)


def make(name: str) -> Work:
    """Makes the workload called `name`: inputs from a normal distribution, labels of a teacher."""
    spec = SPECS[name]
    generator = torch.Generator().manual_seed(0)
    inputs = 1
    for size in spec.shape:
        inputs *= size
    teacher = torch.randn(inputs, 10, generator=generator)

    def draw(samples: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(samples, *spec.shape, generator=generator)
        return x, (x.flatten(1) @ teacher).argmax(1)

    return Work(spec, *draw(spec.samples), *draw(spec.eval_samples))
