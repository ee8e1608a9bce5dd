"""Predictions of a TrainLoop: how those of batches are joined, and how long they are kept."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy


def append_predictions(y_batch: Any, predictions: list[Any]) -> list[Any]:
    """Collect the predictions of a batch as one item."""
    predictions.append(y_batch)
    return predictions


def append_concat_predictions(y_batch: Any, predictions: list[Any]) -> list[Any]:
    """Collect the predictions of a batch: the items of a list, anything else as one item."""
    predictions.extend(y_batch if isinstance(y_batch, list) else [y_batch])
    return predictions


def torch_cat_transf(predictions: list[torch.Tensor]) -> torch.Tensor:
    """Join tensors along their first dimension."""
    return torch.cat(predictions)


def keep_list_transf(predictions: list[Any]) -> list[Any]:
    """Leave the list as it was collected."""
    return predictions


def join_metadata(batches: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Join the metadata of batches: lists, tensors along the first dimension, arrays likewise.

    Raises:
        TypeError: An entry is something else.
    """
    collected: dict[str, list[Any]] = {}
    for batch in batches:
        for name, value in batch.items():
            collected.setdefault(name, []).append(value)
    return {name: _joined(name, values) for name, values in collected.items()}


def _joined(name: str, values: list[Any]) -> Any:
    if all(isinstance(value, list) for value in values):
        return list(chain.from_iterable(values))
    if all(isinstance(value, torch.Tensor) for value in values):
        return torch.cat(values)
    if all(isinstance(value, np.ndarray) for value in values):
        return np.concatenate(values)
    kinds = ", ".join(sorted({type(value).__name__ for value in values}))
    raise TypeError(
        f"The metadata {name!r} is a {kinds}; expected a list, a tensor or an array for each batch."
    )


def on_cpu(value: Any) -> Any:
    """Return a tensor on the CPU, anything else as it is."""
    return value.cpu() if isinstance(value, torch.Tensor) else value


class ModelPredictionStore:
    """Keeps losses and predictions for as long as what made them is the same.

    That is the loader, the model and the criterion as objects, and their weights: a write into
    one is seen by its version. Writes that go round it (`weight.data.mul_(2)`) are not.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, ...]] = {}

    def get(self, name: str, made_by: tuple[Any, ...], num_batches: int) -> Any:
        """Return what is kept under a name, or None.

        Args:
            name: Such as "train_loss".
            made_by: The loader, the model and the criterion.
            num_batches: The batches that were trained on so far.
        """
        kept, owners, stamp = self._kept.get(name, (None, (), None))
        same = len(owners) == len(made_by) and all(map(_is, owners, made_by))
        return kept if same and stamp == _stamp(made_by, num_batches) else None

    def put(self, name: str, made_by: tuple[Any, ...], num_batches: int, value: Any) -> None:
        """Keep a value, and drop what other weights made."""
        stamp = _stamp(made_by, num_batches)
        self._kept = {k: kept for k, kept in self._kept.items() if kept[2][0] == num_batches}
        self._kept[name] = value, made_by, stamp


def _is(one: Any, other: Any) -> bool:
    return one is other


def _stamp(made_by: tuple[Any, ...], num_batches: int) -> tuple[Any, ...]:
    modules = [owner for owner in made_by if isinstance(owner, nn.Module)]
    tensors = (tensor for m in modules for tensor in chain(m.parameters(), m.buffers()))
    return num_batches, *(_version(tensor) for tensor in tensors)


def _version(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return what changes when a tensor is written to, or gives way to another one."""
    writes = 0 if tensor.is_inference() else tensor._version
    has_memory = tensor.layout == torch.strided and not is_lazy(tensor)
    return id(tensor), writes, tensor.data_ptr() if has_memory else 0
