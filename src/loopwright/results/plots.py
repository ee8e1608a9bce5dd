"""Plots of results: each function draws on the axes given, or on new ones, and returns it.

No global figure is made and no backend chosen, so that nothing is left open or shown.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loopwright.extras import require
from loopwright.results.classification_report import ClassificationReport
from loopwright.results.classification_statistics import Calibration, Floats

Axes = Any
"""A `matplotlib.axes.Axes`; None where new ones are wanted."""

_MOST_NUMBERED_CLASSES = 30
_MOST_CURVES = 10
_MOST_BARS = 40


def new_axes(size: tuple[float, float] = (6.4, 4.8)) -> Axes:
    """Return the axes of a new figure that pyplot knows nothing of.

    Args:
        size: In inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = require("matplotlib.figure", extra="plots").Figure(figsize=size, layout="constrained")
    return figure.subplots()


def save_figure(ax: Axes, path: str | Path) -> Path:
    """Write the figure of some axes to a file, whose ending decides the format."""
    path = Path(path)
    ax.figure.savefig(path)
    return path


def plot_confusion_matrix(confusion: Any, labels: Sequence[Any], *, ax: Axes = None) -> Axes:
    """Draw how many samples of each class [true, predicted]; numbered up to 30 classes."""
    size = 4 + min(len(labels), _MOST_NUMBERED_CLASSES) * 0.35
    ax = ax or new_axes((size, size))
    image = ax.imshow(confusion, cmap="Blues")
    ax.set(xlabel="Predicted", ylabel="True")
    if len(labels) <= _MOST_NUMBERED_CLASSES:
        ax.set_xticks(range(len(labels)), labels=[str(label) for label in labels], rotation=90)
        ax.set_yticks(range(len(labels)), labels=[str(label) for label in labels])
        bright = np.max(confusion) / 2
        for (row, column), count in np.ndenumerate(np.asarray(confusion)):
            color = "white" if count > bright else "black"
            ax.text(column, row, f"{count:d}", ha="center", va="center", color=color)
    else:
        ax.figure.colorbar(image, ax=ax)
    return ax


def plot_per_class(
    report: ClassificationReport, intervals: Mapping[str, Floats] | None = None, *, ax: Axes = None
) -> Axes:
    """Draw precision, recall and F1 of each class, with their intervals where given.

    Of more than 40 classes those with the lowest F1 are drawn.
    """
    chosen = _lowest(report.f1, _MOST_BARS)
    ax = ax or new_axes((4 + len(chosen) * 0.4, 4))
    positions = np.arange(len(chosen))
    for shift, name in zip((-0.27, 0.0, 0.27), ("precision", "recall", "f1"), strict=True):
        values = getattr(report, name)[chosen]
        ax.bar(positions + shift, values, width=0.25, label=name)
        if intervals is not None:
            low, high = intervals[name][:, chosen]
            ends = np.clip([values - low, high - values], 0, None)
            ax.errorbar(positions + shift, values, yerr=ends, fmt="none", ecolor="black", lw=1)
    ax.set_xticks(positions, labels=[str(report.labels[k]) for k in chosen])
    ax.set(xlabel="Class", ylim=(0, 1.02))
    ax.legend()
    return ax


def plot_roc_curves(report: ClassificationReport, *, ax: Axes = None) -> Axes:
    """Draw each class's ROC curve against all others; of more than 10 those with least area."""
    ax = ax or new_axes()
    ax.plot([0, 1], [0, 1], color="gray", lw=1, ls="--")
    for k in _lowest(report.roc_auc, _MOST_CURVES):
        label = f"{report.labels[k]} (area {report.roc_auc[k]:.3f})"
        ax.plot(*_thinned(report.ranking(k).roc_curve()), label=label)
    return _finish_curves(ax, "False positive rate", "True positive rate")


def plot_precision_recall_curves(report: ClassificationReport, *, ax: Axes = None) -> Axes:
    """Draw each class's precision over recall; of more than 10 those with the least average."""
    ax = ax or new_axes()
    for k in _lowest(report.average_precision, _MOST_CURVES):
        label = f"{report.labels[k]} (average {report.average_precision[k]:.3f})"
        curve = _thinned(report.ranking(k).precision_recall_curve())
        ax.plot(*curve, label=label, drawstyle="steps-pre")
    return _finish_curves(ax, "Recall", "Precision")


def _finish_curves(ax: Axes, xlabel: str, ylabel: str) -> Axes:
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    ax.legend()
    return ax


def _lowest(values: Floats, count: int) -> list[int]:
    """Return the indices of the lowest values, in their own order; all if they are few."""
    return sorted(np.argsort(values, kind="stable")[:count].tolist())


def _thinned(curve: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Return at most 2,000 points of a curve, ends included."""
    indices = np.unique(np.linspace(0, len(curve[0]) - 1, 2000).astype(int))
    return curve[0][indices], curve[1][indices]


def plot_calibration(found: Calibration, *, ax: Axes = None) -> Axes:
    """Draw the share of right predictions over their confidence, beside the diagonal."""
    ax = ax or new_axes()
    ax.plot([0, 1], [0, 1], color="gray", lw=1, ls="--")
    ax.bar(
        found.edges[:-1],
        np.nan_to_num(found.accuracy),
        np.diff(found.edges),
        align="edge",
        alpha=0.4,
    )
    ax.plot(found.confidence, found.accuracy, "o")
    title = f"Expected calibration error {found.expected_error:.3f}"
    ax.set(xlabel="Confidence", ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1), title=title)
    return ax


def plot_predicted_against_true(true: Any, predicted: Any, *, ax: Axes = None) -> Axes:
    """Draw a point for each of N values, beside the diagonal."""
    ax = ax or new_axes()
    ends = [min(np.min(true), np.min(predicted)), max(np.max(true), np.max(predicted))]
    ax.plot(ends, ends, color="gray", lw=1, ls="--")
    ax.scatter(true, predicted, s=8, alpha=0.5, rasterized=True)
    ax.set(xlabel="True", ylabel="Predicted")
    return ax


def plot_histogram(values: Any, name: str, *, ax: Axes = None) -> Axes:
    """Draw how values are distributed, with their mean and standard deviation."""
    ax = ax or new_axes()
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    ax.hist(finite, bins=min(100, max(10, int(len(finite) ** 0.5))))
    title = f"mean {values.mean():.4g}, standard deviation {values.std():.4g}"
    ax.set(xlabel=name, ylabel="Count", title=title)
    return ax


def plot_metrics(values: Mapping[str, float], *, ax: Axes = None) -> Axes:
    """Draw one bar for each number."""
    ax = ax or new_axes((6.4, 1.5 + 0.35 * len(values)))
    bars = ax.barh(list(values), list(values.values()))
    ax.bar_label(bars, fmt="%.4g", padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    return ax


def plot_series(values: Sequence[float], name: str, *, ax: Axes = None) -> Axes:
    """Draw the values of a metric over the epochs, from 0, with its extremes in the title."""
    ax = ax or new_axes()
    numbers = np.asarray(values, np.float64)
    ax.plot(range(len(numbers)), numbers, marker="o", ms=3)
    title = name
    if np.isfinite(numbers).any():
        low, high = int(np.nanargmin(numbers)), int(np.nanargmax(numbers))
        title += f"\nleast {numbers[low]:.5g} at {low}, most {numbers[high]:.5g} at {high}"
    ax.set(xlabel="Epoch", ylabel=name, title=title)
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def plot_attention(
    attention: Any, source: Sequence[str], target: Sequence[str], *, ax: Axes = None
) -> Axes:
    """Draw attention weights [target, source] with the tokens of both sentences."""
    ax = ax or new_axes((3 + 0.35 * len(source), 3 + 0.35 * len(target)))
    image = ax.imshow(np.asarray(attention), cmap="Reds", aspect="auto")
    ax.set_xticks(range(len(source)), labels=source, rotation=60)
    ax.set_yticks(range(len(target)), labels=target)
    ax.set(xlabel="Source", ylabel="Hypothesis")
    ax.figure.colorbar(image, ax=ax)
    return ax
