"""Accumulated gradients equal those of the one big batch, and losses the mean over samples."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import Stream, tiny_data, tiny_model, tiny_trainer
from torch import nn

from loopwright.accumulation import Accumulation
from loopwright.trainer import Trainer

F64 = torch.float64


def relative_error(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest difference, in units of the largest entry."""
    largest = max(entry.abs().max().item() for entry in expected)
    pairs = zip(found, expected, strict=True)
    return max((a - b).abs().max().item() for a, b in pairs) / largest


class Checking(Trainer):
    """Compares the gradients of each update with those of all its samples at once."""

    reference: Callable[[nn.Module, list[Any]], torch.Tensor]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.pending: list[Any] = []
        self.updates: list[int] = []
        self.errors: list[float] = []
        super().__init__(*args, **kwargs)

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        self.pending.append(batch)
        return super().calculate_train_batch_loss(batch)

    def optimizer_step(self) -> None:
        parameters = list(self.model.parameters())
        found = [p.grad.clone() for p in parameters if p.grad is not None]
        expected = torch.autograd.grad(self.reference(self.model, self.pending), parameters)
        self.errors.append(relative_error(found, list(expected)))
        self.updates.append(len(self.pending))
        self.pending = []
        super().optimizer_step()


class Samples(Checking):
    def reference(self, model: nn.Module, batches: list[Any]) -> torch.Tensor:  # type: ignore[override]
        inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return nn.functional.cross_entropy(model(inputs), targets)


def updates_of(num_batches: int, accumulation: int) -> list[int]:
    full, rest = divmod(num_batches, accumulation)
    return [accumulation] * full + ([rest] if rest else [])


@pytest.mark.parametrize("accumulation", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("size", "batch_size"), [(23, 3), (21, 4), (16, 4), (5, 8)])
@pytest.mark.parametrize("iterable", [False, True], ids=["map", "iterable"])
def test_gradients_equal_those_of_one_batch(
    accumulation: int, size: int, batch_size: int, iterable: bool
) -> None:
    """P-56: whatever the tail, and also where nobody knows that it comes."""
    data: Any = Stream(size, dtype=F64) if iterable else tiny_data(size, dtype=F64)
    trainer = tiny_trainer(Samples, tiny_model(dtype=F64))
    trainer.train(
        data, 2, per_device_batch_size=batch_size, gradient_accumulation_steps=accumulation
    )
    assert trainer.updates == updates_of(-(-size // batch_size), accumulation) * 2
    assert trainer.progress.step == len(trainer.updates)
    assert max(trainer.errors) < 1e-12


IGNORED = -100


def token_data(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences [size, 4, 3] with tokens, of which a varying number counts."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(size, 4, 3, generator=generator, dtype=F64)
    targets = torch.randint(0, 3, (size, 4), generator=generator)
    counted = 1 + torch.randint(0, 4, (size, 1), generator=generator)
    return inputs, targets.masked_fill(torch.arange(4) >= counted, IGNORED)


class Tokens(Checking):
    """Has a loss that is a mean over tokens, and declares their number."""

    as_tensor = False

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        self.pending.append(batch)
        inputs, targets = batch
        outputs = self.model(inputs)
        loss = nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())
        count = (targets != IGNORED).sum()
        return {
            "loss": loss,
            "model_outputs": outputs,
            "batch_size": len(inputs),
            "num_items_in_batch": count if self.as_tensor else count.item(),
        }

    calculate_eval_batch_loss = calculate_train_batch_loss

    def reference(self, model: nn.Module, batches: list[Any]) -> torch.Tensor:  # type: ignore[override]
        inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


class TokensAsTensor(Tokens):
    as_tensor = True


@pytest.mark.parametrize("cls", [Tokens, TokensAsTensor])
@pytest.mark.parametrize("accumulation", [1, 2, 3, 4, 8])
def test_declared_items_weigh_gradients(cls: type[Tokens], accumulation: int) -> None:
    """P-62."""
    trainer = tiny_trainer(cls, tiny_model(dtype=F64))
    trainer.train(
        token_data(23), 2, per_device_batch_size=3, gradient_accumulation_steps=accumulation
    )
    assert max(trainer.errors) < 1e-12


@pytest.mark.parametrize("reads_losses_per_step", [True, False])
@pytest.mark.parametrize("cls", [Tokens, TokensAsTensor])
def test_recorded_losses_are_means_over_declared_items(
    cls: type[Tokens], reads_losses_per_step: bool
) -> None:
    """P-48, P-62: with a learning rate of zero every loss is the one of all data at once."""
    data = token_data(23)
    trainer = tiny_trainer(cls, tiny_model(dtype=F64), lr=0.0)
    trainer._reads_losses_per_step = reads_losses_per_step
    trainer.train(data, 1, data, per_device_batch_size=3, gradient_accumulation_steps=4)
    expected = trainer.reference(trainer.model, [data]).item()
    for name in ("train_loss_epoch", "eval_loss_epoch"):
        found = trainer.run_history.get_latest_metric(name)
        assert found == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("reads_losses_per_step", [True, False])
@pytest.mark.parametrize("accumulation", [1, 2, 3, 4, 8])
def test_the_recorded_loss_is_the_mean_over_samples(
    accumulation: int, reads_losses_per_step: bool
) -> None:
    """P-46 to P-48."""
    data = tiny_data(23, dtype=F64)
    trainer = tiny_trainer(model=tiny_model(dtype=F64), lr=0.0)
    trainer._reads_losses_per_step = reads_losses_per_step
    trainer.train(data, 2, data, per_device_batch_size=4, gradient_accumulation_steps=accumulation)
    expected = nn.functional.cross_entropy(trainer.model(data[0]), data[1]).item()
    for name in ("train_loss_epoch", "eval_loss_epoch"):
        values = trainer.run_history.get_metric_values(name)
        assert values == pytest.approx([expected] * 2, rel=1e-12, abs=0)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("empty", [0, 1, 2])
def test_a_micro_batch_without_items_weighs_nothing(empty: int, as_tensor: bool) -> None:
    counts = [0 if index == empty else index + 1 for index in range(3)]
    weight = torch.ones((), dtype=F64, requires_grad=True)
    accumulation = Accumulation(3, 3)
    for index, count in enumerate(counts):
        accumulation.begin(index)
        loss = weight * (index + 1.0) if count else weight * 0.0
        given = torch.tensor(count) if as_tensor else count
        accumulation.weigh(loss, given, None).backward()
        if index < 2:
            accumulation.end()
    accumulation.correct([weight], None)
    expected = sum(c * (i + 1.0) for i, c in enumerate(counts)) / sum(counts)
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(expected, rel=1e-12)


def test_equal_micro_batches_are_weighed_as_by_hand() -> None:
    """Bit for bit: a division by n, and no correction afterwards."""
    accumulation = Accumulation(3, None)
    loss = torch.tensor(0.7, dtype=F64)
    for index in range(3):
        accumulation.begin(index)
        assert accumulation.weigh(loss, 4, None).item() == (loss / 3).item()
        if index < 2:
            accumulation.end()
    parameter = torch.ones(2, requires_grad=True)
    parameter.grad = torch.full((2,), 0.1)
    accumulation.correct([parameter], None)
    assert torch.equal(parameter.grad, torch.full((2,), 0.1))


def test_an_update_knows_its_last_micro_batch() -> None:
    for length, expected in ((None, [False, False, True] * 2), (5, [False, False, True] * 1)):
        accumulation, found = Accumulation(3, length), []
        for index in range(len(expected)):
            accumulation.begin(index)
            found.append(accumulation.completes_update)
            accumulation.end()
        assert found == expected
    accumulation = Accumulation(3, 5)
    found = []
    for index in range(5):
        accumulation.begin(index)
        found.append(accumulation.completes_update)
        accumulation.end()
    assert found == [False, False, True, False, True]
    assert not accumulation.is_open
