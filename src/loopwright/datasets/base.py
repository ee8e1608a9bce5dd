"""What a data set offers: a description of its features and labels, and the samples themselves."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from loopwright.registry import Registry


@dataclass(frozen=True)
class Array:
    """Describes one part of a sample: its shape without the batch, and its type."""

    shape: tuple[int, ...]
    dtype: torch.dtype


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

    Before `download_and_prepare` it knows its description only.
    """

    @property
    @abstractmethod
    def features_info(self) -> Array:
        """Describe what the model gets."""

    @property
    @abstractmethod
    def labels_info(self) -> Array:
        """Describe what the model should give; a `ClassLabel` where that is a class."""

    @abstractmethod
    def download_and_prepare(self) -> None:
        """Bring the samples within reach; a second call does nothing."""

    @abstractmethod
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return all features and all labels, one row per sample, in the order of the source."""

    def __len__(self) -> int:
        return len(self.tensors()[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        features, labels = self.tensors()
        return features[index], labels[index]


datasets: Registry[type[DataSource]] = Registry("data set")
