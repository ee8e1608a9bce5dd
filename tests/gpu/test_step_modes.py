"""Steps as CUDA graphs: the weights, draws and guards of eager runs, on the device itself."""

from typing import Any

import pytest
import torch
from torch import nn

from loopwright import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def make_data(num_samples: int = 250) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(num_samples, 16, generator=generator)
    return features, torch.randint(0, 4, (num_samples,), generator=generator)


def train(mode: str, data: Any = None, *, form: str = "fused", **options: Any) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-3, **{form: True})
    precision = options.pop("precision", "fp32")
    trainer = Trainer(
        model,
        nn.CrossEntropyLoss(),
        optimizer,
        device="cuda",
        seed=1,
        step_mode=mode,  # type: ignore[arg-type]
        precision=precision,
    )
    torch.cuda.manual_seed(3)
    trainer.train(data or make_data(), num_epochs=3, per_device_batch_size=16, **options)
    return trainer


@pytest.mark.parametrize("form", ["fused", "capturable"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_clip_norm": 0.5},
        {"gradient_accumulation_steps": 2},
        {"precision": "bf16"},
        {"create_scheduler_fn": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.99)},
    ],
    ids=["plain", "clip", "accumulate", "bf16", "schedule"],
)
def test_captured_steps_are_those_of_eager(options: dict[str, Any], form: str) -> None:
    eager, captured = (train(mode, form=form, **options) for mode in ("eager", "capture"))
    assert captured.step_report.choice == "capture"
    tolerance = 5e-2 if "precision" in options else 1e-3
    for one, other in zip(
        eager.model.state_dict().values(), captured.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    features, targets = make_data()
    features[100] = float("nan")
    trainer = train("capture", (features, targets))
    assert "nan" in trainer.stop_reason
    assert all(weight.isfinite().all() for weight in trainer.model.parameters())


def test_compiled_and_automatic_steps_train() -> None:
    for mode in ("compile", "auto"):
        losses = train(mode).run_history.get_metric_values("train_loss_epoch")
        assert losses[-1] < losses[0]
