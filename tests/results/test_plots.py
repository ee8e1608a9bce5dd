"""Plots draw what they are given on the axes they are given, and leave no figure open."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from loopwright.results import classification_report, plots


def test_a_confusion_matrix_shows_its_counts() -> None:
    ax = plots.plot_confusion_matrix(np.array([[5, 1], [0, 7]]), ["cat", "dog"])
    assert [text.get_text() for text in ax.texts] == ["5", "1", "0", "7"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cat", "dog"]


def test_a_large_confusion_matrix_has_a_scale_in_place_of_numbers() -> None:
    ax = plots.plot_confusion_matrix(np.eye(40), range(40))
    assert not ax.texts
    assert len(ax.figure.axes) == 2


def test_of_many_classes_the_worst_are_drawn() -> None:
    """Of 50 classes one is never predicted right; curves stay readable and small."""
    true = np.arange(5000) % 50
    scores = np.random.default_rng(1).normal(size=(5000, 50)) + 4 * np.eye(50)[true]
    scores[true == 17, 17] -= 9
    report = classification_report(true, scores)
    roc, bars = plots.plot_roc_curves(report), plots.plot_per_class(report)
    assert len(roc.lines) == 11
    assert any(line.get_label().startswith("17 (area 0.0") for line in roc.lines)
    assert all(len(line.get_xdata()) <= 2000 for line in roc.lines)
    assert len(bars.patches) == 3 * 40
    assert "17" in [label.get_text() for label in bars.get_xticklabels()]


def test_given_axes_are_used_and_returned() -> None:
    axes = Figure().subplots(2, 3).ravel()
    report = classification_report([0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
    drawn = [
        plots.plot_roc_curves(report, ax=axes[0]),
        plots.plot_precision_recall_curves(report, ax=axes[1]),
        plots.plot_calibration(report.calibration(), ax=axes[2]),
        plots.plot_per_class(report, report.intervals(num_resamples=10), ax=axes[3]),
        plots.plot_series([3.0, 1.0, 2.0], "loss", ax=axes[4]),
        plots.plot_attention(np.ones((2, 3)), ["a", "b", "c"], ["d", "e"], ax=axes[5]),
    ]
    assert all(ax is given for ax, given in zip(drawn, axes, strict=True))
    assert axes[0].lines[1].get_label() == "0 (area 1.000)"
    assert axes[4].get_title() == "loss\nleast 1 at 1, most 3 at 0"


def test_the_area_below_the_steps_is_the_average_precision() -> None:
    """A step keeps the precision at its right end, as the sum of the average does."""
    report = classification_report([0, 1, 1, 0], [[0.2, 0.8], [0.3, 0.7], [0.6, 0.4], [0.9, 0.1]])
    line = plots.plot_precision_recall_curves(report).lines[1]
    assert line.get_drawstyle() == "steps-pre"
    recall, precision = line.get_data()
    area = np.sum(np.diff(recall, prepend=0.0) * precision)
    assert area == pytest.approx(report.average_precision[1])


def test_a_series_may_hold_nan() -> None:
    ax = plots.plot_series([1.0, float("nan"), 2.0], "loss")
    assert ax.get_title() == "loss\nleast 1 at 0, most 2 at 2"
    assert plots.plot_series([float("nan")], "loss").get_title() == "loss"


def test_a_histogram_names_mean_and_deviation() -> None:
    ax = plots.plot_histogram([1.0, 3.0], "Residual")
    assert ax.get_title() == "mean 2, standard deviation 1"
    assert sum(bar.get_height() for bar in ax.patches) == 2


@pytest.mark.system
def test_drawing_leaves_pyplot_alone() -> None:
    """Figures that pyplot holds stay in memory; ours are not among them."""
    code = (
        "import sys\n"
        "from loopwright.results import plots\n"
        "plots.plot_metrics({'a': 1.0})\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr
