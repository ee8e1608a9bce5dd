"""The report of a classifier: per class, calibrated or not, and how sure the numbers are."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopwright.results.arrays import class_labels, to_array
from loopwright.results.classification_statistics import (
    Calibration,
    Floats,
    Ranking,
    calibration,
    confusion_matrix,
    precision_recall_f1,
    to_probabilities,
)
from loopwright.results.resampling import bootstrap_intervals


@dataclass(frozen=True)
class ClassificationReport:
    """Describes predictions of N samples; arrays are [classes] in the order of `labels`.

    Make it with `classification_report`.
    """

    labels: tuple[Any, ...]
    """What the classes are called."""
    true: NDArray[np.int64]
    """The index of each sample's class, [N]."""
    predicted: NDArray[np.int64]
    """The index of each sample's predicted class, [N]."""
    probabilities: Floats | None
    """[N, classes]; None where predictions were labels."""

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """How many samples of each class [true, predicted]."""
        return confusion_matrix(self.true, self.predicted, len(self.labels)).astype(np.int64)

    @property
    def accuracy(self) -> float:
        """The share of samples that were predicted right."""
        return float(np.mean(self.true == self.predicted))

    @property
    def precision(self) -> Floats:
        """Of the samples predicted as a class, the share that is; 0 where none was."""
        return precision_recall_f1(self.confusion)[0]

    @property
    def recall(self) -> Floats:
        """Of the samples of a class, the share that was predicted so; 0 where there are none."""
        return precision_recall_f1(self.confusion)[1]

    @property
    def f1(self) -> Floats:
        """The harmonic mean of precision and recall."""
        return precision_recall_f1(self.confusion)[2]

    @property
    def support(self) -> NDArray[np.int64]:
        """How many samples are of each class."""
        return np.asarray(self.confusion.sum(axis=1))

    def ranking(self, index: int) -> Ranking:
        """Return the samples in the order of a class's probability: curves and areas below them."""
        return Ranking(self._require_probabilities()[:, index], self.true == index)

    @cached_property
    def roc_auc(self) -> Floats:
        """The area under each class's ROC curve against all others."""
        return np.array([self.ranking(k).roc_auc() for k in range(len(self.labels))])

    @cached_property
    def average_precision(self) -> Floats:
        """The mean precision of each class against all others."""
        return np.array([self.ranking(k).average_precision() for k in range(len(self.labels))])

    def calibration(self, weights: Floats | None = None, *, bins: int = 10) -> Calibration:
        """Return how often predictions were right, by the probability of the predicted class."""
        confidence = self._require_probabilities()[np.arange(len(self.true)), self.predicted]
        return calibration(confidence, self.true == self.predicted, weights, bins=bins)

    def intervals(self, **options: Any) -> dict[str, Floats]:
        """Return bootstrap intervals of accuracy, precision, recall, f1 and calibration error.

        Args:
            **options: `num_resamples`, `confidence` and `seed` of `bootstrap_intervals`.

        Returns:
            Lower and upper end: [2], or [2, classes].
        """

        def statistics(weights: Floats) -> dict[str, Floats | float]:
            counts = confusion_matrix(self.true, self.predicted, len(self.labels), weights)
            precision, recall, f1 = precision_recall_f1(counts)
            found: dict[str, Floats | float] = {"accuracy": counts.trace() / counts.sum()}
            found |= {"precision": precision, "recall": recall, "f1": f1}
            if self.probabilities is not None:
                found["expected_calibration_error"] = self.calibration(weights).expected_error
            return found

        return bootstrap_intervals(statistics, len(self.true), **options)

    def curve_intervals(self, **options: Any) -> dict[str, Floats]:
        """Return bootstrap intervals of `roc_auc` and `average_precision`, [2, classes].

        Takes time in proportion to samples, classes and resamples: with 10,000, 10 and 1,000 some
        seconds.

        Args:
            **options: As in `intervals`.
        """
        rankings = [self.ranking(k) for k in range(len(self.labels))]

        def statistics(weights: Floats) -> dict[str, Floats | float]:
            return {
                "roc_auc": np.array([each.roc_auc(weights) for each in rankings]),
                "average_precision": np.array(
                    [each.average_precision(weights) for each in rankings]
                ),
            }

        return bootstrap_intervals(statistics, len(self.true), **options)

    def to_dict(self, **options: Any) -> dict[str, Any]:
        """Return all numbers but curves as plain lists, with their intervals.

        Args:
            **options: As in `intervals`.
        """
        found: dict[str, Any] = {
            "labels": list(self.labels),
            "confusion_matrix": self.confusion.tolist(),
            "accuracy": self.accuracy,
            "precision": self.precision.tolist(),
            "recall": self.recall.tolist(),
            "f1": self.f1.tolist(),
            "support": self.support.tolist(),
        }
        if self.probabilities is not None:
            found["roc_auc"] = self.roc_auc.tolist()
            found["average_precision"] = self.average_precision.tolist()
            found["expected_calibration_error"] = self.calibration().expected_error
        found["intervals"] = {k: v.tolist() for k, v in self.intervals(**options).items()}
        return found

    def _require_probabilities(self) -> Floats:
        if self.probabilities is None:
            raise ValueError(
                "The predictions are labels, so there are no curves and no calibration. Predict "
                "scores, [N, classes], or probabilities of class 1, [N]."
            )
        return self.probabilities


def classification_report(
    y_true: Any, y_predicted: Any, *, positive_class_thresh: float | None = None
) -> ClassificationReport:
    """Compare labels with predictions.

    Args:
        y_true: Labels [N], or [N, classes] one-hot.
        y_predicted: Labels [N]; or probabilities, log-probabilities or logits [N, classes], whose
            columns are the classes 0, 1, ...
        positive_class_thresh: When given, `y_predicted` [N] is the probability of class 1, which
            is predicted at or above this threshold.
    """
    true, scores = class_labels(y_true), to_array(y_predicted)
    if len(true) != len(scores) or not len(true):
        raise ValueError(
            f"There are {len(true)} labels and {len(scores)} predictions; give as many of each, "
            "and at least one."
        )
    probabilities: Floats | None = None
    if positive_class_thresh is not None and (scores.ndim == 1 or scores.shape[1] == 1):
        positive = _probability_of_class_1(scores.reshape(-1))
        probabilities = np.stack([1 - positive, positive], axis=1)
        predicted = (positive >= positive_class_thresh).astype(np.int64)
    elif scores.ndim == 2 and scores.shape[1] > 1:
        probabilities = to_probabilities(scores)
        predicted = scores.argmax(axis=1)
        if positive_class_thresh is not None and scores.shape[1] == 2:
            predicted = (probabilities[:, 1] >= positive_class_thresh).astype(np.int64)
    else:
        predicted = class_labels(scores)
    if probabilities is not None:
        labels = _checked_classes(true, probabilities.shape[1])
        return ClassificationReport(labels, true.astype(np.int64), predicted, probabilities)
    names, indices = np.unique(np.concatenate([true, predicted]), return_inverse=True)
    return ClassificationReport(
        tuple(names.tolist()), indices[: len(true)], indices[len(true) :], None
    )


def _probability_of_class_1(scores: NDArray[Any]) -> Floats:
    if scores.min() < 0 or scores.max() > 1:
        raise ValueError(
            f"Scores of class 1 reach from {scores.min():.4g} to {scores.max():.4g}, and "
            "probabilities between 0 and 1 are expected. Apply a sigmoid in get_predictions."
        )
    return scores.astype(np.float64)


def _checked_classes(true: NDArray[Any], num_classes: int) -> tuple[int, ...]:
    found = np.unique(true)
    if found.dtype.kind not in "fiub" or not np.isin(found, np.arange(num_classes)).all():
        raise ValueError(
            f"Predictions have {num_classes} columns, so labels are expected to be whole numbers "
            f"from 0 to {num_classes - 1}. Found: {found[:10].tolist()}."
        )
    return tuple(range(num_classes))
