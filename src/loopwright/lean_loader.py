"""The batches of a `DataLoader` without workers, made without what it does beside making them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, default_collate

from loopwright.columns import Columns, columns_of, row_numbers


def lean_loader(loader: Any) -> Any:
    """Return something that iterates over the same batches as a loader, at less cost.

    That is for a `DataLoader` over a map-style dataset that has no workers and collates as torch
    does: its own batch sampler and generator decide the order, the random numbers drawn are the
    same, and rows of tensors in memory are taken by index. Any other loader is returned as it is.
    """
    if type(loader) is not DataLoader or type(loader.batch_sampler) is not BatchSampler:
        return loader
    if loader.num_workers or loader.pin_memory or loader.collate_fn is not default_collate:
        return loader
    if isinstance(loader.dataset, IterableDataset):
        return loader
    return _LeanLoader(loader)


class _LeanLoader:
    """Iterates over the batches of a plain `DataLoader`."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader
        self._make = _maker(loader.dataset)

    def __iter__(self) -> Iterator[Any]:
        iter(self._loader)  # draws the seed that each of its epochs draws
        return map(self._make, self._loader.batch_sampler or ())


def _maker(dataset: Any) -> Callable[[list[int]], Any]:
    """Return what makes the batch of some indices of a dataset."""
    columns = columns_of(dataset)
    # Stacked samples have other strides than gathered rows of a column that is not contiguous.
    if columns is None or columns.is_single or not all(map(_is_contiguous, columns.tensors)):
        columns = None

    def make(indices: list[Any]) -> Any:
        if columns is not None and _is_number(indices[0]):  # a sampler may give lists of them
            return _gathered(columns, indices)
        if getattr(dataset, "__getitems__", None):
            return _collated(dataset.__getitems__(indices))
        return _collated([dataset[index] for index in indices])

    return make


def _is_contiguous(column: torch.Tensor) -> bool:
    return column.is_contiguous()


def _is_number(index: Any) -> bool:
    if isinstance(index, torch.Tensor):
        return not index.ndim
    return isinstance(index, (int, np.integer))


def _gathered(columns: Columns, indices: list[int]) -> list[torch.Tensor]:
    rows = row_numbers(indices, columns.num_rows)
    if columns.rows is not None:
        rows = columns.rows[rows]
    return [column.index_select(0, rows) for column in columns.tensors]


def _collated(samples: list[Any]) -> Any:
    """Return what `default_collate` does, sooner where samples are tuples of plain tensors."""
    first = samples[0]
    if type(first) is not tuple or not all(map(_is_plain, first)):
        return default_collate(samples)
    if any(len(sample) != len(first) for sample in samples):
        return default_collate(samples)  # it says what is wrong
    return [torch.stack(column) for column in zip(*samples, strict=True)]


def _is_plain(item: Any) -> bool:
    return type(item) is torch.Tensor and item.layout is torch.strided and not item.is_nested
