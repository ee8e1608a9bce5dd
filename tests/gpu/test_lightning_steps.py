"""The steps of a `LightningModule` as CUDA graphs: the weights of eager runs."""

from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="needs lightning")

from lightning import LightningModule
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from loopwright.adapters.lightning import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Network(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, eps=1e-3, fused=True)


def fit(mode: Any, **options: Any) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(250, 16, generator=generator)
    data = TensorDataset(inputs, torch.randint(0, 4, (250,), generator=generator))
    torch.manual_seed(0)
    module = Network()
    trainer = Trainer(
        accelerator="gpu",
        max_epochs=3,
        step_mode=mode,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(data, batch_size=16, shuffle=True))
    return trainer, module


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_clip_val": 0.5},
        {"accumulate_grad_batches": 2},
        {"precision": "bf16-mixed"},
    ],
    ids=["plain", "clip", "accumulate", "bf16"],
)
def test_captured_steps_are_those_of_eager(options: dict[str, Any]) -> None:
    (theirs, eager), (ours, captured) = (fit(mode, **options) for mode in ("eager", "capture"))
    assert ours.step_report.choice == "capture"
    assert ours.global_step == theirs.global_step
    tolerance = 5e-2 if "precision" in options else 1e-3
    for name, value in eager.state_dict().items():
        other = captured.state_dict()[name]
        torch.testing.assert_close(value, other, rtol=tolerance, atol=tolerance)
    mine, other_loss = (float(each.callback_metrics["train_loss"]) for each in (theirs, ours))
    assert mine == pytest.approx(other_loss, rel=tolerance)
