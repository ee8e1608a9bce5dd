"""Tests of dividing rows: fractions, counts, shuffling, and no row in two parts."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loopwright.datasets.splits import complete_samples, split_indices


def test_G_09_samples_left_out_are_three_quarters_and_one() -> None:
    assert complete_samples(train=None, test=None) == {"train": 0.75, "test": 0.25}


def test_G_10_the_other_fraction_is_the_complement() -> None:
    assert complete_samples(train=0.8, test=None) == {"train": 0.8, "test": 0.2}
    assert complete_samples(train=None, test=0.3) == {"train": 0.7, "test": 0.3}
    with_validation = complete_samples(train=0.7, test=None, validation=0.1)
    assert with_validation == {"train": 0.7, "validation": 0.1, "test": 0.2}


def test_G_11_fractions_above_one_raise_value_error() -> None:
    with pytest.raises(ValueError, match=r"add up to 1\.1, more than all rows"):
        complete_samples(train=0.8, test=0.3)


def test_G_12_fractions_below_one_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        complete_samples(train=0.1 + 0.2, test=0.7)
        assert caplog.text == ""
        complete_samples(train=0.5, test=0.3)
    assert "add up to 0.8" in caplog.text


@pytest.mark.parametrize(
    ("train", "test", "validation"), [(100, None, None), (1.0, None, None), (None, 0.9, 0.2)]
)
def test_what_cannot_be_completed_is_refused(
    train: float | None, test: float | None, validation: float | None
) -> None:
    with pytest.raises(ValueError, match="train|test"):
        complete_samples(train=train, test=test, validation=validation)


def test_G_07_and_G_08_fractions_and_counts() -> None:
    parts = split_indices(10, {"train": 0.8, "test": 0.2}, shuffle=False, seed=0)
    assert [part.tolist() for part in parts.values()] == [list(range(8)), [8, 9]]
    parts = split_indices(10, {"train": 5, "test": 2}, shuffle=False, seed=0)
    assert {name: len(part) for name, part in parts.items()} == {"train": 5, "test": 2}


def test_G_17_and_G_18_shuffling_is_decided_by_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first = split_indices(50, {"train": 0.8, "test": 0.2}, shuffle=True, seed=1)
    torch.rand(3)
    again = split_indices(50, {"train": 0.8, "test": 0.2}, shuffle=True, seed=1)
    other = split_indices(50, {"train": 0.8, "test": 0.2}, shuffle=True, seed=2)
    assert torch.equal(first["train"], again["train"])
    assert not torch.equal(first["train"], other["train"])
    assert first["train"].tolist() != list(range(40))
    torch.set_rng_state(state)


@given(
    rows=st.integers(30, 400),
    shares=st.lists(st.integers(10, 30), min_size=2, max_size=3),
    seed=st.integers(0, 9),
)
def test_parts_that_add_up_to_one_hold_every_row_once(
    rows: int, shares: list[int], seed: int
) -> None:
    samples = {name: s / sum(shares) for name, s in zip("abc", shares, strict=False)}
    parts = split_indices(rows, samples, shuffle=True, seed=seed)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(rows))
    for name, part in parts.items():
        assert abs(len(part) - rows * samples[name]) <= 1


@pytest.mark.parametrize("samples", [{"a": 11}, {"a": 0.5, "b": 6}, {"a": 0.01, "b": 0.99}])
def test_rows_that_do_not_suffice_are_refused(samples: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="10 rows|no row of 10"):
        split_indices(10, samples, shuffle=False, seed=0)
