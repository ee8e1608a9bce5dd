"""Preprocessors of numbers: scaling, replacing, choosing."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from loopwright.datasets.base import Array, Samples
from loopwright.extras import require
from loopwright.preprocessors.base import (
    Chunk,
    Preprocessor,
    as_float,
    as_tensor,
    flat,
    preprocessors,
    require_image,
    require_numbers,
    size_of,
)


@preprocessors.register("divide")
class Divide(Preprocessor):
    """Divides every feature by one number.

    Args:
        factor: what to divide by; not zero.
    """

    def __init__(self, factor: float) -> None:
        if factor == 0:
            raise ValueError("factor is 0. Give another number to divide by.")
        self.factor = factor

    def describe(self, info: Array) -> Array:
        require_numbers(info, "divide")
        bounds = None
        if info.value_range is not None:
            low, high = (np.asarray(bound) / self.factor for bound in info.value_range)
            bounds = _bounds(np.minimum(low, high), np.maximum(low, high))
        return replace(info, dtype=torch.float32, value_range=bounds)

    def transform(self, features: Samples) -> Samples:
        if isinstance(features, list):
            return [as_float(sample) / self.factor for sample in features]
        return as_float(features) / self.factor


def _bounds(
    low: np.ndarray, high: np.ndarray
) -> tuple[float | tuple[float, ...], float | tuple[float, ...]]:
    if low.ndim == 0:
        return float(low), float(high)
    return tuple(low.tolist()), tuple(high.tolist())


@preprocessors.register("replace")
class Replace(Preprocessor):
    """Puts one value in place of another.

    Args:
        from_val: a number, or null for missing ones; or a text that is all of a sample.
        to_val: what comes in its place.
    """

    def __init__(self, from_val: float | str | None, to_val: float | str) -> None:
        if isinstance(from_val, str) != isinstance(to_val, str):
            raise ValueError(f"from_val is {from_val!r} and to_val {to_val!r}: expected one kind.")
        self.from_val = from_val
        self.to_val = to_val

    def describe(self, info: Array) -> Array:
        if (info.dtype is str) != isinstance(self.to_val, str):
            raise ValueError(
                f"to_val is {self.to_val!r}, and features are "
                f"{'text' if info.dtype is str else 'numbers'}."
            )
        return replace(info, value_range=None)

    def transform(self, features: Samples) -> Samples:
        if isinstance(self.to_val, str):
            return [self.to_val if text == self.from_val else text for text in features]
        if isinstance(features, list):
            return [self._fill(sample, self.to_val) for sample in features]
        return self._fill(features, self.to_val)

    def _fill(self, sample: Tensor, value: float) -> Tensor:
        assert not isinstance(self.from_val, str)
        chosen = sample.isnan() if self.from_val is None else torch.eq(sample, self.from_val)
        return sample.masked_fill(chosen, value)


@preprocessors.register("standard_scaler")
class StandardScaler(Preprocessor):
    """Moves each feature to mean 0 and standard deviation 1 over the training part.

    A feature that never changes there is moved and not scaled. Missing values play no part and
    stay missing; categories of a table stay as they are. Sums are float64.
    """

    extra = "sklearn"
    learned = ("mean", "scale")

    def __init__(self) -> None:
        self.mean: np.ndarray | None = None
        self.scale: np.ndarray | None = None
        self._categories: tuple[tuple[str, ...], ...] = ()

    def describe(self, info: Array) -> Array:
        if info.dtype is str:
            require_numbers(info, "standard_scaler")
        self._categories = info.categories
        return replace(info, dtype=torch.float32, value_range=None)

    def fit_generator(self, chunks: Iterable[Chunk]) -> None:
        shape: tuple[int, ...] = ()
        scaler = require("sklearn.preprocessing", "sklearn").StandardScaler()
        for features, _ in chunks:
            rows = as_tensor(features, "standard_scaler")
            shape = tuple(rows.shape[1:])
            scaler.partial_fit(flat(rows))
        mean, scale = scaler.mean_, scaler.scale_
        if any(self._categories):
            is_category = np.array([bool(known) for known in self._categories])
            mean, scale = np.where(is_category, 0.0, mean), np.where(is_category, 1.0, scale)
        self.mean, self.scale = mean.reshape(shape), scale.reshape(shape)

    def transform(self, features: Samples) -> Tensor:
        self._require_fitted()
        rows = as_float(as_tensor(features, "standard_scaler"))
        mean, scale = torch.from_numpy(self.mean), torch.from_numpy(self.scale)
        return ((rows.double() - mean) / scale).to(rows.dtype)


@preprocessors.register("normalize")
class Normalize(Preprocessor):
    """Subtracts the mean of each channel of an image and divides by its standard deviation.

    Args:
        mean: for each channel; over the training part where it is left out.
        std: for each channel; over the training part where it is left out.
    """

    learned = ("mean", "std")

    def __init__(self, mean: list[float] | None = None, std: list[float] | None = None) -> None:
        if (mean is None) != (std is None) or (mean and std and len(mean) != len(std)):
            raise ValueError(f"mean is {mean} and std {std}: give both, or neither.")
        if std and min(std) <= 0:
            raise ValueError(f"std is {std}, expected more than 0 for each channel.")
        self.mean = np.array(mean, dtype=np.float64) if mean else None
        self.std = np.array(std, dtype=np.float64) if std else None
        self._is_given = mean is not None

    def describe(self, info: Array) -> Array:
        require_image(info, "normalize")
        bounds = None
        if self.mean is not None and self.std is not None:
            if len(self.mean) != info.shape[0]:
                raise ValueError(
                    f"mean has {len(self.mean)} values, and images have {info.shape[0]} channels."
                )
            if info.value_range is not None:
                low, high = ((np.asarray(b) - self.mean) / self.std for b in info.value_range)
                bounds = _bounds(low, high)
        return replace(info, dtype=torch.float32, value_range=bounds)

    def fit_generator(self, chunks: Iterable[Chunk]) -> None:
        if self._is_given:
            return
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for features, _ in chunks:
            for image in features:  # one by one: they may differ in size, and float64 is wide
                wide = image.double().flatten(1)
                count += wide.shape[1]
                total = total + wide.sum(dim=1)
                squares = squares + wide.square().sum(dim=1)
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        std[std <= 1e-7 * mean.abs()] = 1.0
        self.mean, self.std = mean.numpy(), std.numpy()

    def transform(self, features: Samples) -> Samples:
        self._require_fitted()
        mean, std = (torch.from_numpy(v).float()[:, None, None] for v in (self.mean, self.std))
        if isinstance(features, list):
            return [(as_float(image) - mean) / std for image in features]
        return (as_float(features) - mean) / std


Scorer = Literal["chi2", "f_classif", "f_regression", "mutual_info_classif"]


@preprocessors.register("kbest")
class KBest(Preprocessor):
    """Keeps the features that say most about the labels of the training part.

    Args:
        scorer: the function of scikit-learn's `feature_selection` that says how much.
        k: how many are kept.
    """

    extra = "sklearn"
    learned = ("kept",)

    def __init__(self, scorer: Scorer = "f_classif", k: int = 1000) -> None:
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1.")
        self.scorer: Scorer = scorer
        self.k = k
        self.kept: np.ndarray | None = None

    def describe(self, info: Array) -> Array:
        require_numbers(info, "kbest")
        size = size_of(info)
        if len(info.shape) != 1:
            raise ValueError(f"kbest takes rows of numbers; features have the shape {info.shape}.")
        if self.kept is None:
            count = None if size is None else min(self.k, size)
            return replace(info, shape=(count,), names=(), categories=(), value_range=None)
        names = tuple(info.names[i] for i in self.kept) if info.names else ()
        return replace(
            info,
            shape=(len(self.kept),),
            names=names,
            categories=((),) * len(names),
            value_range=None,
        )

    def fit(self, features: Samples, labels: Tensor | None = None) -> None:
        if labels is None:
            raise ValueError("kbest needs labels to fit.")
        rows = as_tensor(features, "kbest")
        targets = labels if labels.ndim == 1 or labels.shape[1] == 1 else labels.argmax(dim=1)
        selection = require("sklearn.feature_selection", "sklearn")
        best = selection.SelectKBest(getattr(selection, self.scorer), k=min(self.k, rows.shape[1]))
        self.kept = best.fit(rows.numpy(), targets.reshape(-1).numpy()).get_support(indices=True)

    def transform(self, features: Samples) -> Tensor:
        self._require_fitted()
        return as_tensor(features, "kbest")[:, torch.from_numpy(self.kept)]
