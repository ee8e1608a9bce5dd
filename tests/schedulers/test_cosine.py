"""The cosine schedule against its formula, written out a second time."""

import json
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from loopwright.placeholders import TrainerPlaceholderValues
from loopwright.schedulers import CosineLrScheduler

RATES = (0.01, 0.002)


def make_optimizer() -> torch.optim.Optimizer:
    weight, bias = nn.Linear(2, 1).parameters()
    return torch.optim.SGD([{"params": weight}, {"params": bias, "lr": RATES[1]}], lr=RATES[0])


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def run(scheduler: CosineLrScheduler, num_steps: int) -> list[list[float]]:
    seen = []
    for _ in range(num_steps):
        scheduler.step()
        seen.append(rates(scheduler.optimizer))
    return seen


def test_every_value_of_a_small_schedule() -> None:
    """One group, 2 epochs of warm-up, 4 of cosine, 2 of cool-down, one update in an epoch."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    scheduler = CosineLrScheduler(
        optimizer,
        total_num_epochs=8,
        num_update_steps_per_epoch=1,
        lr_min=0.2,
        num_warmup_epochs=2,
        warmup_starting_lr=0.5,
        num_cooldown_epochs=2,
    )
    half = math.sqrt(0.5)
    expected = [0.5, 0.75, 1.0, 0.6 + 0.4 * half, 0.6, 0.6 - 0.4 * half, 0.2, 0.2, 0.2, 0.2]
    assert [values[0] for values in run(scheduler, 10)] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("k_decay", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("num_cooldown_epochs", [0, 2])
@pytest.mark.parametrize("num_warmup_epochs", [0, 3])
@pytest.mark.parametrize("ratios", [False, True])
def test_every_value_equals_the_formula(
    num_warmup_epochs: int, num_cooldown_epochs: int, k_decay: float, ratios: bool
) -> None:
    """P-103."""
    by_ratio: dict[str, Any] = {"min_lr_ratio": 0.1, "warmup_starting_lr_ratio": 0.05}
    optimizer = make_optimizer()
    scheduler = CosineLrScheduler(
        optimizer,
        total_num_epochs=10,
        num_update_steps_per_epoch=7,
        k_decay=k_decay,
        lr_min=1e-5,
        num_warmup_epochs=num_warmup_epochs,
        warmup_starting_lr=1e-4,
        num_cooldown_epochs=num_cooldown_epochs,
        **(by_ratio if ratios else {}),
    )
    warmup, end = 7 * num_warmup_epochs, 70 - 7 * num_cooldown_epochs
    for n, values in enumerate(run(scheduler, 80)):
        for rate, value in zip(RATES, values, strict=True):
            start = 0.05 * rate if ratios else 1e-4
            low = 0.1 * rate if ratios else 1e-5
            if n < warmup:
                expected = start + n * (rate - start) / warmup
            elif n < end:
                angle = math.pi * (n - warmup) ** k_decay / (end - warmup) ** k_decay
                expected = low + 0.5 * (rate - low) * (1 + math.cos(angle))
            else:
                expected = low
            assert value == pytest.approx(expected, rel=1e-12), f"after {n} updates"


def test_both_ends_are_met_to_the_bit() -> None:
    optimizer = make_optimizer()
    scheduler = CosineLrScheduler(optimizer, 3, 10, min_lr_ratio=0.3, num_warmup_epochs=1)
    seen = run(scheduler, 31)
    assert seen[10] == list(RATES)
    assert seen[30] == [0.3 * rate for rate in RATES]
    assert seen[29] != seen[30], "the cosine ends with the run, not before"


def test_creation_sets_the_first_value() -> None:
    optimizer = make_optimizer()
    CosineLrScheduler(optimizer, 5, 2, num_warmup_epochs=1, warmup_starting_lr_ratio=0.1)
    assert rates(optimizer) == [0.1 * rate for rate in RATES]
    plain = make_optimizer()
    CosineLrScheduler(plain, 5, 2)
    assert rates(plain) == list(RATES)


def test_warm_up_and_cool_down_may_fill_the_run() -> None:
    scheduler = CosineLrScheduler(
        make_optimizer(), 4, 1, num_warmup_epochs=2, num_cooldown_epochs=2, warmup_starting_lr=0.0
    )
    assert [values[0] for values in run(scheduler, 4)] == [0.0, 0.005, 1e-6, 1e-6]


@pytest.mark.parametrize("num_steps", [0, 3, 12, 25])
def test_a_state_goes_through_json_and_restores_the_schedule(num_steps: int) -> None:
    optimizer = make_optimizer()
    scheduler = CosineLrScheduler(optimizer, 6, 4, k_decay=1.5, num_warmup_epochs=2)
    run(scheduler, num_steps)
    state = json.loads(json.dumps(scheduler.state_dict()))

    other_optimizer = make_optimizer()
    for group in other_optimizer.param_groups:
        group["lr"] = 5.0
    other = CosineLrScheduler(other_optimizer, 60, 5, lr_min=0.5, num_cooldown_epochs=1)
    other.load_state_dict(state)
    assert rates(other_optimizer) == rates(optimizer)
    assert other.state_dict() == scheduler.state_dict()
    assert run(other, 10) == run(scheduler, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_num_epochs": 0}, "total_num_epochs=0 has to be greater than 0"),
        ({"num_update_steps_per_epoch": -1}, "num_update_steps_per_epoch=-1"),
        ({"k_decay": 0}, "k_decay=0"),
        ({"lr_min": -0.1}, "lr_min=-0.1 has to be 0 or greater"),
        ({"min_lr_ratio": -0.1}, "min_lr_ratio=-0.1"),
        ({"num_warmup_epochs": -1}, "num_warmup_epochs=-1"),
        ({"warmup_starting_lr": -1.0}, "warmup_starting_lr=-1.0"),
        ({"lr_min": float("nan")}, "lr_min=nan"),
        ({"num_warmup_epochs": 3, "num_cooldown_epochs": 3}, "do not fit into total_num_epochs=5"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    settings = {"total_num_epochs": 5, "num_update_steps_per_epoch": 2} | arguments
    optimizer = make_optimizer()
    with pytest.raises(ValueError, match=message):
        CosineLrScheduler(optimizer, **settings)
    assert "initial_lr" not in optimizer.param_groups[0], "a refused schedule leaves no trace"


def test_the_function_for_the_trainer_leaves_the_length_to_it() -> None:
    create = CosineLrScheduler.create_scheduler_fn(num_warmup_epochs=1, k_decay=2.0)
    assert isinstance(create, partial)
    assert create.keywords["total_num_epochs"] is TrainerPlaceholderValues.NUM_EPOCHS
    assert (
        create.keywords["num_update_steps_per_epoch"]
        is TrainerPlaceholderValues.NUM_UPDATE_STEPS_PER_EPOCH
    )
    made = CosineLrScheduler.create_scheduler_fn(4, 5, num_warmup_epochs=1, k_decay=2.0)(
        make_optimizer()
    )
    assert isinstance(made, CosineLrScheduler)
    assert made.state_dict() == (
        CosineLrScheduler(make_optimizer(), 4, 5, num_warmup_epochs=1, k_decay=2.0).state_dict()
    )
