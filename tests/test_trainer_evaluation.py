"""Evaluation counts every sample once and leaves everything as it was."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from tiny import global_states, same, tiny_data, tiny_model, tiny_trainer, weights
from torch import nn

from loopwright.seed import random_states, restore_random_states
from loopwright.trainer import Trainer


class Everything(nn.Module):
    """Has what evaluation could change: dropout, running statistics, a part kept in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, dtype=torch.float64)
        self.frozen = nn.BatchNorm1d(3, dtype=torch.float64).eval()
        self.body = tiny_model(dropout=0.5, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.body(self.frozen(self.norm(x)))
        return output


def observed(trainer: Any) -> dict[str, Any]:
    """All that evaluation must leave as it was."""
    return {
        "weights": deepcopy(trainer.model.state_dict()),
        "optimizer": deepcopy(trainer.optimizer.state_dict()),
        "random": global_states(),
        "modes": [module.training for module in trainer.model.modules()],
        "gradients": [p.grad is None for p in trainer.model.parameters()],
    }


def assert_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, Mapping):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


@pytest.mark.parametrize("size", range(12, 17))
def test_evaluation_counts_every_sample_once_and_changes_nothing(size: int) -> None:
    """P-46, P-47, P-52, P-64: with batch sizes 1 to 6, in memory and map-style."""
    model = Everything()
    trainer = tiny_trainer(model=model)
    data = tiny_data(size, dtype=torch.float64)
    trainer.train(data, 1, per_device_batch_size=5, train_dataloader_kwargs={"drop_last": True})
    model.frozen.eval()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(deepcopy(model).eval()(data[0]), data[1]).item()
    for batch_size in range(1, 7):
        seen = []
        trainer.calculate_eval_batch_loss = lambda batch, seen=seen: (
            seen.append(batch[0]),
            Trainer.calculate_eval_batch_loss(trainer, batch),
        )[1]
        before = observed(trainer)
        trainer.evaluate(data, batch_size)
        assert_equal(observed(trainer), before)
        found = trainer.run_history.get_latest_metric("evaluation_loss")
        assert found == pytest.approx(expected, rel=1e-12, abs=0)
        assert torch.equal(torch.cat(seen), data[0])
        assert not any(batch.requires_grad for batch in seen)


def test_evaluation_that_draws_leaves_the_random_state() -> None:
    """The user's own code may draw; the draws do not shift those of training."""

    class Drawing(Trainer):
        def calculate_eval_batch_loss(self, batch: Any) -> Any:
            torch.rand(3)
            return super().calculate_eval_batch_loss(batch)

    trainer = tiny_trainer(Drawing, tiny_model(dropout=0.5))
    before = global_states()
    trainer.evaluate(tiny_data())
    assert global_states() == before
    states = random_states()
    trainer.train(tiny_data(), 2)
    alone = weights(trainer)
    restore_random_states(states)
    other = tiny_trainer(Drawing, tiny_model(dropout=0.5))
    other.train(tiny_data(), 2, tiny_data())
    assert same(alone, weights(other))
