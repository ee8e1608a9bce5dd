"""Result packages of classes, numbers, and metrics of one's own."""

from collections.abc import Callable, Sequence
from typing import Any

from loopwright.results import plots
from loopwright.results.basic_metrics import (
    AccuracyMetric,
    F1ScoreMetric,
    MeanAbsoluteErrorMetric,
    MeanSquaredErrorMetric,
    PrecisionRecallCurveAUCMetric,
    ROCAUCMetric,
)
from loopwright.results.classification_report import ClassificationReport, classification_report
from loopwright.results.classification_statistics import to_probabilities
from loopwright.results.metric import AbstractBaseMetric
from loopwright.results.package import AbstractResultPackage


class GeneralResultPackage(AbstractResultPackage):
    """Computes metrics of one's choice.

    Args:
        metrics_list: Classes (or functions) called with labels and predictions that return a
            metric each.
        strict_content_check: Whether missing content raises rather than warns.
        **kwargs: Kept in `package_metadata`.
    """

    def __init__(
        self,
        metrics_list: Sequence[Callable[[Any, Any], AbstractBaseMetric]],
        strict_content_check: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__("GeneralResultPackage", strict_content_check, **kwargs)
        if not metrics_list:
            raise ValueError(
                "metrics_list is empty; give at least one metric, such as F1ScoreMetric."
            )
        self.metrics_list = metrics_list

    def prepare_results_dict(self) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for metric in self.metrics_list:
            results |= metric(self.y_true, self.y_predicted).get_metric_dict()
        return results


class _ClassificationPackage(AbstractResultPackage):
    """Has a report beside its results."""

    positive_class_thresh: float | None = None
    num_resamples: int = 1000
    """How many bootstrap resamples the intervals of saved results rest on."""

    def report(self) -> ClassificationReport:
        """Return precision, recall, F1, curves and calibration per class, with intervals."""
        self._require_results()
        return classification_report(
            self.y_true, self.y_predicted, positive_class_thresh=self.positive_class_thresh
        )

    def report_dict(self) -> dict[str, Any]:
        return self.report().to_dict(num_resamples=self.num_resamples)

    def plots(self) -> dict[str, Callable[[Any], Any]]:
        report = self.report()
        found: dict[str, Callable[[Any], Any]] = {
            "confusion_matrix": lambda ax: plots.plot_confusion_matrix(
                report.confusion, report.labels, ax=ax
            ),
            "per_class": lambda ax: plots.plot_per_class(
                report, report.intervals(num_resamples=self.num_resamples), ax=ax
            ),
        }
        if report.probabilities is not None:
            found["roc"] = lambda ax: plots.plot_roc_curves(report, ax=ax)
            found["precision_recall"] = lambda ax: plots.plot_precision_recall_curves(report, ax=ax)
            found["calibration"] = lambda ax: plots.plot_calibration(report.calibration(), ax=ax)
        return found


class ClassificationResultPackage(_ClassificationPackage):
    """Gives the accuracy of any number of classes; `report()` gives more.

    Predictions are labels [N], or scores [N, classes].

    Args:
        strict_content_check: Whether missing content raises rather than warns.
        **kwargs: Kept in `package_metadata`.
    """

    def __init__(self, strict_content_check: bool = False, **kwargs: Any) -> None:
        super().__init__("ClassificationResult", strict_content_check, **kwargs)

    def prepare_results_dict(self) -> dict[str, Any]:
        metric = AccuracyMetric(self.y_true, self.y_predicted, positive_class_thresh=None)
        return metric.get_metric_dict()


class BinaryClassificationResultPackage(_ClassificationPackage):
    """Gives accuracy, F1, and the areas below the ROC and precision-recall curves of two classes.

    Predictions are probabilities of class 1, [N], or probabilities, log-probabilities or logits of
    both classes, [N, 2].

    Args:
        positive_class_thresh: Class 1 is predicted at or above it.
        strict_content_check: Whether missing content raises rather than warns.
        **kwargs: Kept in `package_metadata`.
    """

    def __init__(
        self,
        positive_class_thresh: float | None = 0.5,
        strict_content_check: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__("BinaryClassificationResult", strict_content_check, **kwargs)
        self.positive_class_thresh = positive_class_thresh

    def prepare_results_dict(self) -> dict[str, Any]:
        labels, scores, threshold = self.y_true, self.y_predicted, self.positive_class_thresh
        if scores.ndim == 2 and scores.shape[1] == 2:
            scores = to_probabilities(scores)[:, 1]
        return {
            **AccuracyMetric(labels, scores, positive_class_thresh=threshold).get_metric_dict(),
            **ROCAUCMetric(labels, scores).get_metric_dict(),
            **PrecisionRecallCurveAUCMetric(labels, scores).get_metric_dict(),
            **F1ScoreMetric(labels, scores, positive_class_thresh=threshold).get_metric_dict(),
        }


class RegressionResultPackage(AbstractResultPackage):
    """Gives the mean squared and the mean absolute error of targets [N] or [N, outputs].

    Args:
        strict_content_check: Whether missing content raises rather than warns.
        **kwargs: Kept in `package_metadata`.
    """

    def __init__(self, strict_content_check: bool = False, **kwargs: Any) -> None:
        super().__init__("RegressionResult", strict_content_check, **kwargs)

    def prepare_results_dict(self) -> dict[str, Any]:
        squared = MeanSquaredErrorMetric(self.y_true, self.y_predicted)
        return squared + MeanAbsoluteErrorMetric(self.y_true, self.y_predicted)

    def plots(self) -> dict[str, Callable[[Any], Any]]:
        self._require_results()
        true, predicted = self.y_true.reshape(-1), self.y_predicted.reshape(-1)
        return {
            "predicted_against_true": lambda ax: plots.plot_predicted_against_true(
                true, predicted, ax=ax
            ),
            "residuals": lambda ax: plots.plot_histogram(predicted - true, "Residual", ax=ax),
        }
