"""Tiny models, data and trainers that the tests share."""

import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from loopwright.trainer import Trainer


def tiny_data(
    num_samples: int = 12, *, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs [num_samples, 3] and classes 0 to 2, always the same ones."""
    generator = torch.Generator().manual_seed(11)
    inputs = torch.randn(num_samples, 3, generator=generator, dtype=dtype)
    return inputs, torch.randint(0, 3, (num_samples,), generator=generator)


def tiny_model(*, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a network of two layers, always with the same weights."""
    with torch.random.fork_rng(devices=[]):  # the layers draw weights that are not used
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 3))
    generator = torch.Generator().manual_seed(12)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return model.to(dtype)


def tiny_trainer(
    cls: type[Trainer] = Trainer,
    model: nn.Module | None = None,
    *,
    lr: float = 0.1,
    callbacks: Iterable[Any] = (),
    **options: Any,
) -> Any:
    """Return a trainer of a tiny model with SGD and, unless given, no callbacks."""
    model = tiny_model() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    options.setdefault("seed", 3)
    return cls(model, nn.CrossEntropyLoss(), optimizer, callbacks=callbacks, **options)


class MapData(Dataset[Any]):
    """Gives samples one by one, and adds noise from the global generators when asked."""

    def __init__(self, num_samples: int = 12, *, noise: bool = False) -> None:
        self.inputs, self.targets = tiny_data(num_samples)
        self.noise = noise

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = self.inputs[index]
        if self.noise:
            inputs = inputs + torch.rand(3) + random.random() + float(np.random.rand())
        return inputs, self.targets[index]


class Stream(IterableDataset[Any]):
    """Gives samples in order and does not say how many there are."""

    def __init__(self, num_samples: int = 12, *, dtype: torch.dtype = torch.float32) -> None:
        self.inputs, self.targets = tiny_data(num_samples, dtype=dtype)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(zip(self.inputs, self.targets, strict=True))


def weights(trainer: Any) -> list[torch.Tensor]:
    """Return copies of the trainer's parameters."""
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def same(first: Iterable[torch.Tensor], second: Iterable[torch.Tensor]) -> bool:
    """Whether two lists of tensors hold the same bits."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def global_states() -> tuple[Any, ...]:
    """Return the states of the global generators in a form that `==` compares."""
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), (kind, keys.tolist(), *rest), torch.get_rng_state().tolist()
