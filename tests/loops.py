"""Tiny TrainLoops, and the plain PyTorch loop that they are compared with."""

from collections.abc import Callable
from typing import Any

import torch
from tiny import MapData, tiny_model
from torch import nn
from torch.utils.data import DataLoader

from loopwright.loop_callbacks import AbstractCallback
from loopwright.trainloop import (
    AbstractModelFeedDefinition,
    MultiLoss,
    MultiOptimizer,
    TrainLoop,
    TTModel,
)


class TinyModel(TTModel):
    """Classifies tiny data, with dropout."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.layers = tiny_model(dropout=dropout)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)

    def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
        inputs, targets = batch_data
        return criterion(self(inputs.to(device)), targets.to(device))

    def get_predictions(self, batch_data: Any, device: Any) -> Any:
        inputs, targets = batch_data
        return self(inputs.to(device)).argmax(dim=1), targets, {"rows": inputs.tolist()}


class TwoHeads(TinyModel):
    """Has two losses, each with layers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.second = tiny_model(dropout=0.5)

    def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
        inputs, targets = batch_data
        first = criterion(self(inputs), targets)
        return MultiLoss({"first": first, "second": criterion(self.second(inputs), targets)})


class Feed(AbstractModelFeedDefinition):
    """Feeds plain modules."""

    def get_loss(self, model: Any, batch_data: Any, criterion: Any, device: Any) -> Any:
        return criterion(model(batch_data[0]), batch_data[1])

    def get_predictions(self, model: Any, batch_data: Any, device: Any) -> Any:
        return model(batch_data[0]), batch_data[1], {}


def loader(num_samples: int = 14, batch_size: int = 4, **options: Any) -> Any:
    """Return a DataLoader whose dataset draws noise, with a ragged last batch."""
    return DataLoader(MapData(num_samples, noise=True), batch_size=batch_size, **options)


def make_loop(
    cls: Callable[..., Any] = TrainLoop,
    *args: Any,
    model: Any = None,
    test: Any = None,
    train: Any = None,
    val: Any = "default",
    lr: float = 0.05,
    **options: Any,
) -> Any:
    """Return a loop over tiny data: 14 samples in batches of 4, shuffled by the global generator.

    `args` follow the six arguments that all loops have.
    """
    model = TinyModel() if model is None else model
    train = loader(shuffle=True) if train is None else train
    val = loader(9) if isinstance(val, str) else val
    plain = getattr(model, "model", model)
    if isinstance(plain, TwoHeads):
        parts: list[Any] = [plain.layers, plain.second]
        optimizer: Any = MultiOptimizer([adam(part, lr) for part in parts])
    else:
        optimizer = adam(plain, lr)
    return cls(model, train, val, test, optimizer, nn.CrossEntropyLoss(), *args, **options)


def adam(module: Any, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=lr)


def mean_loss(model: Any, batches: Any, criterion: Any) -> float:
    """Return the mean loss over samples, in double precision."""
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad():
        for inputs, targets in batches:
            total += criterion(model(inputs), targets).item() * len(inputs)
            count += len(inputs)
    model.train()
    return total / count


class Recorder(AbstractCallback):
    """Notes which of its methods are called, and what the loop says then."""

    def __init__(self, note: Callable[[Any], Any] = lambda loop: None, **options: Any) -> None:
        super().__init__("recorder", **options)
        self.note = note
        self.calls: list[tuple[str, Any]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def _add(self, name: str) -> None:
        self.calls.append((name, self.note(self.train_loop_obj)))

    def on_train_loop_registration(self) -> None:
        self.train_loop_obj.grad_cb_used = True
        self._add("registration")

    def on_train_begin(self) -> None:
        self._add("train begin")

    def on_epoch_begin(self) -> None:
        self._add("epoch begin")

    def on_batch_begin(self) -> None:
        self._add("batch begin")

    def on_after_gradient_update(self, optimizer_idx: int) -> None:
        self._add(f"gradient {optimizer_idx}")

    def on_after_optimizer_step(self) -> None:
        self._add("step")

    def on_batch_end(self) -> None:
        self._add("batch end")

    def on_epoch_end(self) -> None:
        self._add("epoch end")

    def on_train_end(self) -> None:
        self._add("train end")


def state_of(loop: Any) -> list[torch.Tensor]:
    """Return copies of the weights of a loop's model."""
    return [tensor.detach().clone() for tensor in loop.model.state_dict().values()]
