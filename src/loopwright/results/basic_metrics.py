"""Metrics of classes and numbers, computed by scikit-learn."""

from typing import Any

from loopwright.extras import require
from loopwright.results.arrays import class_labels, positive_scores, thresholded
from loopwright.results.metric import AbstractBaseMetric


def _sklearn() -> Any:
    return require("sklearn.metrics", extra="sklearn")


class AccuracyMetric(AbstractBaseMetric):
    """Is the share of samples whose label is predicted.

    Args:
        y_true: Labels [N], or [N, classes] one-hot.
        y_predicted: Labels [N], scores [N, classes], or probabilities [N] of two classes.
        positive_class_thresh: Probabilities at or above it are class 1; None takes all one-column
            predictions as labels.
    """

    def __init__(
        self, y_true: Any, y_predicted: Any, positive_class_thresh: float | None = 0.5
    ) -> None:
        self.positive_class_thresh = positive_class_thresh
        super().__init__(y_true, y_predicted, metric_name="Accuracy")

    def calculate_metric(self) -> float:
        predicted = thresholded(self.y_predicted, self.positive_class_thresh)
        return float(_sklearn().accuracy_score(class_labels(self.y_true), predicted))


class ROCAUCMetric(AbstractBaseMetric):
    """Is the area under the ROC curve of two classes.

    Args:
        y_true: Labels 0 and 1, [N].
        y_predicted: The score of class 1 [N], or of both classes [N, 2].
    """

    def __init__(self, y_true: Any, y_predicted: Any) -> None:
        super().__init__(y_true, y_predicted, metric_name="ROC_AUC")

    def calculate_metric(self) -> float:
        labels, scores = class_labels(self.y_true), positive_scores(self.y_predicted)
        return float(_sklearn().roc_auc_score(labels, scores))


class PrecisionRecallCurveAUCMetric(AbstractBaseMetric):
    """Is the area under the precision-recall curve of two classes, by the trapezoidal rule.

    Args:
        y_true: Labels 0 and 1, [N].
        y_predicted: The score of class 1 [N], or of both classes [N, 2].
    """

    def __init__(self, y_true: Any, y_predicted: Any) -> None:
        super().__init__(y_true, y_predicted, metric_name="PrecisionRecall_AUC")

    def calculate_metric(self) -> float:
        labels, scores = class_labels(self.y_true), positive_scores(self.y_predicted)
        precision, recall, _ = _sklearn().precision_recall_curve(labels, scores)
        return float(_sklearn().auc(recall, precision))


class _ThresholdMetric(AbstractBaseMetric):
    """Is a metric of two classes; scores at or above `positive_class_thresh` are class 1."""

    name: str
    function: str

    def __init__(
        self, y_true: Any, y_predicted: Any, positive_class_thresh: float | None = 0.5
    ) -> None:
        self.positive_class_thresh = positive_class_thresh
        super().__init__(y_true, y_predicted, metric_name=self.name)

    def calculate_metric(self) -> float:
        predicted = positive_scores(self.y_predicted)
        if self.positive_class_thresh is not None:
            predicted = (predicted >= self.positive_class_thresh).astype(int)
        function = getattr(_sklearn(), self.function)
        return float(function(class_labels(self.y_true), predicted, zero_division=0.0))


class F1ScoreMetric(_ThresholdMetric):
    """Is the harmonic mean of precision and recall of class 1; 0 where it is not defined."""

    name, function = "F1_score", "f1_score"


class PrecisionMetric(_ThresholdMetric):
    """Is the share of samples predicted as class 1 that are; 0 where none is."""

    name, function = "Precision", "precision_score"


class RecallMetric(_ThresholdMetric):
    """Is the share of samples of class 1 that are predicted so; 0 where there is none."""

    name, function = "Recall", "recall_score"


class MeanSquaredErrorMetric(AbstractBaseMetric):
    """Is the mean of squared errors, over targets [N] or [N, outputs]."""

    def __init__(self, y_true: Any, y_predicted: Any) -> None:
        super().__init__(y_true, y_predicted, metric_name="Mean_squared_error")

    def calculate_metric(self) -> float:
        return float(_sklearn().mean_squared_error(self.y_true, self.y_predicted))


class MeanAbsoluteErrorMetric(AbstractBaseMetric):
    """Is the mean of absolute errors, over targets [N] or [N, outputs]."""

    def __init__(self, y_true: Any, y_predicted: Any) -> None:
        super().__init__(y_true, y_predicted, metric_name="Mean_absolute_error")

    def calculate_metric(self) -> float:
        return float(_sklearn().mean_absolute_error(self.y_true, self.y_predicted))
