"""The warm-up, stable, decay schedule against its formula, its periods and its states."""

import json
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from loopwright.placeholders import TrainerPlaceholderValues
from loopwright.schedulers import CosineLrScheduler, WSDLrScheduler

RATES = (0.01, 0.002)


def make_optimizer() -> torch.optim.Optimizer:
    weight, bias = nn.Linear(2, 1).parameters()
    return torch.optim.SGD([{"params": weight}, {"params": bias, "lr": RATES[1]}], lr=RATES[0])


def rates(scheduler: Any) -> list[float]:
    return [group["lr"] for group in scheduler.optimizer.param_groups]


def run(scheduler: WSDLrScheduler, num_steps: int) -> list[list[float]]:
    seen = []
    for _ in range(num_steps):
        scheduler.step()
        seen.append(rates(scheduler))
    return seen


def through_json(scheduler: WSDLrScheduler) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(json.dumps(scheduler.state_dict()))
    return state


def test_every_value_of_a_small_schedule() -> None:
    """16 updates, 2 of warm-up, a checkpoint at 8 and one at 16, each after 4 of decay."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    scheduler = WSDLrScheduler(
        optimizer,
        total_steps=16,
        num_warmup_steps=2,
        warmup_starting_lr=0.5,
        decay_phase_ratio=0.5,
        lr_min=0.2,
        num_checkpoints=2,
    )
    # 1 - 0.8 * sqrt(t), for t in quarters.
    decay = [1.0, 0.6, 1 - 0.8 * math.sqrt(0.5), 1 - 0.8 * math.sqrt(0.75)]
    expected = [0.5, 0.75, 1.0, 1.0, *decay, 1.0, 1.0, 1.0, 1.0, *decay, 0.2, 0.2]
    assert [values[0] for values in run(scheduler, 18)] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("use_inverse_sqrt_decay", [True, False])
@pytest.mark.parametrize("num_warmup_steps", [0, 11])
@pytest.mark.parametrize("num_checkpoints", [1, 2, 3, 5])
def test_every_value_equals_the_formula(
    num_checkpoints: int, num_warmup_steps: int, use_inverse_sqrt_decay: bool
) -> None:
    """P-103."""
    total, ratio, low = 203, 0.3, 0.05
    scheduler = WSDLrScheduler(
        make_optimizer(),
        total_steps=total,
        num_warmup_steps=num_warmup_steps,
        decay_phase_ratio=ratio,
        lr_min=low,
        use_inverse_sqrt_decay=use_inverse_sqrt_decay,
        num_checkpoints=num_checkpoints,
    )
    bounds = [0, *(total // 2**k for k in range(num_checkpoints - 1, -1, -1))]
    for n, values in enumerate(run(scheduler, total + 10)):
        period = max(i for i in range(num_checkpoints) if n >= bounds[i])
        start, end = bounds[period], bounds[period + 1]
        decay_steps = int((end - start) * ratio)
        t = max(0.0, min(1.0, (n - (end - decay_steps)) / decay_steps))
        if use_inverse_sqrt_decay:
            factor = low + (1 - low) * (1 - math.sqrt(t))
        else:
            factor = 1 / (t * (1 / low) + (1 - t))
        for rate, value in zip(RATES, values, strict=True):
            expected = rate * factor
            if n < num_warmup_steps:
                expected = 1e-6 + n / num_warmup_steps * (rate - 1e-6)
            assert value == pytest.approx(expected, rel=1e-12), f"after {n} updates"


@pytest.mark.parametrize("use_inverse_sqrt_decay", [True, False])
@pytest.mark.parametrize("lr_min", [0.1, 0.3, 1e-6])
def test_both_ends_of_the_decay_are_met_to_the_bit(
    lr_min: float, use_inverse_sqrt_decay: bool
) -> None:
    scheduler = WSDLrScheduler(
        make_optimizer(),
        total_steps=50,
        lr_min=lr_min,
        use_inverse_sqrt_decay=use_inverse_sqrt_decay,
        num_checkpoints=2,
    )
    seen = run(scheduler, 60)
    assert seen[0] == seen[23] == seen[25] == seen[48] == list(RATES)
    assert seen[24] != list(RATES)
    assert seen[50] == seen[59] == [rate * lr_min for rate in RATES]


@pytest.mark.parametrize(
    ("total_steps", "num_checkpoints", "expected"),
    [
        (1000, 1, [1000]),
        (100_000, 2, [50_000, 100_000]),
        (200_000, 3, [50_000, 100_000, 200_000]),
        (200_000, 4, [25_000, 50_000, 100_000, 200_000]),
        (50, 3, [12, 25, 50]),
        (4, 3, [1, 2, 4]),
    ],
)
def test_checkpoints_halve_from_the_end(
    total_steps: int, num_checkpoints: int, expected: list[int]
) -> None:
    scheduler = WSDLrScheduler(
        make_optimizer(), total_steps=total_steps, num_checkpoints=num_checkpoints
    )
    assert scheduler.get_checkpoint_steps() == expected


def test_periods_tell_where_they_begin_decay_and_end() -> None:
    scheduler = WSDLrScheduler(
        make_optimizer(), total_steps=100, num_checkpoints=2, decay_phase_ratio=0.1
    )
    first = {"period_start": 0, "period_end": 50, "decay_steps": 5, "pre_decay_step": 45}
    second = {"period_start": 50, "period_end": 100, "decay_steps": 5, "pre_decay_step": 95}
    assert scheduler.get_decay_info() == [first, second]
    assert [scheduler.get_phase_info(step) for step in (0, 1, 50)] == [first] * 3
    assert [scheduler.get_phase_info(step) for step in (51, 100, 101)] == [second] * 3


def test_what_is_returned_can_be_changed_freely() -> None:
    scheduler = WSDLrScheduler(make_optimizer(), total_steps=100)
    scheduler.get_decay_info()[0]["period_end"] = 7
    scheduler.get_phase_info(1)["period_end"] = 7
    scheduler.get_updated_values(5).clear()
    assert scheduler.get_checkpoint_steps() == [100]
    assert scheduler.get_updated_values(5) == list(RATES)


def test_the_current_step_counts_completed_updates() -> None:
    scheduler = WSDLrScheduler(make_optimizer(), total_steps=8, num_checkpoints=2)
    seen = [(scheduler.get_current_step(), scheduler.previous_checkpoint_step)]
    for _ in range(8):
        scheduler.step()
        seen.append((scheduler.get_current_step(), scheduler.previous_checkpoint_step))
    assert seen == [(0, None), (1, None), (2, None), (3, None)] + [
        (4, 4), (5, 4), (6, 4), (7, 4), (8, 8)
    ]  # fmt: skip
    assert scheduler.get_current_phase_info() == scheduler.get_decay_info()[1]


def test_a_period_too_short_to_decay_stays_at_the_full_rate() -> None:
    scheduler = WSDLrScheduler(make_optimizer(), total_steps=5, decay_phase_ratio=0.1)
    assert run(scheduler, 7) == [list(RATES)] * 7


@pytest.mark.parametrize(
    ("num_warmup_steps", "expected"), [(None, 10), (0, 0), (25, 25), (1000, 1000)]
)
def test_warm_up_is_one_percent_if_asked_for(num_warmup_steps: int | None, expected: int) -> None:
    scheduler = WSDLrScheduler(
        make_optimizer(), total_steps=1000, num_warmup_steps=num_warmup_steps
    )
    assert scheduler.num_warmup_steps == expected
    assert rates(scheduler) == ([1e-6, 1e-6] if expected else list(RATES))


@pytest.mark.parametrize("num_steps", [0, 1, 5, 47, 60, 100])
def test_a_state_goes_through_json_and_restores_the_schedule(num_steps: int) -> None:
    scheduler = WSDLrScheduler(
        make_optimizer(), total_steps=100, num_warmup_steps=10, num_checkpoints=2
    )
    run(scheduler, num_steps)
    other = WSDLrScheduler(make_optimizer(), total_steps=7, lr_min=0.5)
    other.load_state_dict(through_json(scheduler))
    assert rates(other) == rates(scheduler)
    assert other.state_dict() == scheduler.state_dict()
    assert other.get_current_step() == num_steps
    assert run(other, 20) == run(scheduler, 20)


@pytest.mark.parametrize("total_steps", [20, 50])
@pytest.mark.parametrize("num_steps", [40, 50])
def test_a_continuation_counts_from_zero_without_warm_up(num_steps: int, total_steps: int) -> None:
    """From before the decay (WSD) and from after it (WSD-S), as long as before or not."""
    scheduler = WSDLrScheduler(
        make_optimizer(), total_steps=50, num_warmup_steps=10, lr_min=0.25, decay_phase_ratio=0.2
    )
    run(scheduler, num_steps)
    continued = WSDLrScheduler(
        make_optimizer(), total_steps=total_steps, is_continuation_from_checkpoint=True
    )
    continued.load_state_dict(through_json(scheduler))
    assert rates(continued) == list(RATES), "the first update runs at the full rate"
    assert continued.get_current_step() == 0
    assert continued.previous_checkpoint_step is None
    assert continued.get_checkpoint_steps() == [total_steps]
    assert continued.decay_phase_ratio == 0.2
    seen = run(continued, total_steps + 1)
    stable = total_steps * 4 // 5 + 1
    assert seen[:stable] == [list(RATES)] * stable
    assert seen[stable][0] < RATES[0]
    assert seen[total_steps] == [rate * 0.25 for rate in RATES]


def test_an_interrupted_continuation_is_restored_as_it_was() -> None:
    scheduler = WSDLrScheduler(make_optimizer(), total_steps=50)
    run(scheduler, 45)
    state = through_json(scheduler)

    def continuation() -> WSDLrScheduler:
        return WSDLrScheduler(
            make_optimizer(), total_steps=30, is_continuation_from_checkpoint=True
        )

    continued = continuation()
    continued.load_state_dict(state)
    run(continued, 29)
    resumed = continuation()
    resumed.load_state_dict(through_json(continued))
    assert resumed.get_current_step() == 29
    assert run(resumed, 3) == run(continued, 3)


def test_a_continuation_can_be_continued() -> None:
    finished = WSDLrScheduler(
        make_optimizer(), total_steps=30, is_continuation_from_checkpoint=True
    )
    run(finished, 30)
    following = WSDLrScheduler(
        make_optimizer(), total_steps=30, is_continuation_from_checkpoint=True
    )
    following.load_state_dict(through_json(finished))
    assert following.get_current_step() == 0, "a finished run is continued"

    unfinished = WSDLrScheduler(
        make_optimizer(), total_steps=30, is_continuation_from_checkpoint=True
    )
    run(unfinished, 28)
    following.load_state_dict(through_json(unfinished))
    assert following.get_current_step() == 28
    following.start_continuation()
    assert following.get_current_step() == 0
    assert rates(following) == list(RATES)

    longer = WSDLrScheduler(make_optimizer(), total_steps=40, is_continuation_from_checkpoint=True)
    longer.load_state_dict(through_json(unfinished))
    assert (longer.get_current_step(), longer.total_steps) == (0, 40)


def test_a_continuation_takes_only_states_of_this_schedule() -> None:
    continued = WSDLrScheduler(
        make_optimizer(), total_steps=30, is_continuation_from_checkpoint=True
    )
    with pytest.raises(ValueError, match="no state of a WSDLrScheduler"):
        continued.load_state_dict(CosineLrScheduler(make_optimizer(), 3, 10).state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_steps": 0}, "total_steps=0 has to be greater than 0"),
        ({"num_checkpoints": 0}, "num_checkpoints=0"),
        ({"decay_phase_ratio": 1.5}, "decay_phase_ratio=1.5 has to be from 0 to 1"),
        ({"lr_min": -0.1}, "lr_min=-0.1 has to be 0 or greater"),
        ({"lr_min": 0, "use_inverse_sqrt_decay": False}, "lr_min=0 cannot be reached"),
        ({"num_warmup_steps": -1}, "num_warmup_steps=-1"),
        ({"num_warmup_steps": 101}, "num_warmup_steps=101 exceeds the 100 steps"),
        ({"num_warmup_steps": 5, "warmup_starting_lr": 0.1}, "warmup_starting_lr=0.1 is above"),
        ({"total_steps": 3, "num_checkpoints": 3}, "needs at least 4 steps"),
        ({"num_epochs": 2}, "Give either total_steps or both"),
        ({"num_epochs": 2, "num_update_steps_per_epoch": 5}, "Give either total_steps or both"),
        ({"total_steps": None}, "Give either total_steps or both"),
        ({"total_steps": None, "num_epochs": 2}, "Give either total_steps or both"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WSDLrScheduler(make_optimizer(), **{"total_steps": 100, **arguments})


def test_a_starting_rate_does_not_matter_without_warm_up() -> None:
    WSDLrScheduler(make_optimizer(), total_steps=100, warmup_starting_lr=1.0)


def test_the_function_for_the_trainer_leaves_the_length_to_it() -> None:
    per_process = TrainerPlaceholderValues.PER_PROCESS_NUM_UPDATE_STEPS_PER_EPOCH
    create = WSDLrScheduler.create_scheduler_fn(num_warmup_epochs=2)
    assert isinstance(create, partial)
    assert create.keywords["num_epochs"] is TrainerPlaceholderValues.NUM_EPOCHS
    assert create.keywords["num_update_steps_per_epoch"] is per_process
    assert create.keywords["num_warmup_steps"] == per_process * 2
    assert WSDLrScheduler.create_scheduler_fn().keywords["num_warmup_steps"] is None


def test_the_function_for_the_trainer_takes_numbers() -> None:
    made = WSDLrScheduler.create_scheduler_fn(10, 20, num_warmup_epochs=0.5, lr_min=0.1)(
        make_optimizer()
    )
    assert made.state_dict() == (
        WSDLrScheduler(
            make_optimizer(), total_steps=200, num_warmup_steps=10, lr_min=0.1
        ).state_dict()
    )
