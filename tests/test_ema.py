"""An exponential moving average of weights."""

import pytest
import torch
from tiny import same, tiny_model
from torch import nn

from loopwright.ema import ModelEma


def shift(model: nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by


def test_the_average() -> None:
    model = tiny_model(dtype=torch.float64)
    start = [p.detach().clone() for p in model.parameters()]
    ema = ModelEma(model, decay=0.75)
    shift(model, 1.0)
    ema.update(model)
    shift(model, 1.0)
    ema.update(model)
    for averaged, first in zip(ema.module.parameters(), start, strict=True):
        expected = 0.75 * (0.75 * first + 0.25 * (first + 1)) + 0.25 * (first + 2)
        assert torch.allclose(averaged, expected, rtol=1e-14)
    ema.set(model)
    assert same(ema.module.parameters(), model.parameters())


def test_the_copy_is_apart_and_for_evaluation() -> None:
    model = tiny_model().train()
    ema = ModelEma(model)
    assert ema.decay == 0.9999
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    shift(model, 1.0)
    assert not same(ema.module.parameters(), model.parameters())


class Special(nn.Module):
    """Has tied weights, running statistics, a counter, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("scale", torch.ones(2), persistent=False)
        self.scale: torch.Tensor


def test_tied_weights_and_buffers() -> None:
    model = Special()
    ema = ModelEma(model, decay=0.5)
    before = model.first.weight.detach().clone()
    shift(model, 1.0)
    model.scale += 2
    model.norm.running_mean += 4  # type: ignore[operator]
    model.norm.num_batches_tracked += 7  # type: ignore[operator]
    ema.update(model)
    assert torch.allclose(ema.module.first.weight, before + 0.5)  # type: ignore[union-attr,operator]
    assert ema.module.second.weight is ema.module.first.weight  # type: ignore[union-attr]
    assert torch.equal(ema.module.scale, torch.full((2,), 2.0))  # type: ignore[arg-type]
    assert ema.module.norm.running_mean.tolist() == [2.0, 2.0]  # type: ignore[union-attr]
    assert ema.module.norm.num_batches_tracked == 7  # type: ignore[union-attr]


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        ModelEma(tiny_model(), decay)


def test_another_rule() -> None:
    class Largest(ModelEma):
        def update_fn(self, averaged: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
            return torch.maximum(averaged, present)

    model = tiny_model()
    ema = Largest(model)
    shift(model, 1.0)
    ema.update(model)
    assert same(ema.module.parameters(), model.parameters())
