"""The bases of schedulers: any field, any number of groups, tensors in place, whole states."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from loopwright.schedulers.base import SchedulerBase, StatefulSchedulerBase


class Scaled(SchedulerBase):
    """Multiplies the base value of each group by the number of updates."""

    def get_updated_values(self, num_updates: int) -> Any:
        return [base * num_updates for base in self.base_lr_values]


class ScaledStateful(StatefulSchedulerBase):
    """Does the same with its own count, and keeps a private attribute."""

    def __init__(self, optimizer: torch.optim.Optimizer, param_group_field: str = "lr") -> None:
        super().__init__(optimizer, param_group_field)
        self._seen: list[int] = []

    def get_updated_values(self, num_updates: int) -> Any:
        self._seen.append(num_updates)
        return [base * num_updates for base in self.base_lr_values]


class Given(SchedulerBase):
    """Returns what its test put into `values`."""

    values: Any = None

    def get_updated_values(self, num_updates: int) -> Any:
        return self.values


def make_optimizer(first: Any = 0.1, second: Any = 0.02) -> torch.optim.Optimizer:
    weight, bias = nn.Linear(2, 1).parameters()
    return torch.optim.AdamW([{"params": weight}, {"params": bias, "lr": second}], lr=first)


def values(optimizer: torch.optim.Optimizer, field: str = "lr") -> list[Any]:
    return [group[field] for group in optimizer.param_groups]


def test_creation_keeps_values_and_remembers_them() -> None:
    optimizer = make_optimizer()
    scheduler = Scaled(optimizer)
    assert values(optimizer) == [0.1, 0.02]
    assert values(optimizer, "initial_lr") == [0.1, 0.02]
    assert scheduler.base_lr_values == [0.1, 0.02]


def test_a_second_scheduler_starts_from_the_same_base_values() -> None:
    optimizer = make_optimizer()
    Scaled(optimizer).step_update(5)
    assert Scaled(optimizer).base_lr_values == [0.1, 0.02]
    assert values(optimizer) == [0.1, 0.02]


def test_the_stateless_base_is_told_the_number_of_updates() -> None:
    """P-103."""
    optimizer = make_optimizer()
    scheduler = Scaled(optimizer)
    scheduler.step_update(7)
    assert values(optimizer) == [0.1 * 7, 0.02 * 7]
    scheduler.step_update(2)
    assert values(optimizer) == [0.1 * 2, 0.02 * 2]


def test_the_stateful_base_counts_from_zero() -> None:
    """P-103."""
    optimizer = make_optimizer()
    scheduler = ScaledStateful(optimizer)
    seen = []
    for _ in range(3):
        scheduler.step()
        seen.append(values(optimizer))
    assert seen == [[0, 0], [0.1, 0.02], [0.2, 0.04]]


def test_any_field_can_be_scheduled() -> None:
    """P-103."""
    optimizer = make_optimizer()
    ScaledStateful(optimizer, "weight_decay").step()
    assert values(optimizer, "weight_decay") == [0, 0]
    assert values(optimizer, "initial_weight_decay") == [0.01, 0.01]
    assert values(optimizer) == [0.1, 0.02]


def test_an_unknown_field_names_those_there_are() -> None:
    with pytest.raises(KeyError, match=r"no field 'momentum'.*weight_decay"):
        Scaled(make_optimizer(), "momentum")


@pytest.mark.parametrize(
    ("given", "expected"),
    [(3.0, [3.0, 3.0]), ((1.0, 2.0), [1.0, 2.0]), (iter([1.0, 2.0]), [1.0, 2.0])],
)
def test_one_value_or_one_for_each_group(given: Any, expected: list[float]) -> None:
    optimizer = make_optimizer()
    scheduler = Given(optimizer)
    scheduler.values = given
    scheduler.step_update(0)
    assert values(optimizer) == expected


def test_none_changes_nothing() -> None:
    optimizer = make_optimizer()
    Given(optimizer).step_update(0)
    assert values(optimizer) == [0.1, 0.02]


def test_a_wrong_number_of_values_is_an_error() -> None:
    scheduler = Given(make_optimizer())
    scheduler.values = [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="3 values for 2 parameter groups"):
        scheduler.step_update(0)


def test_groups_added_later_join_with_their_own_value() -> None:
    optimizer = make_optimizer()
    scheduler = Scaled(optimizer)
    scheduler.step_update(2)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.5})
    scheduler.step_update(3)
    assert values(optimizer) == [0.1 * 3, 0.02 * 3, 0.5 * 3]


def test_tensors_are_filled_in_place() -> None:
    rate = torch.tensor(0.5, dtype=torch.float64)
    other = torch.tensor(0.25, dtype=torch.float64)
    optimizer = make_optimizer(rate, other)
    before = values(optimizer)
    scheduler = Scaled(optimizer)
    scheduler.step_update(3)
    assert values(optimizer)[0] is before[0]
    assert values(optimizer)[1] is before[1]
    assert [value.item() for value in values(optimizer)] == [1.5, 0.75]
    assert scheduler.base_lr_values == [0.5, 0.25], "the base values are numbers"


def test_a_tensor_that_groups_share_is_parted() -> None:
    rate = torch.tensor(0.5)
    weight, bias = nn.Linear(2, 1).parameters()
    optimizer = torch.optim.AdamW([{"params": weight}, {"params": bias}], lr=rate)
    scheduler = Given(optimizer)
    scheduler.values = [1.0, 2.0]
    scheduler.step_update(0)
    assert [value.item() for value in values(optimizer)] == [1.0, 2.0]
    assert values(optimizer)[0] is rate


def test_a_state_goes_through_json_and_restores_everything() -> None:
    optimizer = make_optimizer()
    scheduler = ScaledStateful(optimizer)
    scheduler.step()
    scheduler.step()
    state = json.loads(json.dumps(scheduler.state_dict()))

    other_optimizer = make_optimizer(0.7, 0.8)
    other = ScaledStateful(other_optimizer)
    other.load_state_dict(state)
    assert values(other_optimizer) == values(optimizer)
    other._seen, scheduler._seen = [], []
    scheduler.step()
    other.step()
    assert values(other_optimizer) == values(optimizer) == [0.2, 0.04]
    assert other._seen == scheduler._seen == [2]


def test_a_state_is_a_copy() -> None:
    scheduler = ScaledStateful(make_optimizer())
    state = scheduler.state_dict()
    scheduler.step()
    assert state["_seen"] == []
    assert state["num_updates"] == -1
    state["base_lr_values"].append(1.0)
    assert scheduler.base_lr_values == [0.1, 0.02]
    state["base_lr_values"].pop()
    scheduler.load_state_dict(state)
    scheduler.step()
    assert state["_seen"] == []


def test_a_state_from_before_the_first_step_applies_nothing() -> None:
    state = ScaledStateful(make_optimizer()).state_dict()
    optimizer = make_optimizer()
    ScaledStateful(optimizer).load_state_dict(state)
    assert values(optimizer) == [0.1, 0.02]


def test_states_of_others_are_refused() -> None:
    stateful, stateless = ScaledStateful(make_optimizer()), Scaled(make_optimizer())
    with pytest.raises(ValueError, match=r"no state of a Scaled: missing \[\], unknown"):
        stateless.load_state_dict(stateful.state_dict())
    with pytest.raises(ValueError, match=r"missing \['_num_updates', '_seen'\]"):
        stateful.load_state_dict(stateless.state_dict())
    one_group = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="holds 2 parameter groups and the optimizer has 1"):
        Scaled(one_group).load_state_dict(stateless.state_dict())
