"""Trainers by objective run their steps captured, with the numbers of eager mode."""

from pathlib import Path
from typing import Any

import pytest
import torch
from step_programs import run_uncompiled
from tiny import same, tiny_data, tiny_model, weights
from torch import nn

from loopwright.errors import NotSupportedError
from loopwright.models import autoencoder, vae
from loopwright.schedulers import Triangular
from loopwright.trainers import (
    AutoencoderTrainer,
    ClassificationTrainer,
    DenoisingAutoencoderTrainer,
    VaeTrainer,
)

OPTIONS = {
    "batch_size": 8,
    "learning_rate": 0.05,
    "seed": 3,
    "verbose": False,
    "save_every": 0,
    "optim_function": "SGD",
}


@pytest.fixture(autouse=True)
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let traced graphs run as they are, and return those that were made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return run_uncompiled(monkeypatch)


class Own(ClassificationTrainer):
    """Has a loop, a loss, and a module of its own, whose statistics a step changes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.norm = nn.BatchNorm1d(3, affine=False)
        super().__init__(*args, **options)

    def train_epoch(self) -> None:
        for batch in self.batches():
            self.train_step(batch)

    def calculate_batch_loss(self, batch: Any) -> dict[str, Any]:
        inputs, targets = batch
        outputs = self.model(self.norm(inputs))
        loss = self.criterion(outputs, targets)
        return {"loss": loss, "model_outputs": outputs, "batch_size": len(targets)}


def classify(kind: type[ClassificationTrainer], mode: str, **options: Any) -> Any:
    torch.manual_seed(7)
    data = {"train_dataset": tiny_data(44), "val_dataset": tiny_data(21), "num_epochs": 3}
    trainer = kind(tiny_model(dropout=0.3), step_mode=mode, **(OPTIONS | data | options))
    trainer.train()
    return trainer


@pytest.mark.parametrize("kind", [ClassificationTrainer, Own])
def test_classification_is_captured(kind: type[ClassificationTrainer], graphs: list[Any]) -> None:
    """Dropout, a rate that changes in each step, accumulation, history, accuracy."""
    options = {"lr_scheduler": Triangular(lr_max=0.1, stepsize=4), "gradient_accumulation_steps": 2}
    if kind is Own:
        options["val_dataset"] = None  # the module of its own goes on counting there
    eager, captured = (classify(kind, mode, **options) for mode in ("eager", "capture"))
    assert captured.trainer.step_report.choice == "capture"
    assert len(graphs) == (2 if kind is Own else 3)  # parts of an update, and evaluation
    for one, other in zip(weights(eager), weights(captured), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert captured.get_loss_history() == pytest.approx(eager.get_loss_history(), rel=1e-4)
    if kind is not Own:
        assert (captured.get_acc_history() == eager.get_acc_history()).all()
    else:
        torch.testing.assert_close(captured.norm.running_mean, eager.norm.running_mean)
        assert captured.norm.num_batches_tracked == eager.norm.num_batches_tracked


def test_what_the_owner_needs_is_asked_for() -> None:
    class Hooked(Own):
        needs_eager_steps = True

    with pytest.raises(NotSupportedError, match="Hooked has to run in the middle of a step"):
        classify(Hooked, "capture")
    with pytest.raises(ValueError, match="step_mode is 'fast'"):
        ClassificationTrainer(tiny_model(), step_mode="fast")


def test_a_loop_of_its_own_is_told_that_step_mode_is_left_to_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Plain(ClassificationTrainer):
        def train_epoch(self) -> None:
            for inputs, targets in self.train_loader:
                self.criterion(self.model(inputs), targets).backward()
                self.optimizer.step()
                self.optimizer.zero_grad()

    classify(Plain, "capture", verbose=True)
    assert "step_mode are left to it" in capsys.readouterr().out


def test_a_checkpoint_of_a_captured_run_is_gone_on_from_to_the_same_bits(tmp_path: Path) -> None:
    whole = classify(ClassificationTrainer, "capture")
    classify(ClassificationTrainer, "capture", num_epochs=1).save_checkpoint(tmp_path / "one")
    resumed = ClassificationTrainer(
        tiny_model(dropout=0.3),
        step_mode="capture",
        **(OPTIONS | {"train_dataset": tiny_data(44), "val_dataset": tiny_data(21)}),
    )
    resumed.load_checkpoint(tmp_path / "one")
    resumed.set_num_epochs(3)
    resumed.train()
    assert resumed.trainer.step_report == whole.trainer.step_report
    assert same(weights(resumed), weights(whole))


def images(mode: str, kind: Any, make: Any, **options: Any) -> Any:
    torch.manual_seed(4)
    model = make([1, 4, 4], code_size=3)
    samples = torch.rand(40, 1, 4, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    trainer = kind(model, None, optimizer, (), seed=3, device="cpu", step_mode=mode, **options)
    trainer.train((samples,), 2, (samples[:21],), per_device_batch_size=8)
    return trainer


KINDS = {
    "plain": (AutoencoderTrainer, autoencoder, {}),
    "denoising": (DenoisingAutoencoderTrainer, autoencoder, {"noise": 0.2, "masked": 0.1}),
    "vae": (VaeTrainer, vae, {"beta": 0.5}),
}


@pytest.mark.parametrize("name", KINDS)
def test_autoencoders_are_captured(name: str) -> None:
    """Corruption and codes are drawn anew in each step, and are those of eager mode."""
    kind, make, options = KINDS[name]
    runs = []
    for mode in ("eager", "capture"):
        trainer = images(mode, kind, make, **options)
        runs.append((trainer, torch.get_rng_state()))
    (eager, drawn), (captured, drawn_too) = runs
    assert captured.step_report.choice == "capture"
    assert torch.equal(drawn, drawn_too)
    for one, other in zip(weights(eager), weights(captured), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    for name in ("train_loss_epoch", "eval_loss_epoch"):
        values = eager.run_history.get_metric_values(name)
        assert captured.run_history.get_metric_values(name) == pytest.approx(values, rel=1e-4)
