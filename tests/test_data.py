"""The order of data, limits on batches, and padding."""

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Stream, global_states
from torch.utils.data import DataLoader

from loopwright.data import (
    LIMIT_BATCHES_VARIABLE,
    DataLoaderSlice,
    LimitBatches,
    epoch_order,
    limit_from_environment,
    remove_padding,
    worker_init_fn,
)
from loopwright.seed import preserved_random_states


@pytest.fixture(autouse=True)
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT_BATCHES_VARIABLE, raising=False)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 200), st.integers(0, 2**64 - 1), st.integers(1, 10**6))
def test_an_order_is_a_permutation_and_a_pure_function(size: int, seed: int, epoch: int) -> None:
    before = global_states()
    order = epoch_order(size, seed, epoch)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(size))
    torch.rand(1)
    with preserved_random_states():
        torch.manual_seed(epoch)
        assert torch.equal(epoch_order(size, seed, epoch), order)
    torch.set_rng_state(torch.tensor(before[2], dtype=torch.uint8))
    assert global_states() == before


def test_orders_of_epochs_and_seeds_differ() -> None:
    orders = [tuple(epoch_order(50, s, e).tolist()) for s in range(8) for e in range(1, 9)]
    assert len(set(orders)) == 64


def test_the_order_of_a_seed_stays_what_it_is() -> None:
    """Saved runs are resumed by later versions: these numbers must not change."""
    assert epoch_order(10, 0, 1).tolist() == ORDER_OF_SEED_0
    assert epoch_order(10, 2**63 + 5, 7).tolist() == ORDER_OF_A_LARGE_SEED


ORDER_OF_SEED_0 = [0, 7, 6, 5, 9, 4, 3, 1, 8, 2]
ORDER_OF_A_LARGE_SEED = [7, 9, 3, 6, 8, 2, 4, 5, 0, 1]


def test_a_slice_gives_the_first_batches_of_each_epoch() -> None:
    loader = DataLoader(list(range(10)), batch_size=2)  # type: ignore[arg-type]
    sliced = DataLoaderSlice(loader, 3)
    assert len(sliced) == 3
    for _ in range(2):
        assert [batch.tolist() for batch in sliced] == [[0, 1], [2, 3], [4, 5]]
    assert len(DataLoaderSlice(loader, 9)) == 5
    assert len(list(DataLoaderSlice(loader, 9))) == 5


def test_a_slice_of_data_of_unknown_length() -> None:
    loader = DataLoader(Stream(6), batch_size=2)
    assert len(list(DataLoaderSlice(loader, 2))) == 2
    assert len(list(DataLoaderSlice(loader, 9))) == 3


def test_a_slice_does_not_fetch_a_batch_too_many() -> None:
    fetched = []

    class Loader:
        def __iter__(self) -> Iterator[int]:
            for index in range(5):
                fetched.append(index)
                yield index

    assert list(DataLoaderSlice(Loader(), 2)) == [0, 1]
    assert fetched == [0, 1]


def test_limit_batches_sets_and_restores_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """P-98."""
    with LimitBatches(4):
        assert limit_from_environment() == 4
        with LimitBatches(2):
            assert limit_from_environment() == 2
        assert limit_from_environment() == 4
    assert LIMIT_BATCHES_VARIABLE not in os.environ
    monkeypatch.setenv(LIMIT_BATCHES_VARIABLE, "7")
    with pytest.raises(KeyError), LimitBatches(4):
        raise KeyError
    assert limit_from_environment() == 7


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_limit_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(LIMIT_BATCHES_VARIABLE, text)
    with pytest.raises(ValueError, match=f"{LIMIT_BATCHES_VARIABLE} is '{text}'"):
        limit_from_environment()


@pytest.mark.parametrize("text", ["", "none", "None"])
def test_no_limit(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(LIMIT_BATCHES_VARIABLE, text)
    assert limit_from_environment() is None


def test_remove_padding() -> None:
    """Rows of padding go, wherever they are; a row with some other entry stays."""
    padded = torch.tensor([[1, 2], [-1, -1], [-1, 3], [-1, -1]])
    assert remove_padding(padded, -1).tolist() == [[1, 2], [-1, 3]]
    assert remove_padding(torch.tensor([0.0, 5.0, 0.0]), 0).tolist() == [5.0]
    cube = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    assert remove_padding(cube, 0.0).shape == (1, 2, 2)
    assert remove_padding(cube, 7.0).shape == (2, 2, 2)


def test_worker_init_fn_seeds_the_other_generators_from_torch() -> None:
    with preserved_random_states():
        draws = []
        for seed in (5, 5, 6):
            torch.manual_seed(seed)
            worker_init_fn(0)
            draws.append((random.random(), float(np.random.rand())))
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[2][0]
    assert draws[0][1] != draws[2][1]
