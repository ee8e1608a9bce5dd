"""Turning labels and predictions into arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def to_array(values: Any) -> NDArray[Any]:
    """Return tensors, lists of tensors, lists or arrays as one array on the host.

    Raises:
        ValueError: The rows have different lengths.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return np.asarray(values.float() if values.dtype == torch.bfloat16 else values)
    if isinstance(values, list | tuple) and values and isinstance(values[0], torch.Tensor):
        return np.stack([to_array(value) for value in values])
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{type(values).__name__} of {len(values)} rows makes no array ({error}). Give rows of "
            "one length, or np_array=False to keep them as they are."
        ) from None


def class_labels(values: Any) -> NDArray[Any]:
    """Return one label per sample: [N] or [N, 1] as they are, scores [N, classes] by argmax."""
    array = to_array(values)
    if array.ndim == 2 and array.shape[1] > 1:
        return np.asarray(array.argmax(axis=1))
    return array.reshape(-1) if array.ndim == 2 else array


def positive_scores(values: Any) -> NDArray[Any]:
    """Return the score of the positive class per sample.

    Args:
        values: [N] or [N, 1], or [N, 2] with the positive class in the second column.
    """
    array = to_array(values)
    if array.ndim == 2 and array.shape[1] == 2:
        return array[:, 1]
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
        return array.reshape(-1)
    raise ValueError(
        f"Predictions have the shape {array.shape}, and two classes are expected: [N], [N, 1] or "
        "[N, 2]. For more classes use ClassificationResultPackage."
    )


def thresholded(values: Any, threshold: float | None) -> NDArray[Any]:
    """Return labels: scores at or above the threshold are 1, others 0.

    Labels of more than two classes stay as they are, as do all with `threshold=None`.

    Raises:
        ValueError: The values are neither probabilities nor labels.
    """
    raw = to_array(values)
    array = class_labels(raw)
    has_columns = raw.ndim == 2 and raw.shape[1] > 1
    if threshold is None or has_columns or array.dtype.kind not in "fiub":
        return array
    if array.size and array.min() >= 0 and array.max() <= 1:
        return (array >= threshold).astype(np.int64)
    if not np.array_equal(array, np.floor(array)):
        raise ValueError(
            f"Predictions reach from {array.min():.4g} to {array.max():.4g}, so a threshold of "
            f"{threshold} says nothing about them. Give probabilities, labels, or scores [N, "
            "classes]."
        )
    return array


def as_plain_lists(value: Any) -> Any:
    """Return a value with the arrays and tensors in it as numbers and lists."""
    if isinstance(value, Mapping):
        return {key: as_plain_lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain_lists(item) for item in value]
    is_array = isinstance(value, np.ndarray | np.generic | torch.Tensor)
    return value.tolist() if is_array else value
