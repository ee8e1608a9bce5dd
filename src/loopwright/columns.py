"""Datasets that are in memory as tensors or arrays, and their columns."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset, TensorDataset


def row_numbers(indices: Iterable[int], num_rows: int) -> torch.Tensor:
    """Return row numbers, int64; negative indices count from the end."""
    rows = torch.as_tensor(indices, dtype=torch.int64)
    return torch.where(rows < 0, rows + num_rows, rows)


@dataclass(frozen=True)
class Columns:
    """The tensors of a dataset in memory: one per column, and the rows of them that it shows."""

    tensors: list[torch.Tensor]
    rows: torch.Tensor | None
    """Row numbers, int64, for a `Subset`; None for all rows in order."""
    is_single: bool
    """Whether a sample is a row of one tensor rather than a tuple of rows."""

    @property
    def num_rows(self) -> int:
        """How many samples there are."""
        return len(self.tensors[0]) if self.rows is None else len(self.rows)


def columns_of(dataset: Any) -> Columns | None:
    """Return the columns of data that is in memory as tensors or arrays; None for other data.

    Such are a tensor, a numpy array, a tuple of them with equal lengths, a `TensorDataset`, and a
    `Subset` of any of these; not a subclass that overrides how samples are made.
    """
    if isinstance(dataset, (torch.Tensor, np.ndarray)):
        column = _column(dataset)
        return None if column is None else Columns([column], None, is_single=True)
    if isinstance(dataset, TensorDataset) and _keeps(dataset, TensorDataset):
        return _tuple_columns(dataset.tensors)
    if type(dataset) is tuple and dataset and all(_is_array(item) for item in dataset):
        return _tuple_columns(dataset)
    if isinstance(dataset, Subset) and _keeps(dataset, Subset):
        inner = columns_of(dataset.dataset)
        if inner is None:
            return None
        rows = row_numbers(dataset.indices, inner.num_rows)
        rows = rows if inner.rows is None else inner.rows[rows]
        return Columns(inner.tensors, rows, inner.is_single)
    return None


def _is_array(item: Any) -> bool:
    return isinstance(item, (torch.Tensor, np.ndarray)) and item.ndim > 0


def _keeps(dataset: Any, base: type) -> bool:
    """Whether a dataset makes its samples as `base` does."""
    return all(
        getattr(type(dataset), name, None) is getattr(base, name, None)
        for name in ("__len__", "__getitem__", "__getitems__")
    )


_NOT_INDEXED = (torch.uint16, torch.uint32, torch.uint64)  # index_select does not take them


def _column(data: torch.Tensor | np.ndarray) -> torch.Tensor | None:
    if isinstance(data, np.ndarray):
        try:
            data = _tensor_of(data)
        except (TypeError, ValueError):  # strings, objects, foreign byte orders
            return None
    plain = data.layout == torch.strided and data.ndim > 0 and not data.requires_grad
    return data if plain and data.dtype not in _NOT_INDEXED else None


def _tensor_of(array: np.ndarray) -> torch.Tensor:
    """Return a tensor over an array's own memory where torch can share it, else over a copy."""
    shareable = array.flags.writeable and min(array.strides, default=0) >= 0
    return torch.from_numpy(array if shareable else array.copy())


def as_dataset(dataset: Any) -> Any:
    """Return a tuple of arrays as the dataset of rows that is meant; other data as it is."""
    if type(dataset) is not tuple or not dataset or not all(map(_is_array, dataset)):
        return dataset
    _check_lengths(dataset)
    try:
        tensors = [_tensor_of(a) if isinstance(a, np.ndarray) else a for a in dataset]
    except (TypeError, ValueError) as error:
        dtypes = ", ".join(str(array.dtype) for array in dataset)
        raise ValueError(
            f"A dataset of arrays with dtypes {dtypes} do not become tensors: {error}."
        ) from None
    return TensorDataset(*tensors)


def _check_lengths(arrays: Iterable[Any]) -> None:
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"The arrays of a dataset have different lengths: {lengths}. Each must hold one row "
            "per sample."
        )


def _tuple_columns(data: Iterable[Any]) -> Columns | None:
    columns = [_column(item) for item in data]
    tensors = [column for column in columns if column is not None]
    if len(tensors) < len(columns) or not tensors:
        return None
    _check_lengths(tensors)
    if len({tensor.device for tensor in tensors}) > 1:
        return None
    return Columns(tensors, None, is_single=False)
