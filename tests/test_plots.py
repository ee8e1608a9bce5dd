"""Plots of training: what is drawn, read back from the axes."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from loopwright.history import InMemoryRunHistory  # noqa: E402
from loopwright.plots import (  # noqa: E402
    new_axes,
    plot_accuracy,
    plot_losses,
    plot_metrics,
    plot_rate_search,
    plot_schedule,
    save_figure,
)
from loopwright.schedulers import DecayWhenAcc, EpochSet, Triangular  # noqa: E402


def lines(ax):
    return {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}


def test_losses_share_an_axis_of_iterations():
    ax = new_axes()
    drawn = plot_losses({"train": [4.0, 3.0, 2.0, 1.0], "validation": np.array([3.5, 1.5])}, ax=ax)
    assert drawn is ax
    assert lines(ax) == {
        "train": [[1, 4], [2, 3], [3, 2], [4, 1]],
        "validation": [[2, 3.5], [4, 1.5]],
    }
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("iteration", "loss")


def test_accuracy_stands_at_its_epoch():
    (line,) = plot_accuracy([0.5, 0.75]).get_lines()
    assert line.get_xydata().tolist() == [[1, 0.5], [2, 0.75]]


def test_metrics_come_from_a_history():
    history = InMemoryRunHistory()
    for value in (3.0, 2.0):
        history.update_metric("eval_loss_epoch", value)
    assert lines(plot_metrics(history, ["eval_loss_epoch"])) == {
        "eval_loss_epoch": [[1, 3], [2, 2]]
    }
    with pytest.raises(ValueError, match="eval_loss_epoch"):
        plot_metrics(history, ["evalloss"])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (Triangular(lr_min=0.0, lr_max=1.0, stepsize=2), [0.0, 0.5, 1.0, 0.5]),
        (EpochSet({0: 1.0, 1: 0.5}), [1.0, 1.0, 0.5, 0.5]),
        (DecayWhenAcc(initial_lr=1.0, lr_decay=0.5), [1.0, 1.0, 1.0, 1.0]),
        (lambda iteration, epoch, accuracy: len(accuracy), [0, 0, 1, 1]),
    ],
)
def test_a_schedule_is_drawn_as_a_run_would_use_it(function, expected):
    """L-89: schedules are plotted."""
    ax = plot_schedule(function, 4, iterations_per_epoch=2, accuracy=[0.5, 0.1])
    assert ax.get_lines()[0].get_ydata().tolist() == expected


def test_a_search_marks_what_was_chosen(tmp_path: Path):
    ax = plot_rate_search([1e-3, 1e-2, 1e-1], [3.0, 2.0, 4.0], name="loss", chosen=(1e-3, 1e-2))
    assert ax.get_xscale() == "log"
    assert [line.get_xdata()[0] for line in ax.get_lines()] == [1e-3, 1e-3, 1e-2]
    assert save_figure(ax, tmp_path / "search.svg").read_text().startswith("<?xml")


def test_nothing_is_left_open():
    plot_accuracy([0.5])
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
