"""What a data set offers: a description of its features and labels, and the samples themselves."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from loopwright.registry import Registry

if TYPE_CHECKING:
    from loopwright.datasets.downloads import DownloadManager

Samples = Tensor | list[Any]
"""Rows of one tensor; a list where they do not stack: texts, or images of different sizes."""


@dataclass(frozen=True)
class Array:
    """Describes one part of a sample: its shape without the batch, and its type."""

    shape: tuple[int | None, ...]
    """None stands for a size that differs between samples, or that fitting decides."""
    dtype: torch.dtype | type[str]
    """`str` for text, which has the shape ()."""
    names: tuple[str, ...] = ()
    """Of the columns of a table; empty for others."""
    categories: tuple[tuple[str, ...], ...] = ()
    """For each column of a table the texts that its numbers stand for; empty for a number."""
    value_range: tuple[float | tuple[float, ...], float | tuple[float, ...]] | None = None
    """The least and the largest value of an image, for each channel where they differ."""
    vocabulary_size: int | None = None
    """How many different tokens there are, where the values are numbers of tokens."""
    tokens: tuple[str, ...] = ()
    """The texts that those stand for; empty where they are not known."""


@dataclass(frozen=True)
class ClassLabel(Array):
    """Describes a label that names one of several classes by its index."""

    names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Return how many classes there are."""
        return len(self.names)


class DataSource(ABC):
    """Is a data set that can be declared by its type.

    It describes itself without being read as far as that can be known; samples come in ranges of
    rows, so that data larger than memory can be read in chunks.
    """

    extra: ClassVar[str | None] = None
    """The extra of loopwright that it needs."""

    @property
    @abstractmethod
    def features_info(self) -> Array:
        """Describe what the preprocessors, or else the model, get."""

    @property
    @abstractmethod
    def labels_info(self) -> Array:
        """Describe what the model should give; a `ClassLabel` where that is a class."""

    def download_and_prepare(self, dl_manager: "DownloadManager | None" = None) -> None:
        """Bring the samples within reach; a second call does nothing."""
        return

    @abstractmethod
    def __len__(self) -> int:
        """Return how many samples there are."""

    @abstractmethod
    def read(self, start: int, stop: int) -> tuple[Samples, Tensor]:
        """Return features and labels of the rows from `start` up to `stop`, one row per sample."""

    def tensors(self) -> tuple[Samples, Tensor]:
        """Return all features and all labels."""
        return self.read(0, len(self))

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no row {index}: the data set has {len(self)}.")
        index %= len(self)
        features, labels = self.read(index, index + 1)
        return features[0], labels[0]


datasets: Registry[type[DataSource]] = Registry("data set", "loopwright.datasets")


def numbers(count: int) -> Array:
    """Describe so many numbers, float32."""
    return Array((count,), torch.float32)


def classes(names: Sequence[str]) -> ClassLabel:
    """Describe a label that is one of these classes."""
    return ClassLabel((), torch.int64, tuple(names))


def image(channels: int, height: int | None = None, width: int | None = None) -> Array:
    """Describe images of uint8, (channels, height, width)."""
    return Array((channels, height, width), torch.uint8, value_range=(0.0, 255.0))


def as_labels(values: np.ndarray, names: Sequence[str] | None = None) -> tuple[Tensor, Array]:
    """Return labels as tensor with their description.

    Integers and texts name classes: with `names`, integers are their indices, else every
    value that occurs is a class, in order. Other numbers are float32.

    Raises:
        ValueError: an index is beyond the names.
    """
    if values.dtype.kind == "f":
        numeric = torch.from_numpy(values.astype(np.float32).reshape(len(values), -1))
        return numeric, Array(tuple(numeric.shape[1:]), torch.float32)
    if names is None or values.dtype.kind not in "iu":
        occurring, indices = np.unique(values, return_inverse=True)
        texts = tuple(str(value) for value in occurring)
        if names is not None and (unknown := sorted(set(texts) - set(names))):
            raise ValueError(f"Labels hold {unknown[0]!r}, which is none of the classes {names}.")
        if names is not None:
            order = np.array([names.index(text) for text in texts], dtype=np.int64)
            indices, texts = order[indices], tuple(names)
        return torch.from_numpy(indices.reshape(values.shape).astype(np.int64)), classes(texts)
    if len(values) and not 0 <= values.min() <= values.max() < len(names):
        raise ValueError(
            f"Labels run from {values.min()} to {values.max()}; expected 0 to {len(names) - 1} for "
            f"{len(names)} classes."
        )
    return torch.from_numpy(values.astype(np.int64)), classes(names)
