"""Real data sets that come inside of scikit-learn: nothing is downloaded."""

from typing import ClassVar

import torch
from torch import Tensor

from loopwright.datasets.base import Array, ClassLabel, DataSource, datasets
from loopwright.extras import require


class _Embedded(DataSource):
    """Reads one of scikit-learn's small data sets into tensors."""

    _loader: ClassVar[str]
    _features: ClassVar[Array]
    _labels: ClassVar[Array]

    def __init__(self) -> None:
        self._tensors: tuple[Tensor, Tensor] | None = None

    @property
    def features_info(self) -> Array:
        return self._features

    @property
    def labels_info(self) -> Array:
        return self._labels

    def download_and_prepare(self) -> None:
        if self._tensors is not None:
            return
        load = getattr(require("sklearn.datasets", "sklearn"), self._loader)
        features, labels = load(return_X_y=True)
        self._tensors = (
            torch.from_numpy(features).to(self._features.dtype).reshape(-1, *self._features.shape),
            torch.from_numpy(labels).to(self._labels.dtype).reshape(-1, *self._labels.shape),
        )

    def tensors(self) -> tuple[Tensor, Tensor]:
        self.download_and_prepare()
        assert self._tensors is not None
        return self._tensors


def _numbers(count: int) -> Array:
    return Array((count,), torch.float32)


def _classes(*names: str) -> ClassLabel:
    return ClassLabel((), torch.int64, names)


@datasets.register("digits")
class Digits(_Embedded):
    """Holds 1,797 handwritten digits: grey images of 8 by 8 pixels with values 0 to 16."""

    _loader = "load_digits"
    _features = Array((1, 8, 8), torch.float32)
    _labels = _classes(*"0123456789")


@datasets.register("iris")
class Iris(_Embedded):
    """Holds 150 flowers of three kinds, each with four lengths in centimetres."""

    _loader = "load_iris"
    _features = _numbers(4)
    _labels = _classes("setosa", "versicolor", "virginica")


@datasets.register("wine")
class Wine(_Embedded):
    """Holds 178 wines of three growers, each with 13 results of a chemical analysis."""

    _loader = "load_wine"
    _features = _numbers(13)
    _labels = _classes("class_0", "class_1", "class_2")


@datasets.register("breast_cancer")
class BreastCancer(_Embedded):
    """Holds 569 tumours, malignant or benign, each with 30 measures of its cells."""

    _loader = "load_breast_cancer"
    _features = _numbers(30)
    _labels = _classes("malignant", "benign")


@datasets.register("diabetes")
class Diabetes(_Embedded):
    """Holds 442 patients with ten standardised measures and how their disease went on: a number."""

    _loader = "load_diabetes"
    _features = _numbers(10)
    _labels = _numbers(1)
