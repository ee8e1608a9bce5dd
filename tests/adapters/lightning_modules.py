"""Modules and data that the tests of the adapter train beside Lightning's own trainer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import tiny_data
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning", reason="needs lightning")

import lightning
from lightning import LightningModule

from loopwright.adapters.lightning import Trainer

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
BOTH = {"lightning": lightning.Trainer, "loopwright": Trainer}


class Classifier(LightningModule):
    """A network with dropout and batch norm; `configure` makes what it trains with."""

    def __init__(self, configure: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        self.configure = configure or (lambda self: torch.optim.Adam(self.parameters(), 0.02))

    def loss(self, batch: Any) -> torch.Tensor:
        inputs, targets = batch
        return cross_entropy(self.net(inputs), targets)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(batch[0])

    def configure_optimizers(self) -> Any:
        return self.configure(self)


def loader(num_samples: int = 22, batch_size: int = 4, **options: Any) -> DataLoader[Any]:
    """Return a loader of tiny data; 22 samples leave a ragged tail."""
    data = TensorDataset(*tiny_data(num_samples))
    return DataLoader(data, batch_size=batch_size, **options)


def trainer_of(kind: str, **options: Any) -> Any:
    """Return Lightning's trainer or the adapter's, silent and without files."""
    return BOTH[kind](**QUIET | {"max_epochs": 3} | options)


def fitted(
    kind: str,
    make: Callable[[], Any] = Classifier,
    data: Callable[[], tuple[Any, ...]] | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """Return a trainer and the module that it trained, from a fixed seed."""
    torch.manual_seed(5)
    module = make()
    trainer = trainer_of(kind, **options)
    loaders = (loader(shuffle=True), loader(batch_size=8)) if data is None else data()
    trainer.fit(module, *loaders)
    return trainer, module


def state_of(module: Any) -> list[torch.Tensor]:
    """Return the weights and buffers of a module."""
    return [value.detach().clone() for value in module.state_dict().values()]


def metrics_of(trainer: Any) -> dict[str, float]:
    """Return what callbacks can read of what was logged."""
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
