"""The base of metrics: a value that is computed when the metric is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from loopwright.results.arrays import to_array


class AbstractBaseMetric(ABC):
    """Computes itself on construction and then behaves like its value.

    Args:
        y_true: The labels of N samples.
        y_predicted: Their predictions, in the same order.
        metric_name: The key of the value in `get_metric_dict`.
        np_array: Whether both are made arrays; False leaves them as they are.
    """

    def __init__(
        self, y_true: Any, y_predicted: Any, metric_name: str, np_array: bool = True
    ) -> None:
        self.y_true: Any = to_array(y_true) if np_array else y_true
        self.y_predicted: Any = to_array(y_predicted) if np_array else y_predicted
        self.metric_name = metric_name
        self.metric_result = self.calculate_metric()

    @abstractmethod
    def calculate_metric(self) -> Any:
        """Return the value, a number or a dict of numbers, from `y_true` and `y_predicted`."""

    def get_metric(self) -> Any:
        """Return the value."""
        return self.metric_result

    def get_metric_dict(self) -> dict[str, Any]:
        """Return the value below the metric's name."""
        return {self.metric_name: self.metric_result}

    def __str__(self) -> str:
        return f"{self.metric_name}: {self.metric_result}"

    def __len__(self) -> int:
        if self.metric_result is None:
            return 0
        if isinstance(self.metric_result, list | dict):
            return len(self.metric_result)
        if _is_number(self.metric_result):
            return 1
        raise TypeError(
            f"{self.metric_name} is a {type(self.metric_result).__name__}, which has no length; "
            "only numbers, lists and dicts do."
        )

    def __contains__(self, name: object) -> bool:
        return name == self.metric_name or (
            isinstance(self.metric_result, dict) and name in self.metric_result
        )

    def __getitem__(self, name: str) -> Any:
        if name == self.metric_name:
            return self.metric_result
        if name in self:
            return self.metric_result[name]
        raise KeyError(f"{name!r} is not in {self.get_metric_dict()}")

    def __lt__(self, other: Any) -> bool:
        return bool(self._number() < _number_of(other))

    def __le__(self, other: Any) -> bool:
        return bool(self._number() <= _number_of(other))

    def __gt__(self, other: Any) -> bool:
        return bool(self._number() > _number_of(other))

    def __ge__(self, other: Any) -> bool:
        return bool(self._number() >= _number_of(other))

    def __add__(self, other: AbstractBaseMetric | dict[str, Any]) -> dict[str, Any]:
        """Return one dict of both."""
        if isinstance(other, AbstractBaseMetric):
            other = other.get_metric_dict()
        if not isinstance(other, dict):
            raise TypeError(f"A metric adds to a metric or a dict, not to {type(other).__name__}.")
        return {**self.get_metric_dict(), **other}

    __radd__ = __add__

    def _number(self) -> float:
        return _number_of(self.metric_result)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _number_of(value: Any) -> float:
    if isinstance(value, AbstractBaseMetric):
        value = value.metric_result
    if not _is_number(value):
        raise ValueError(f"Only numbers compare, and this is a {type(value).__name__}: {value!r}")
    return float(value)
