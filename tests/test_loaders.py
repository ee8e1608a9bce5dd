"""Loaders: whole batches by index, equal to those of a DataLoader, whatever the workers."""

import random
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tiny import MapData, global_states, tiny_data
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from loopwright.columns import columns_of
from loopwright.data import epoch_order
from loopwright.lean_loader import lean_loader
from loopwright.loaders import MapLoader, TensorLoader, make_loader
from loopwright.seed import preserved_random_states


def loader_of(dataset: Any, collate_fn: Any = None, seed: int = 3, **options: Any) -> Any:
    """Return the loader for options that a user gave."""
    full = {"batch_size": 4, "num_workers": 0, **options}
    loader = make_loader(dataset, full, given=set(options), collate_fn=collate_fn)
    loader.seed = seed
    return loader


def assert_same_batches(found: list[Any], expected: list[Any], **options: bool) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        torch.testing.assert_close(one, other, rtol=0, atol=0, **options)


X, Y = tiny_data(10)


class Doubled(TensorDataset):
    def __getitem__(self, index: Any) -> Any:
        inputs, targets = super().__getitem__(index)
        return inputs * 2, targets


class Shortened(TensorDataset):
    def __len__(self) -> int:
        return 4


# ------------------------------------------------------------------- data in memory


IN_MEMORY: dict[str, Any] = {
    "TensorDataset": TensorDataset(X, Y),
    "one column": TensorDataset(X),
    "Subset": Subset(TensorDataset(X, Y), [7, 1, 1, 4, 0]),
    "nested Subset": Subset(Subset(TensorDataset(X, Y), [7, 1, 3, 4, 0]), [4, 0, 2]),
    "Subset of a range": Subset(TensorDataset(X, Y), range(2, 9)),  # type: ignore[arg-type]
    "negative indices": Subset(TensorDataset(X, Y), [-1, 0, -3]),
    "not contiguous": TensorDataset(X.T.contiguous().T, Y),
}


@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"batch_size": 1}], ids=str)
@pytest.mark.parametrize("name", IN_MEMORY)
def test_batches_equal_those_of_a_data_loader(name: str, options: dict[str, Any]) -> None:
    dataset = IN_MEMORY[name]
    loader = loader_of(dataset, **options)
    assert isinstance(loader, TensorLoader)
    expected = DataLoader(dataset, **{"batch_size": 4, **options})
    assert len(loader) == len(expected)
    for _ in range(2):
        assert_same_batches(list(loader), list(expected))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("name", IN_MEMORY)
def test_shuffled_batches_follow_the_public_order(name: str, drop_last: bool) -> None:
    dataset = IN_MEMORY[name]
    loader = loader_of(dataset, shuffle=True, drop_last=drop_last)
    for epoch in (1, 2):
        loader.epoch = epoch
        order = epoch_order(len(dataset), 3, epoch).tolist()
        expected = DataLoader(dataset, batch_size=4, sampler=order, drop_last=drop_last)
        assert_same_batches(list(loader), list(expected))


@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray], ids=["tensor", "array"])
@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
        "complex64",
    ],
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_dtypes(dtype: str, kind: Callable[[Any], Any], shuffle: bool) -> None:
    column = kind(np.arange(10).astype(dtype))
    loader = loader_of((kind(np.ones((10, 2))), column), shuffle=shuffle)
    batches = [batch[1] for batch in loader]
    assert batches[0].dtype == getattr(torch, dtype)
    order = epoch_order(10, 3, 1).tolist() if shuffle else list(range(10))
    assert torch.cat(batches).numpy().tolist() == np.arange(10).astype(dtype)[order].tolist()


@pytest.mark.parametrize(
    "data",
    [X, X.numpy(), X.numpy()[::-1], np.broadcast_to(X.numpy()[:1], (10, 3))],
    ids=["tensor", "array", "reversed", "read-only"],
)
def test_a_single_array_gives_single_tensors(data: Any) -> None:
    loader = loader_of(data)
    assert isinstance(loader, TensorLoader)
    assert torch.equal(torch.cat(list(loader)), torch.as_tensor(np.stack([*data])))


@pytest.mark.parametrize(
    "dataset",
    [
        Doubled(X, Y),
        Subset(Doubled(X, Y), range(10)),  # type: ignore[arg-type]
        MapData(10),
        list(zip(X, Y, strict=True)),
        np.array(["a", "b"]),
        TensorDataset(X.clone().requires_grad_()),
    ],
    ids=["overrides", "Subset of it", "map-style", "list", "strings", "requires_grad"],
)
def test_other_data_is_left_to_its_own_getitem(dataset: Any) -> None:
    assert columns_of(dataset) is None
    assert isinstance(loader_of(dataset), MapLoader)


def test_an_overridden_getitem_is_called() -> None:
    (batch, *_) = list(loader_of(Doubled(X, Y)))
    assert torch.equal(batch[0], X[:4] * 2)


def test_a_subclass_that_overrides_len_is_as_long_as_it_says() -> None:
    assert_same_batches(
        list(loader_of(Shortened(X, Y))), list(DataLoader(Shortened(X, Y), batch_size=4))
    )


OPTIONS_BY_SAMPLE: dict[str, dict[str, Any]] = {
    "workers": {"num_workers": 1},
    "collate_fn": {"collate_fn": default_collate},
    "batch_sampler": {"batch_sampler": BatchSampler(SequentialSampler(X), 4, False)},
}


@pytest.mark.parametrize("name", OPTIONS_BY_SAMPLE)
def test_the_user_can_ask_for_samples_one_by_one(name: str) -> None:
    loader = loader_of(TensorDataset(X, Y), **OPTIONS_BY_SAMPLE[name])
    assert isinstance(loader, MapLoader)
    assert_same_batches(list(loader), list(DataLoader(TensorDataset(X, Y), batch_size=4)))
    loader.close()


@pytest.mark.parametrize("name", [*OPTIONS_BY_SAMPLE, "generator"])
@pytest.mark.parametrize("as_arrays", [False, True])
def test_a_tuple_is_columns_whatever_the_options(name: str, as_arrays: bool) -> None:
    """It is never a dataset of two samples."""
    data = (X.numpy(), Y.numpy()) if as_arrays else (X, Y)
    options = {"generator": {"generator": torch.Generator(), "shuffle": True}, **OPTIONS_BY_SAMPLE}
    loader = loader_of(data, **options[name])
    batches = list(loader)
    loader.close()
    assert sorted(torch.cat([b[0] for b in batches])[:, 0].tolist()) == sorted(X[:, 0].tolist())
    assert sum(len(batch[1]) for batch in batches) == 10


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"different lengths: \[10, 9\]"):
        loader_of((X, Y[:9]))


def test_a_sampler_is_honoured_by_index() -> None:
    """P-59."""
    dataset = TensorDataset(X, Y)
    loader = loader_of(dataset, sampler=[3, 3, 9, 0, 5])
    assert isinstance(loader, TensorLoader)
    assert_same_batches(list(loader), list(DataLoader(dataset, 4, sampler=[3, 3, 9, 0, 5])))
    assert len(loader) == 2

    def weighted(seed: int) -> WeightedRandomSampler:
        generator = torch.Generator().manual_seed(seed)
        return WeightedRandomSampler([1.0] * 10, 7, generator=generator)

    loader = loader_of(dataset, sampler=weighted(1))
    expected = DataLoader(dataset, 4, sampler=weighted(1))
    for _ in range(2):
        assert_same_batches(list(loader), list(expected))


@pytest.mark.parametrize("dataset", [TensorDataset(X, Y), MapData(10)], ids=["tensors", "map"])
def test_an_empty_sampler_gives_nothing(dataset: Any) -> None:
    assert list(loader_of(dataset, sampler=[])) == []


@pytest.mark.parametrize("start", [0, 1, 2, 3])
@pytest.mark.parametrize("dataset", [TensorDataset(X, Y), MapData(10)], ids=["tensors", "map"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_can_be_entered_anywhere(dataset: Any, start: int, shuffle: bool) -> None:
    loader = loader_of(dataset, shuffle=shuffle)
    loader.epoch = 2
    whole = list(loader)
    loader.start = start
    assert_same_batches(list(loader), whole[start:])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda batch: batch.mul_(0),
        lambda batch: batch.data.mul_(0),
        lambda batch: batch.numpy().fill(0),
    ],
    ids=["tensor", "data", "numpy"],
)
def test_batches_changed_in_place_do_not_change_the_dataset(
    change: Callable[[torch.Tensor], Any], shuffle: bool
) -> None:
    data = X.clone()
    seen = []
    for batch in loader_of((data, Y), shuffle=shuffle):
        seen.append(batch[0].clone())
        change(batch[0])
    assert torch.equal(data, X)
    if not shuffle:
        assert torch.equal(torch.cat(seen), X)


def test_one_batch_changed_in_place_is_harmless_or_detected() -> None:
    data = X.clone()
    try:
        for index, batch in enumerate(loader_of((data, Y))):
            if index == 1:
                batch[0].mul_(0)
    except RuntimeError as error:
        assert "changed in place at position 1" in str(error)  # noqa: PT017 either is right
    else:
        assert torch.equal(data, X)


@pytest.mark.parametrize("shuffle", [False, True])
def test_data_made_in_inference_mode(shuffle: bool) -> None:
    with torch.inference_mode():
        data = X.clone()
    batches = [batch[0] for batch in loader_of((data, Y), shuffle=shuffle)]
    assert torch.equal(torch.cat(batches).sort(0)[0], X.sort(0)[0])
    weight = torch.ones(3, 1, requires_grad=True)
    (batches[0] @ weight).sum().backward()


# ------------------------------------------------------------ samples made one by one


def batches_of(dataset: Any, epoch: int, **options: Any) -> list[Any]:
    loader = loader_of(dataset, shuffle=True, **options)
    loader.epoch = epoch
    batches = list(loader)
    loader.close()
    return batches


def test_the_number_of_workers_changes_nothing() -> None:
    """Not the order, not what the dataset draws from three generators; and epochs differ."""
    dataset = MapData(10, noise=True)
    before = global_states()
    alone = [batches_of(dataset, epoch) for epoch in (1, 2)]
    assert global_states() == before
    for workers in (1, 2):
        loader = loader_of(dataset, shuffle=True, num_workers=workers)
        for epoch in (1, 2):
            loader.epoch = epoch
            assert_same_batches(list(loader), alone[epoch - 1])
        loader.close()
    assert global_states() == before
    assert not torch.equal(alone[0][0][0], alone[1][0][0])
    noises = [b[0] - dataset.inputs[epoch_order(10, 3, 1)[i * 4 : i * 4 + 4]]
              for i, b in enumerate(alone[0])]  # fmt: skip
    assert len({round(row[0].item(), 5) for noise in noises for row in noise}) == 10


def test_draws_depend_on_the_seed_of_the_run() -> None:
    dataset = MapData(10, noise=True)
    first, other = (list(loader_of(dataset, seed=seed))[0][0] for seed in (3, 4))
    assert not torch.equal(first, other)


def test_draws_can_be_left_alone() -> None:
    """With the switch off the dataset draws from the caller's generators, as by hand."""
    dataset = MapData(10, noise=True)
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    by_hand = [default_collate([dataset[i] for i in range(4)])]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    loader = loader_of(dataset, reproducible_draws=False)
    assert_same_batches([next(iter(loader))], by_hand)


def test_draws_of_workers_left_alone_depend_on_the_seed_of_the_run() -> None:
    dataset = MapData(4, noise=True)
    found = []
    for seed in (3, 4):
        loader = loader_of(dataset, seed=seed, reproducible_draws=False, num_workers=1)
        found.append(next(iter(loader))[0])
        loader.close()
    assert not torch.equal(*found)


class ByBatch(MapData):
    """Counts how often it is asked, and for what."""

    def __init__(self) -> None:
        super().__init__(10)
        self.asked: list[list[int]] = []

    def __getitems__(self, indices: list[int]) -> list[Any]:
        self.asked.append(indices)
        return [super(ByBatch, self).__getitem__(index) for index in indices]


def test_a_dataset_with_getitems_is_asked_once_per_batch() -> None:
    dataset = ByBatch()
    batches = list(loader_of(dataset))
    assert dataset.asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert all(type(indices) is list for indices in dataset.asked)
    assert_same_batches(batches, list(DataLoader(TensorDataset(X, Y), batch_size=4)))


def test_the_users_collate_fn_gets_samples() -> None:
    got = list(loader_of(MapData(10), collate_fn=len))
    assert got == [4, 4, 2]
    assert list(loader_of(MapData(10), collate_fn=len, shuffle=True, drop_last=True)) == [4, 4]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_map_style_batches_equal_those_of_a_data_loader(drop_last: bool, workers: int) -> None:
    loader = loader_of(MapData(10), drop_last=drop_last, num_workers=workers)
    assert_same_batches(list(loader), list(DataLoader(MapData(10), 4, drop_last=drop_last)))
    loader.close()


def test_a_generator_of_the_user_decides_the_order() -> None:
    dataset = TensorDataset(X, Y)
    ours = loader_of(dataset, generator=torch.Generator().manual_seed(8), shuffle=True)
    theirs = DataLoader(dataset, 4, shuffle=True, generator=torch.Generator().manual_seed(8))
    found = torch.cat([batch[0] for batch in ours])
    assert not torch.equal(found, X)
    assert sorted(found[:, 0].tolist()) == sorted(X[:, 0].tolist())
    assert len(ours) == len(theirs)


# ------------------------------------------------------------- loaders that the user made


def tables(num_rows: int = 11) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_rows, 3, generator=generator)
    return TensorDataset(x, torch.arange(num_rows))


def user_loader(kind: str) -> DataLoader[Any]:
    data = tables()
    own = torch.Generator().manual_seed(5)
    if kind == "own generator":
        return DataLoader(data, 4, shuffle=True, generator=own)
    if kind == "own sampler":
        sampler = WeightedRandomSampler([1.0] * 11, 20, generator=own)
        return DataLoader(data, 4, sampler=sampler)
    if kind == "negative":
        return DataLoader(data, 4, sampler=[-1, 3, -11, 0, 5])  # type: ignore[arg-type]
    if kind == "subset":
        return DataLoader(Subset(Subset(data, [9, 1, 2, -1, 4]), [4, 0, 2]), 2, shuffle=True)
    if kind in SAMPLES:
        return DataLoader(Listed([SAMPLES[kind](*row) for row in data]), 4, shuffle=True)
    if kind == "strides":
        return DataLoader(TensorDataset(torch.rand(3, 11, generator=own).t(), data.tensors[1]), 4)
    if kind == "several at once":
        return DataLoader(Doubled(*data.tensors), 4, shuffle=True)
    return DataLoader(data, 4, shuffle=kind == "shuffled", drop_last=kind == "in order")


class Numbers(IterableDataset[Any]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(5))


class Listed(Dataset[Any]):
    """Samples of any kind, one by one."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


SAMPLES: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "tensors": lambda x, y: (x, y),
    "strided tensors": lambda x, y: (x.expand(2, 3).t(), y),
    "parameters": lambda x, y: (torch.nn.Parameter(x), y),
    "numbers": lambda x, y: (x, int(y)),
    "one tensor": lambda x, y: x,
    "a list": lambda x, y: [x, y],
    "a dict": lambda x, y: {"x": x, "y": (y, float(y))},
    "a named tuple": Pair,
}


@pytest.mark.parametrize(
    "kind",
    ["shuffled", "in order", "own generator", "own sampler", "negative", "subset"]
    + ["strides", "several at once", *SAMPLES],
)
def test_lean_batches_are_those_of_the_users_loader(kind: str) -> None:
    with preserved_random_states():
        torch.manual_seed(3)
        expected = [list(user_loader(kind)) for _ in range(2)]
        drawn = torch.rand(3)
        torch.manual_seed(3)
        loaders = [lean_loader(user_loader(kind)) for _ in range(2)]
        actual = [list(loader) for loader in loaders]
        assert torch.equal(torch.rand(3), drawn)
    assert not any(isinstance(loader, DataLoader) for loader in loaders)
    for left, right in zip(actual, expected, strict=True):
        assert_same_batches(left, right, check_stride=True)


def test_lean_batches_show_what_the_user_writes_into_the_data() -> None:
    loader: Any = DataLoader(tables(), 4)
    batches = iter(lean_loader(loader))
    next(batches)
    loader.dataset.tensors[0].zero_()
    assert torch.equal(next(batches)[0], torch.zeros(4, 3))


def test_lean_batches_of_a_sampler_that_gives_batches() -> None:
    """Without batch_size=None torch stacks them, one to a batch."""
    numbers = BatchSampler(SequentialSampler(range(10)), 4, drop_last=True)
    for sampler in (numbers, torch.arange(8).split(4)):
        loader: Any = DataLoader(TensorDataset(X, Y), sampler=sampler)
        expected = list(loader)
        assert expected[0][0].shape == (1, 4, 3)
        assert_same_batches(list(lean_loader(loader)), expected)


class OwnDataLoader(DataLoader[Any]):
    pass


@pytest.mark.parametrize(
    "loader",
    [
        OwnDataLoader(tables(), 4),
        DataLoader(Numbers(), 4),
        DataLoader(tables(), 4, num_workers=1),
        DataLoader(tables(), 4, collate_fn=lambda samples: samples),
        DataLoader(tables(), batch_size=None),
        [torch.zeros(2)],
    ],
    ids=["subclass", "stream", "workers", "collate", "no batches", "list"],
)
def test_other_loaders_are_used_as_they_are(loader: Any) -> None:
    assert lean_loader(loader) is loader


def test_samples_of_other_lengths_are_refused_as_by_torch() -> None:
    loader: Any = DataLoader(Listed([(torch.zeros(2), torch.zeros(1)), (torch.zeros(2),)]), 2)
    with pytest.raises(RuntimeError) as expected:
        list(loader)
    with pytest.raises(RuntimeError, match="^" + re.escape(str(expected.value)) + "$"):
        list(lean_loader(loader))
