"""Real data sets that come inside of scikit-learn: nothing is downloaded."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from loopwright.datasets.base import Array, ClassLabel, DataSource, classes, datasets, numbers
from loopwright.datasets.downloads import DownloadManager
from loopwright.datasets.edges import find_edges
from loopwright.extras import require


class _Embedded(DataSource):
    """Reads one of scikit-learn's small data sets into tensors."""

    extra = "sklearn"
    _loader: ClassVar[str]
    _shape: ClassVar[tuple[int, ...]]
    _value_range: ClassVar[tuple[float, float] | None] = None
    _labels: ClassVar[Array]

    def __init__(self) -> None:
        self._tensors: tuple[Tensor, Tensor] | None = None

    @property
    def features_info(self) -> Array:
        return Array(self._shape, torch.float32, value_range=self._value_range)

    @property
    def labels_info(self) -> Array:
        return self._labels

    def download_and_prepare(self, dl_manager: DownloadManager | None = None) -> None:
        if self._tensors is not None:
            return
        load = getattr(require("sklearn.datasets", "sklearn"), self._loader)
        features, labels = load(return_X_y=True)
        features = features.astype(np.float32)
        if isinstance(self._labels, ClassLabel):
            labels = labels.astype(np.int64)
        else:
            labels = labels.astype(np.float32)[:, None]
        shape = (len(features), *self._shape)
        self._tensors = torch.from_numpy(features).reshape(shape), torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self._all()[1])

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        features, labels = self._all()
        return features[start:stop], labels[start:stop]

    def _all(self) -> tuple[Tensor, Tensor]:
        self.download_and_prepare()
        assert self._tensors is not None
        return self._tensors


@datasets.register("digits")
class Digits(_Embedded):
    """Holds 1,797 handwritten digits: grey images of 8 by 8 pixels with values 0 to 16."""

    _loader = "load_digits"
    _shape = (1, 8, 8)
    _value_range = (0.0, 16.0)
    _labels = classes("0123456789")


@datasets.register("digit_edges")
class DigitEdges(_Embedded):
    """Holds the edges of the digits, and the digits themselves as labels: values from 0 to 1.

    Args:
        aligned: whether an image stands beside its own edges, rather than beside those of another.
    """

    _shape = (1, 8, 8)
    _value_range = (0.0, 1.0)
    _labels = Array((1, 8, 8), torch.float32, value_range=(0.0, 1.0))

    def __init__(self, aligned: bool = True) -> None:
        super().__init__()
        self.aligned = aligned

    def download_and_prepare(self, dl_manager: DownloadManager | None = None) -> None:
        if self._tensors is not None:
            return
        digits = Digits()
        images = digits.read(0, len(digits))[0] / 16
        shown = images if self.aligned else images.roll(len(images) // 2, dims=0)
        self._tensors = find_edges(images), shown


@datasets.register("iris")
class Iris(_Embedded):
    """Holds 150 flowers of three kinds, each with four lengths in centimetres."""

    _loader = "load_iris"
    _shape = (4,)
    _labels = classes(["setosa", "versicolor", "virginica"])


@datasets.register("wine")
class Wine(_Embedded):
    """Holds 178 wines of three growers, each with 13 results of a chemical analysis."""

    _loader = "load_wine"
    _shape = (13,)
    _labels = classes(["class_0", "class_1", "class_2"])


@datasets.register("breast_cancer")
class BreastCancer(_Embedded):
    """Holds 569 tumours, malignant or benign, each with 30 measures of its cells."""

    _loader = "load_breast_cancer"
    _shape = (30,)
    _labels = classes(["malignant", "benign"])


@datasets.register("diabetes")
class Diabetes(_Embedded):
    """Holds 442 patients with ten standardised measures and how their disease went on: a number."""

    _loader = "load_diabetes"
    _shape = (10,)
    _labels = numbers(1)
