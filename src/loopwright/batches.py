"""What a batch and the output for it hold: how many samples, and what a loss is a mean over."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from loopwright.accumulation import Count


def count_of(output: Mapping[str, Any]) -> Count:
    """Return the count that the loss in an output is a mean over.

    Raises:
        KeyError: The output holds neither `num_items_in_batch` nor `batch_size`.
    """
    count: Count | None = output.get("num_items_in_batch")
    if count is None:
        count = output.get("batch_size")
    if count is not None:
        return count
    raise KeyError(
        "calculate_..._batch_loss returned a dict without 'batch_size'; expected 'loss', "
        f"'model_outputs' and 'batch_size'. It has {', '.join(map(repr, output))}."
    )


def batch_size_of(output: Any, batch: Any) -> int:
    """Return the samples of a batch: as the output says, else as the batch shows."""
    size = output.get("batch_size") if isinstance(output, dict) else None
    return size if isinstance(size, int) else num_samples_in(batch)


def num_samples_in(batch: Any) -> int:
    """Return the length of the first tensor found in a batch; 0 without one."""
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(parts, Iterable) and not isinstance(parts, (str, bytes)):
        for part in parts:
            if size := num_samples_in(part):
                return size
    return 0
