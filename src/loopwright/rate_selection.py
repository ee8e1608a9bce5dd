"""Choosing a range of learning rates from what a search measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Curve:
    """What a search measured: one entry for each batch."""

    rates: Floats
    losses: Floats
    """Smoothed."""
    accuracy: Floats
    """After the update at each rate; empty where it was not measured."""

    @property
    def quality(self) -> Floats:
        """The accuracy, or where there is none the loss with its sign changed."""
        return self.accuracy if len(self.accuracy) else -self.losses


def select_max_acc(curve: Curve, factor: float) -> tuple[float, float]:
    """End at the rate of the best accuracy."""
    if not len(curve.accuracy):
        raise ValueError(
            "max_acc needs the accuracy, which was not measured. Give acc_test=True and validation "
            "data with classes, or lr_select_method='min_loss'."
        )
    high = float(curve.rates[int(np.argmax(curve.accuracy))])
    return high / factor, high


def select_min_loss(curve: Curve, factor: float) -> tuple[float, float]:
    """End at the rate of the lowest smoothed loss."""
    high = float(curve.rates[int(np.argmin(curve.losses))])
    return high / factor, high


def select_max_range(curve: Curve, factor: float) -> tuple[float, float]:
    """End at the highest rate before the loss exploded."""
    high = float(curve.rates[-1])
    return high / factor, high


def select_sobel(curve: Curve, factor: float) -> tuple[float, float]:
    """Begin where the quality rises fastest, and end where it is best after that.

    The slope is that of the Sobel kernel: a central difference of a smoothed curve.
    """
    return _ordered(curve, *_rise(_smooth(curve.quality)), factor)


def select_laplace(curve: Curve, factor: float) -> tuple[float, float]:
    """Begin where the quality bends upwards most, and end where it bends to its shoulder.

    The bend is that of the Laplace kernel: the second difference of a smoothed curve.
    """
    smooth = _smooth(curve.quality)
    bend = np.gradient(np.gradient(smooth))
    steepest, best = _rise(smooth)
    onset = int(np.argmax(bend[: steepest + 1]))
    shoulder = steepest + int(np.argmin(bend[steepest : best + 1]))
    return _ordered(curve, onset, shoulder, factor)


SELECTIONS: Mapping[str, Callable[[Curve, float], tuple[float, float]]] = {
    "max_acc": select_max_acc,
    "min_loss": select_min_loss,
    "max_range": select_max_range,
    "laplace": select_laplace,
    "sobel": select_sobel,
}
"""How a range is chosen from what a search measured, by name."""


def _smooth(values: Floats) -> Floats:
    """Return the mean of each value and its neighbours, a twentieth of the curve on either side."""
    reach = max(1, len(values) // 20)
    padded = np.pad(values, reach, mode="edge")
    return np.convolve(padded, np.full(2 * reach + 1, 1 / (2 * reach + 1)), mode="valid")


def _rise(smooth: Floats) -> tuple[int, int]:
    """Return where a curve rises fastest, and where it is highest after that.

    Raises:
        ValueError: It has too few points to have a slope.
    """
    if len(smooth) < 3:
        raise ValueError(
            f"Edges need three batches or more, and {len(smooth)} were measured. Search longer, or "
            "choose max_acc, min_loss or max_range."
        )
    steepest = int(np.argmax(np.gradient(smooth)))
    return steepest, steepest + int(np.argmax(smooth[steepest:]))


def _ordered(curve: Curve, low: int, high: int, factor: float) -> tuple[float, float]:
    """Return the rates at two places; at one and the same, a range that ends there."""
    top = float(curve.rates[high])
    return (float(curve.rates[low]) if low < high else top / factor), top
