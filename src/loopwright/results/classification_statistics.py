"""What a classifier did on N samples: counts, rankings and calibration, with sample weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def confusion_matrix(
    true: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int, weights: Any = None
) -> Floats:
    """Return how often each class [true, predicted] occurred, from class indices [N]."""
    cells = np.bincount(true * num_classes + predicted, weights, num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.float64)


def precision_recall_f1(confusion: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Return the three per class, [classes] each; 0 where the denominator is 0."""
    hits, predicted, actual = confusion.diagonal(), confusion.sum(0), confusion.sum(1)
    return (
        _ratio(hits, predicted),
        _ratio(hits, actual),
        _ratio(2 * hits, predicted + actual),
    )


class Ranking:
    """Is an order of samples by falling score, in which equal scores count as one threshold.

    Args:
        scores: [N].
        positive: Whether each sample is of the class that is scored, [N].
    """

    def __init__(self, scores: Floats, positive: NDArray[np.bool_]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._positive = positive[self._order]
        self._ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)

    def counts(self, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """Return true and false positives at each threshold, from none to all samples."""
        ordered = 1.0 if weights is None else weights[self._order]
        hits = np.cumsum(ordered * self._positive)[self._ends]
        misses = np.cumsum(ordered * ~self._positive)[self._ends]
        return np.append(0.0, hits), np.append(0.0, misses)

    def roc_curve(self) -> tuple[Floats, Floats]:
        """Return the rates of false and of true positives at each threshold."""
        hits, misses = self.counts()
        return _ratio(misses, misses[-1]), _ratio(hits, hits[-1])

    def precision_recall_curve(self) -> tuple[Floats, Floats]:
        """Return recall and precision at each threshold."""
        hits, misses = (values[1:] for values in self.counts())
        return _ratio(hits, hits[-1]), _ratio(hits, hits + misses)

    def roc_auc(self, weights: Floats | None = None) -> float:
        """Return the area under the ROC curve; NaN where one of the two classes is missing."""
        hits, misses = self.counts(weights)
        if hits[-1] == 0 or misses[-1] == 0:
            return float("nan")
        area = np.sum(np.diff(misses) * (hits[1:] + hits[:-1]) / 2)
        return float(area / (hits[-1] * misses[-1]))

    def average_precision(self, weights: Floats | None = None) -> float:
        """Return the mean of precision over gained recall; NaN without positive samples."""
        hits, misses = self.counts(weights)
        if hits[-1] == 0:
            return float("nan")
        precision = _ratio(hits, hits + misses)[1:]
        return float(np.sum(np.diff(hits) * precision) / hits[-1])


@dataclass(frozen=True)
class Calibration:
    """How often a prediction was right, by the confidence that it was made with.

    Empty bins are NaN in `accuracy` and `confidence`.
    """

    edges: Floats
    """Ends of the bins, [bins + 1]."""
    weight: Floats
    """Samples in each bin, [bins]."""
    accuracy: Floats
    """Share of right predictions in each bin, [bins]."""
    confidence: Floats
    """Mean confidence in each bin, [bins]."""

    @property
    def expected_error(self) -> float:
        """The expected calibration error (Guo et al. 2017, On Calibration, eq. 3)."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(self.weight * gaps) / self.weight.sum())


def calibration(
    confidence: Floats, correct: NDArray[np.bool_], weights: Floats | None = None, *, bins: int = 10
) -> Calibration:
    """Put predictions into bins of equal width by their confidence.

    Args:
        confidence: The probability of the predicted class, [N].
        correct: Whether the prediction is right, [N].
        weights: Of the samples, [N].
        bins: How many bins there are between 0 and 1.
    """
    weights = np.ones(len(confidence)) if weights is None else weights
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    weight = np.bincount(index, weights, bins).astype(np.float64)
    accuracy = np.bincount(index, weights * correct, bins)
    total = np.bincount(index, weights * confidence, bins)
    empty = np.where(weight > 0, weight, np.nan)
    return Calibration(np.linspace(0, 1, bins + 1), weight, accuracy / empty, total / empty)


def to_probabilities(scores: NDArray[Any]) -> Floats:
    """Return probabilities [N, classes] for probabilities, log-probabilities or logits.

    Rows within 0 and 1 that sum to 1 (to 1e-3) are probabilities already; others go through
    softmax, which gives log-probabilities their probabilities back.
    """
    given = scores.astype(np.float64)
    if np.all((given >= 0) & (given <= 1)) and np.allclose(given.sum(axis=1), 1, atol=1e-3):
        return given
    exponentials = np.exp(given - given.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _ratio(part: Floats, whole: Any) -> Floats:
    whole = np.broadcast_to(whole, part.shape)
    ratio = np.zeros(part.shape)
    np.divide(part, whole, out=ratio, where=whole != 0)
    return ratio
