"""What a project measures: metrics by name over all samples of an epoch, and their report."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from loopwright.checkpoint import write_text_aside
from loopwright.plain_values import to_plain
from loopwright.results.classification_report import ClassificationReport
from loopwright.results.classification_statistics import confusion_matrix, precision_recall_f1
from loopwright.results.plots import (
    plot_confusion_matrix,
    plot_predicted_against_true,
    save_figure,
)

Values = NDArray[Any]


def accuracy(targets: Values, predictions: Values, **_: Any) -> float:
    """Return the share of samples whose class is predicted."""
    return float((targets == predictions).mean())


def _score(
    targets: Values, predictions: Values, *, which: int, average: str, num_classes: int
) -> float:
    """Return precision (0), recall (1) or F1 (2), averaged over classes."""
    matrix = confusion_matrix(targets, predictions, num_classes)
    if average == "micro":
        return float(matrix.trace() / matrix.sum())
    scores = precision_recall_f1(matrix)[which]
    present = matrix.sum(0) + matrix.sum(1) > 0
    if average == "macro":
        return float(scores[present].mean())
    if average == "weighted":
        return float(np.average(scores, weights=matrix.sum(1)))
    raise ValueError(f"average is {average!r}; expected micro, macro or weighted.")


def confusion_cells(
    targets: Values, predictions: Values, *, num_classes: int, **_: Any
) -> dict[str, int]:
    """Return how many samples are true and false positives and negatives (D-59).

    Of two classes class 1 is the positive one. Of more, each is counted against all others.
    """
    matrix = confusion_matrix(targets, predictions, num_classes).astype(np.int64)
    if num_classes == 2:
        tn, fp, fn, tp = matrix.ravel().tolist()
        return {"tp": tp, "tn": tn, "fp": fp, "fn": fn}
    tp, total = int(matrix.trace()), int(matrix.sum())
    wrong = total - tp
    return {"tp": tp, "tn": num_classes * total - tp - 2 * wrong, "fp": wrong, "fn": wrong}


def mean_squared_error(targets: Values, predictions: Values, **_: Any) -> float:
    """Return the mean of squared differences."""
    return float(np.square(targets - predictions, dtype=np.float64).mean())


def mean_absolute_error(targets: Values, predictions: Values, **_: Any) -> float:
    """Return the mean of differences without their signs."""
    return float(np.abs(targets - predictions, dtype=np.float64).mean())


def frechet_distance(targets: Values, predictions: Values, **_: Any) -> float:
    """Return how far the values of two sets of samples are apart, as normal distributions.

    The formula is eq. 6 of Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", on
    the samples themselves rather than on features of a network.

    Args:
        targets: real samples, [N, ...].
        predictions: generated ones, [N, ...].
    """
    real, made = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (targets, predictions))
    covariances = [np.atleast_2d(np.cov(each, rowvar=False)) for each in (real, made)]
    roots = np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(min=0) ** 0.5
    apart = np.square(real.mean(0) - made.mean(0)).sum()
    return float(apart + covariances[0].trace() + covariances[1].trace() - 2 * roots.sum())


METRICS: dict[str, Callable[..., Any]] = {
    "precision": partial(_score, which=0),
    "accuracy": accuracy,
    "recall": partial(_score, which=1),
    "f1": partial(_score, which=2),
    "confusion_matrix": confusion_cells,
    "mean_squared_error": mean_squared_error,
    "mean_absolute_error": mean_absolute_error,
    "frechet_distance": frechet_distance,
}
"""Functions of (targets, predictions, average, num_classes), arrays of one row per sample."""

RESAMPLED = METRICS.keys() - {"confusion_matrix", "frechet_distance"}
"""Metrics whose differences get an interval: numbers that are not biased by drawing rows twice."""

_MOST_BYTES = 2**28  # kept on an accelerator before targets and predictions go to the CPU

_OF_CLASSES = ("precision", "accuracy", "recall", "f1", "confusion_matrix")


class MetricSet:
    """Collects targets and predictions, and computes the metrics that are switched on.

    Args:
        metrics_config: which metrics are computed, by name.
        model_config: has `num_classes` (None where targets are numbers), `label_names`,
            `num_classes_conf_mat` and `average`.

    Raises:
        ValueError: a metric of classes is on, and `num_classes` is None.
    """

    def __init__(self, metrics_config: Mapping[str, bool], model_config: Mapping[str, Any]) -> None:
        self.names = [name for name, is_on in metrics_config.items() if is_on]
        self.num_classes: int | None = model_config["num_classes"]
        self._average: str = model_config["average"]
        self._shown: int | None = model_config["num_classes_conf_mat"]
        names: Sequence[str] | None = model_config["label_names"]
        self._labels = tuple(names or range(self.num_classes or 0))
        wrong = [name for name in self.names if name in _OF_CLASSES and not self.num_classes]
        if wrong:
            raise ValueError(
                f"metrics switches on {', '.join(wrong)}, and model_config has no num_classes. "
                "Give it, or choose mean_squared_error or mean_absolute_error."
            )
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self._targets: list[torch.Tensor] = []
        self._predictions: list[torch.Tensor] = []
        self._num_bytes = 0

    def update(self, targets: torch.Tensor, predictions: torch.Tensor) -> None:
        """Add the samples of a batch; they stay on their device until there are many.

        Raises:
            ValueError: the two are of different shapes, which arithmetic would spread to a table.
        """
        if targets.shape != predictions.shape:
            raise ValueError(
                f"Predictions are of shape {list(predictions.shape)}, and targets of "
                f"{list(targets.shape)}; expected one prediction for each target, in its shape."
            )
        self._targets.append(targets.detach())
        self._predictions.append(predictions.detach())
        self._num_bytes += targets.nbytes + predictions.nbytes
        if self._num_bytes > _MOST_BYTES:
            self.load_state_dict(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return what was added, on the CPU, for checkpoints."""
        kept = {"targets": self._targets, "predictions": self._predictions}
        return {
            name: torch.cat([part.cpu() for part in parts]) if parts else None
            for name, parts in kept.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on adding to what `state_dict` returned."""
        self.reset()
        if state["targets"] is not None:
            self._targets, self._predictions = [state["targets"]], [state["predictions"]]

    @property
    def targets(self) -> Values:
        """All targets since the last reset, [N, ...]."""
        return _joined(self._targets)

    @property
    def predictions(self) -> Values:
        """All predictions since the last reset, [N, ...]."""
        return _joined(self._predictions)

    def functions(self) -> dict[str, Callable[[Values, Values], Any]]:
        """Return the metrics that are on as functions of targets and predictions."""
        options = {"average": self._average, "num_classes": self.num_classes}
        return {name: partial(METRICS[name], **options) for name in self.names}

    def compute(self) -> dict[str, Any]:
        """Return each metric over all samples: numbers, and the cells of the confusion matrix.

        Raises:
            ValueError: a target or a prediction is none of the classes.
        """
        if not self._targets:
            return {}
        targets, predictions = self.targets, self.predictions
        if self.num_classes:
            _check_classes("targets", targets, self.num_classes)
            _check_classes("predictions", predictions, self.num_classes)
        return {name: each(targets, predictions) for name, each in self.functions().items()}

    def write_report(self, folder: Path, part: str, **more: Any) -> None:
        """Write `<part>_report.json` and a picture: a confusion matrix, or points for numbers.

        Args:
            folder: where to.
            part: such as "test".
            more: further entries of the report.
        """
        if not self._targets:
            return
        targets, predictions = self.targets, self.predictions
        report: dict[str, Any] = {"samples": len(targets), "metrics": self.compute(), **more}
        if self.num_classes:
            classes = ClassificationReport(
                self._labels, targets.astype(np.int64), predictions.astype(np.int64), None
            )
            report["classes"] = classes.to_dict(num_resamples=200)
            shown = slice(self._shown)
            ax = plot_confusion_matrix(classes.confusion[shown, shown], self._labels[shown])
            save_figure(ax, folder / f"{part}_confusion_matrix.png")
        elif "frechet_distance" not in self.names:
            ax = plot_predicted_against_true(targets.reshape(-1), predictions.reshape(-1))
            save_figure(ax, folder / f"{part}_predicted_against_true.png")
        text = json.dumps(to_plain(report), indent=2)
        write_text_aside(folder / f"{part}_report.json", text)


def _check_classes(what: str, values: Values, num_classes: int) -> None:
    if values.min() < 0 or values.max() >= num_classes:
        raise ValueError(
            f"The {what} hold classes from {values.min()} to {values.max()}, and num_classes is "
            f"{num_classes}; expected 0 to {num_classes - 1}."
        )


def _joined(parts: list[torch.Tensor]) -> Values:
    array: Values = torch.cat([part.cpu() for part in parts]).numpy()
    return array
