"""Plots of training: each function draws on the axes given, or on new ones, and returns it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loopwright.history import RunHistory
from loopwright.results.plots import Axes, new_axes, save_figure
from loopwright.schedulers.function_scheduler import Function

__all__ = [
    "gan_losses",
    "new_axes",
    "plot_accuracy",
    "plot_gan_losses",
    "plot_losses",
    "plot_metrics",
    "plot_rate_search",
    "plot_schedule",
    "save_figure",
]


def plot_losses(losses: Mapping[str, Sequence[float] | Any], *, ax: Axes = None) -> Axes:
    """Draw losses by name, on an axis of iterations that all share.

    Series of other lengths are stretched to the longest, so that a loss per epoch lies over one
    per iteration: each value stands where its stretch of iterations ends.
    """
    return _draw({name: np.asarray(values) for name, values in losses.items()}, "loss", ax)


def plot_gan_losses(history: RunHistory, *, ax: Axes = None) -> Axes:
    """Draw the loss of each of several networks, one value per epoch.

    Args:
        history: Of a run with several optimizers, whose losses are `train_<name>_loss_epoch`.
        ax: Where to draw.

    Raises:
        ValueError: The history has no such loss.
    """
    losses = gan_losses(history)
    if not losses:
        raise ValueError(
            "The history has no train_<name>_loss_epoch, which runs with several optimizers "
            f"record; it has {', '.join(sorted(history.get_metric_names())) or 'nothing'}."
        )
    ax = _draw({name: np.asarray(values) for name, values in losses.items()}, "loss", ax)
    ax.set(xlabel="epoch")
    return ax


def gan_losses(history: RunHistory) -> dict[str, list[float]]:
    """Return the losses of each of several networks by name; nothing where there is one."""
    found = {}
    for name in sorted(history.get_metric_names()):
        stem = name.removeprefix("train_").removesuffix("_loss_epoch")
        if name == f"train_{stem}_loss_epoch":
            found[stem] = list(history.get_metric_values(name))
    return found


def plot_accuracy(accuracy: Sequence[float] | Any, *, ax: Axes = None) -> Axes:
    """Draw the accuracy of each epoch."""
    ax = ax or new_axes()
    ax.plot(np.arange(1, len(accuracy) + 1), accuracy, marker="o", markersize=3)
    ax.set(xlabel="epoch", ylabel="accuracy")
    return ax


def plot_metrics(history: RunHistory, names: Sequence[str], *, ax: Axes = None) -> Axes:
    """Draw metrics of a run history by name, one value per epoch.

    Raises:
        ValueError: A name is not in the history.
    """
    ax = ax or new_axes()
    for name in names:
        history.get_latest_metric(name)  # says which names there are
        values = list(history.get_metric_values(name))
        ax.plot(np.arange(1, len(values) + 1), values, label=name)
    ax.set(xlabel="epoch")
    ax.legend()
    return ax


def plot_schedule(
    function: Function,
    num_iterations: int,
    *,
    iterations_per_epoch: int = 1,
    accuracy: Sequence[float] = (),
    name: str = "learning rate",
    ax: Axes = None,
) -> Axes:
    """Draw what a schedule function gives in a run.

    Args:
        function: A schedule function.
        num_iterations: Updates of the run.
        iterations_per_epoch: Updates in an epoch.
        accuracy: The accuracy of each epoch, for schedules that follow it.
        name: What is scheduled.
        ax: Where to draw.
    """
    values = [
        function(i, i // iterations_per_epoch, accuracy[: i // iterations_per_epoch])
        for i in range(num_iterations)
    ]
    ax = ax or new_axes()
    ax.plot(values)
    ax.set(xlabel="iteration", ylabel=name)
    return ax


def plot_rate_search(
    rates: Sequence[float] | Any,
    values: Sequence[float] | Any,
    *,
    name: str,
    chosen: tuple[float, float] | None = None,
    log: bool = True,
    ax: Axes = None,
) -> Axes:
    """Draw what a search measured at each learning rate.

    Args:
        rates: Learning rates.
        values: Losses or accuracies at them.
        name: What `values` are.
        chosen: The range that was chosen, marked by two lines.
        log: Whether the axis of rates is logarithmic.
        ax: Where to draw.
    """
    ax = ax or new_axes()
    ax.plot(rates, values)
    for rate in chosen or ():
        ax.axvline(rate, color="tab:red", linestyle="--", label=f"{rate:.3g}")
    ax.set(xlabel="learning rate", ylabel=name)
    if log:
        ax.set_xscale("log")
    if chosen:
        ax.legend()
    return ax


def _draw(series: Mapping[str, Any], label: str, ax: Axes) -> Axes:
    ax = ax or new_axes()
    longest = max((len(values) for values in series.values()), default=0)
    for name, values in series.items():
        if len(values):
            ends = np.arange(1, len(values) + 1) * (longest / len(values))
            ax.plot(ends, values, label=name)
    ax.set(xlabel="iteration", ylabel=label)
    ax.legend()
    return ax
