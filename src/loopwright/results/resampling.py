"""Bootstrap intervals of statistics that are functions of sample weights."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bootstrap_intervals(
    statistics: Callable[[Floats], Mapping[str, Floats | float]],
    num_samples: int,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Floats]:
    """Return percentile intervals (Efron and Tibshirani, An Introduction to the Bootstrap, ch. 13).

    A resample draws `num_samples` samples with replacement; how often each was drawn is its weight.

    Args:
        statistics: Gets the weights [num_samples] and returns named numbers or arrays.
        num_samples: How many samples there are.
        num_resamples: How many resamples are drawn.
        confidence: The share of resamples that lie inside an interval.
        seed: Of the draws; no global generator is used.

    Returns:
        For each name the lower and the upper end, [2, ...]; NaN where every resample was NaN.
    """
    if num_samples < 1 or num_resamples < 2 or not 0 < confidence < 1:
        raise ValueError(
            f"{num_samples} samples, {num_resamples} resamples and a confidence of {confidence} "
            "make no interval: give at least 1 and 2, and a confidence between 0 and 1."
        )
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[Floats]] = {}
    for _ in range(num_resamples):
        indices = generator.integers(0, num_samples, num_samples)
        weights = np.bincount(indices, minlength=num_samples).astype(np.float64)
        for name, value in statistics(weights).items():
            drawn.setdefault(name, []).append(np.asarray(value, np.float64))
    tail = (1 - confidence) / 2
    return {name: _quantiles(np.stack(values), tail) for name, values in drawn.items()}


def _quantiles(values: Floats, tail: float) -> Floats:
    never = np.isnan(values).all(axis=0)
    ends = np.nanquantile(np.where(never, 0.0, values), [tail, 1 - tail], axis=0)
    return np.where(never, np.nan, ends)
