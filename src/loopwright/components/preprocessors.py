"""Preprocessors by name: fitted on the training part, applied to every part."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from loopwright.registry import Registry


class Preprocessor(Protocol):
    """Changes features, one row per sample, with what it learned from the training part."""

    def fit(self, features: Tensor, labels: Tensor | None = None) -> None:
        """Learn from the features of the training part, as the steps before left them."""

    def transform(self, features: Tensor) -> Tensor:
        """Return changed features and leaves those given as they are."""

    def state(self) -> dict[str, Any]:
        """Return what was learned: numbers, strings, arrays, tensors, lists and dicts."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` returned, of a step with the same arguments."""


preprocessors: Registry[type[Preprocessor]] = Registry("preprocessor")


@preprocessors.register("divide")
class Divide:
    """Divides every feature by one number.

    Args:
        factor: what to divide by; not zero.
    """

    def __init__(self, factor: float) -> None:
        if factor == 0:
            raise ValueError("factor is 0. Give another number to divide by.")
        self.factor = factor

    def fit(self, features: Tensor, labels: Tensor | None = None) -> None:
        """Learn nothing."""

    def transform(self, features: Tensor) -> Tensor:
        """Return the quotients."""
        return features / self.factor

    def state(self) -> dict[str, Any]:
        """Return nothing: it learned nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""


@preprocessors.register("standard_scaler")
class StandardScaler:
    """Moves each feature to mean 0 and standard deviation 1 over the training part.

    A feature that never changes there is moved and not scaled. Means are summed in float64.
    """

    def __init__(self) -> None:
        self._mean: Tensor | None = None
        self._scale: Tensor | None = None

    def fit(self, features: Tensor, labels: Tensor | None = None) -> None:
        """Learn mean and standard deviation of each feature."""
        wide = features.double()
        mean = wide.mean(dim=0)
        scale = wide.std(dim=0, correction=0)
        scale[scale <= 1e-12 * mean.abs()] = 1.0
        self._mean, self._scale = mean, scale

    def transform(self, features: Tensor) -> Tensor:
        """Return the scaled features in the type that came in."""
        if self._mean is None or self._scale is None:
            raise ValueError("standard_scaler has not been fitted. Call fit first.")
        return ((features.double() - self._mean) / self._scale).to(features.dtype)

    def state(self) -> dict[str, Any]:
        """Return mean and scale of each feature."""
        return {"mean": self._mean, "scale": self._scale}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take mean and scale of each feature."""
        self._mean, self._scale = state["mean"], state["scale"]
