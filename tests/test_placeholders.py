"""Placeholders: arithmetic, replacement in partials, and what is said about unknown numbers."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from loopwright.placeholders import (
    TrainerPlaceholderValues,
    replace_trainer_placeholder_values,
)
from loopwright.run_config import TrainerRunConfig

P = TrainerPlaceholderValues


def make_run_config(**changes: Any) -> TrainerRunConfig:
    settings: dict[str, Any] = {
        "num_epochs": 3,
        "train_per_device_batch_size": 4,
        "train_dl_kwargs": {},
        "eval_per_device_batch_size": 4,
        "eval_dl_kwargs": {},
        "gradient_accumulation_steps": 2,
        "gradient_clip_value": None,
        "train_total_batch_size": 8,
        "eval_total_batch_size": 4,
        "num_update_steps_per_epoch": 5,
        "num_local_update_steps_per_epoch": 6,
        "max_num_train_steps": None,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "is_distributed": False,
        "mixed_precision": "no",
        "num_processes": 1,
    }
    return TrainerRunConfig(**settings | changes)


class Stream(IterableDataset[int]):
    """Yields numbers without telling how many."""

    def __iter__(self) -> Any:
        return iter(range(4))


class Run:
    """Holds what of a trainer a replacement reads."""

    def __init__(self, run_config: TrainerRunConfig | None = None) -> None:
        self.run_config = run_config
        self._train_dataloader: Any = DataLoader(TensorDataset(torch.zeros(38)), batch_size=4)
        self._eval_dataloader: Any = DataLoader(TensorDataset(torch.zeros(28)), batch_size=4)


@pytest.fixture
def run() -> Run:
    return Run(make_run_config())


def replaced(run: Run, value: Any) -> Any:
    return replace_trainer_placeholder_values(run, partial(dict, value=value))()["value"]


NUMBERS = {
    P.NUM_EPOCHS: 3,
    P.NUM_UPDATE_STEPS_PER_EPOCH: 5,
    P.PER_PROCESS_NUM_UPDATE_STEPS_PER_EPOCH: 6,
    P.TRAIN_DATALOADER_LEN: 10,
    P.EVAL_DATALOADER_LEN: 7,
}


def test_every_documented_placeholder_is_there() -> None:
    """P-06, P-08."""
    assert set(NUMBERS) == set(P)
    assert len(P) == 5, "two placeholders with equal values would be one"


@pytest.mark.parametrize("placeholder", P, ids=str)
def test_placeholders_are_replaced_in_keywords(run: Run, placeholder: P) -> None:
    """P-09."""
    assert replaced(run, placeholder) == NUMBERS[placeholder]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (P.NUM_EPOCHS * 2, 6),
        (2 * P.NUM_EPOCHS, 6),
        (P.NUM_EPOCHS + 2, 5),
        (2 + P.NUM_EPOCHS, 5),
        (P.NUM_EPOCHS * 2 + 1, 7),
        ((P.NUM_EPOCHS + 1) * 2, 8),
        (2 * (1 + P.NUM_EPOCHS), 8),
        (P.NUM_EPOCHS * 0.5, 1.5),
        (P.NUM_EPOCHS + -1, 2),
        (P.NUM_EPOCHS * P.NUM_UPDATE_STEPS_PER_EPOCH, 15),
        (P.NUM_EPOCHS * P.NUM_UPDATE_STEPS_PER_EPOCH + P.EVAL_DATALOADER_LEN * 2, 29),
        ((P.NUM_EPOCHS + 1) * (P.NUM_EPOCHS + 2), 20),
    ],
    ids=str,
)
def test_placeholders_can_be_multiplied_and_added(
    run: Run, expression: Any, expected: float
) -> None:
    """P-10."""
    assert replaced(run, expression) == expected


@pytest.mark.parametrize(
    "subtract",
    [
        lambda: P.NUM_EPOCHS - 1,
        lambda: 1 - P.NUM_EPOCHS,
        lambda: P.NUM_EPOCHS * 2 - 1,
        lambda: 1 - P.NUM_EPOCHS * 2,
        lambda: P.NUM_EPOCHS - P.TRAIN_DATALOADER_LEN,
    ],
)
def test_subtraction_says_how_to_rewrite_it(subtract: Any) -> None:
    """P-10."""
    with pytest.raises(NotImplementedError, match=r"addition: .* \+ -1 \* "):
        subtract()


@pytest.mark.parametrize("operand", ["2", None, [1], True])
def test_operands_have_to_be_numbers(operand: Any) -> None:
    with pytest.raises(TypeError, match="expected a number"):
        P.NUM_EPOCHS * operand


def test_arguments_of_all_kinds_are_replaced(run: Run) -> None:
    inner = partial(dict, epochs=P.NUM_EPOCHS + 1)
    made = replace_trainer_placeholder_values(
        run, partial(lambda *args, **kwargs: (args, kwargs), P.NUM_EPOCHS, "a", inner=inner)
    )
    args, kwargs = made("b")
    assert args == (3, "a", "b")
    assert kwargs["inner"]() == {"epochs": 4}
    assert inner.keywords["epochs"] is not kwargs["inner"].keywords["epochs"]


def test_lists_and_tuples_are_looked_into(run: Run) -> None:
    assert replaced(run, [P.NUM_EPOCHS, [P.NUM_EPOCHS * 2], (1, P.EVAL_DATALOADER_LEN)]) == [
        3,
        [6],
        (1, 7),
    ]


@pytest.mark.parametrize("value", [3, "NUM_EPOCHS", None, [1, 2], {"a": P.NUM_EPOCHS}, len])
def test_other_values_are_passed_through_unchanged(run: Run, value: Any) -> None:
    """P-12."""
    assert replaced(run, value) is value


def test_what_is_no_partial_is_returned_as_it_is(run: Run) -> None:
    for instance in (len, OneCycleLR, P.NUM_EPOCHS, 3):
        assert replace_trainer_placeholder_values(run, instance) is instance


def test_the_partial_given_keeps_its_placeholders(run: Run) -> None:
    given = partial(dict, epochs=P.NUM_EPOCHS)
    replace_trainer_placeholder_values(run, given)
    assert given.keywords == {"epochs": P.NUM_EPOCHS}


@pytest.mark.parametrize(
    "placeholder", [P.NUM_UPDATE_STEPS_PER_EPOCH, P.PER_PROCESS_NUM_UPDATE_STEPS_PER_EPOCH], ids=str
)
def test_an_unknown_number_of_updates_is_an_error(placeholder: P) -> None:
    unknown = make_run_config(
        num_update_steps_per_epoch=None, num_local_update_steps_per_epoch=None
    )
    with pytest.raises(ValueError, match=rf"{placeholder} .*max_num_train_steps.*put a number"):
        replaced(Run(unknown), placeholder * 2)


def test_a_loader_without_length_is_an_error(run: Run) -> None:
    run._train_dataloader = DataLoader(Stream())
    with pytest.raises(ValueError, match=r"TRAIN_DATALOADER_LEN .*no length.*put a number"):
        replaced(run, P.TRAIN_DATALOADER_LEN)


def test_a_missing_loader_is_an_error(run: Run) -> None:
    run._eval_dataloader = None
    with pytest.raises(ValueError, match=r"EVAL_DATALOADER_LEN .*eval_dataset=.*put a number"):
        replaced(run, P.EVAL_DATALOADER_LEN)


def test_a_missing_run_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"NUM_EPOCHS .*no run has been configured"):
        replaced(Run(None), P.NUM_EPOCHS)


def test_one_cycle_has_exactly_as_many_steps_as_the_run(run: Run) -> None:
    """P-11."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    create_scheduler_fn = partial(
        OneCycleLR, max_lr=0.1, epochs=P.NUM_EPOCHS, steps_per_epoch=P.NUM_UPDATE_STEPS_PER_EPOCH
    )
    scheduler = replace_trainer_placeholder_values(run, create_scheduler_fn)(optimizer)
    for _ in range(3 * 5):
        optimizer.step()
        scheduler.step()
    with pytest.raises(ValueError, match="total steps"):
        scheduler.step()
