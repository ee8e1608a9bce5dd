"""Tests of metrics in a run that goes on in the middle of an epoch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loopwright.callbacks import MetricsCallback
from loopwright.components.metrics import Accuracy
from loopwright.events import StopTrainingError, TrainerCallback
from loopwright.trainer import Trainer

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(22, 4, generator=GENERATOR)
TARGETS = torch.randint(0, 3, (22,), generator=GENERATOR)


class SaveAt(TrainerCallback):
    """Saves the training state before the third micro-batch of the second epoch, and ends there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_step_start(self, trainer: Trainer, **kwargs: Any) -> None:
        if trainer.progress.epoch == 2 and trainer.progress.micro_batch == 2:
            trainer.save_training_state(self.folder)
            raise StopTrainingError("saved")


class Counted:
    """Is a metric that counts samples, and offers no way to read its state."""

    def __init__(self) -> None:
        self.count = 0

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.count += len(targets)

    def compute(self) -> int:
        return self.count

    def reset(self) -> None:
        self.count = 0


def history_of(
    make: Callable[[], Any], *callbacks: TrainerCallback, resume: Path | None = None
) -> list[float]:
    torch.manual_seed(1)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    metrics = MetricsCallback({"m": make()}, train_metrics={"m": make()})
    trainer = Trainer(
        model, nn.functional.cross_entropy, optimizer, [metrics, *callbacks], device="cpu"
    )
    trainer.train((INPUTS, TARGETS), 3, per_device_batch_size=4, resume_from=resume)
    return list(trainer.run_history.get_metric_values("train_m"))


def of_torchmetrics(name: str) -> Callable[[], Any]:
    def make() -> Any:
        package = pytest.importorskip("torchmetrics")
        return getattr(package, name)(task="multiclass", num_classes=3)

    return make


@pytest.mark.parametrize(
    "make",
    [Accuracy, of_torchmetrics("Accuracy"), of_torchmetrics("AUROC")],
    ids=["ours", "sums", "lists"],
)
def test_a_metric_of_training_counts_on_after_a_resumption(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    whole = history_of(make)
    history_of(make, SaveAt(tmp_path / "state"))
    assert history_of(make, resume=tmp_path / "state") == whole
    assert len(whole) == 3


def test_a_metric_without_a_state_is_told(tmp_path: Path) -> None:
    history_of(Counted, SaveAt(tmp_path / "state"))
    with pytest.warns(UserWarning, match="holds no state of m"):
        assert history_of(Counted, resume=tmp_path / "state") == [22, 14, 22]
