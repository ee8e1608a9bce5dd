"""A user's own torch `Dataset` as a data set that can be declared."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from loopwright.datasets.base import Array, DataSource, Samples, as_labels, datasets


class TorchDataset(DataSource):
    """Reads a map-style `Dataset` whose samples are pairs of features and a label.

    Labels that are integers name classes: by the `classes` of the dataset, else from 0 to the
    highest that occurs, for which every sample is read once.

    Args:
        dataset: the dataset; features are tensors, arrays, numbers or text.

    Raises:
        ValueError: it has no length, or its samples are no pairs.
    """

    def __init__(self, dataset: "Dataset[Any]") -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise ValueError(
                f"{type(dataset).__name__} has no length: rows cannot be divided into parts. Give "
                "a map-style Dataset."
            )
        self.dataset: Any = dataset
        first = self._sample(0)
        is_text = isinstance(first[0], str)
        shape = () if is_text else tuple(first[0].shape)
        self._features = Array(shape, str if is_text else first[0].dtype)
        names = getattr(dataset, "classes", None)
        label = np.asarray(first[1])
        if names is None and label.dtype.kind in "iub":
            highest = max(int(self._sample(row)[1]) for row in range(len(self)))
            names = range(highest + 1)
        self._names = None if names is None else [str(name) for name in names]
        self._labels = as_labels(label[None], self._names)[1]

    @property
    def features_info(self) -> Array:
        return self._features

    @property
    def labels_info(self) -> Array:
        return self._labels

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, start: int, stop: int) -> tuple[Samples, Tensor]:
        samples = [self._sample(row) for row in range(start, stop)]
        labels, _ = as_labels(np.stack([np.asarray(label) for _, label in samples]), self._names)
        features = [feature for feature, _ in samples]
        alike = not isinstance(features[0], str) and len({f.shape for f in features}) == 1
        return torch.stack(features) if alike else features, labels

    def _sample(self, row: int) -> tuple[Any, Any]:
        sample = self.dataset[row]
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise ValueError(
                f"Sample {row} of {type(self.dataset).__name__} is a {type(sample).__name__}; "
                "expected a pair of features and a label."
            )
        features, label = sample
        if not isinstance(features, str):
            features = torch.as_tensor(np.asarray(features))
            if features.dtype == torch.float64:
                features = features.float()
        return features, label


def make_source(name: str, arguments: Mapping[str, Any]) -> DataSource:
    """Return the data set with a registered name or a path, made with these arguments.

    Raises:
        ValueError: the arguments do not fit, or what is there is no data set.
    """
    made: Any = datasets.get(name)(**arguments)
    if isinstance(made, DataSource):
        return made
    if isinstance(made, Dataset):
        return TorchDataset(made)
    raise ValueError(f"{name} makes a {type(made).__name__}; expected a DataSource or a Dataset.")
