"""Metrics of classes and numbers: their values by hand, and how a metric behaves (A-82 to A-89)."""

import numpy as np
import pytest
import torch

from loopwright.results import (
    AbstractBaseMetric,
    AccuracyMetric,
    F1ScoreMetric,
    MeanAbsoluteErrorMetric,
    MeanSquaredErrorMetric,
    PrecisionMetric,
    PrecisionRecallCurveAUCMetric,
    RecallMetric,
    ROCAUCMetric,
)


class Constant(AbstractBaseMetric):
    def __init__(self, value: object) -> None:
        self.value = value
        super().__init__([0], [0], metric_name="constant")

    def calculate_metric(self) -> object:
        return self.value


def test_a89_a_metric_computes_on_construction() -> None:
    metric = AccuracyMetric([1, 0, 1, 1], [1, 1, 1, 1])
    assert metric.get_metric() == metric.metric_result == 0.75
    assert metric.get_metric_dict() == {"Accuracy": 0.75}
    assert str(metric) == "Accuracy: 0.75"


def test_a89_metrics_compare_with_metrics_and_numbers() -> None:
    low, high = Constant(10), Constant(12.5)
    assert low < high
    assert low <= Constant(10)
    assert high > low
    assert high >= 12.5
    assert not high < 10
    with pytest.raises(ValueError, match="Only numbers compare"):
        assert low < Constant({"a": 1})


def test_a89_metrics_hold_names_and_have_a_length() -> None:
    single, several = Constant(3), Constant({"a": 1, "b": 2})
    assert "constant" in single
    assert "a" not in single
    assert single["constant"] == 3
    assert "a" in several
    assert several["b"] == 2
    assert (len(single), len(several), len(Constant(None))) == (1, 2, 0)
    with pytest.raises(KeyError, match="'c' is not in"):
        several["c"]
    with pytest.raises(TypeError, match="has no length"):
        len(Constant("text"))


def test_a89_metrics_add_into_a_dict() -> None:
    assert Constant(1) + AccuracyMetric([1], [1]) == {"constant": 1, "Accuracy": 1.0}
    assert Constant(1) + {"a": 2} == {"constant": 1, "a": 2}
    assert {"a": 2} + Constant(1) == {"constant": 1, "a": 2}
    with pytest.raises(TypeError, match="not to int"):
        Constant(1) + 3  # type: ignore[operator]


@pytest.mark.parametrize(
    ("true", "predicted", "threshold", "expected"),
    [
        ([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], None, 2 / 3),
        ([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], 0.5, 2 / 3),
        ([0, 1, 1], [0.2, 0.5, 0.4], 0.5, 2 / 3),
        ([0, 1, 1], [0.2, 0.5, 0.4], 0.6, 1 / 3),
        ([[0], [1], [1]], [[0.2], [0.7], [0.4]], 0.5, 2 / 3),
        ([0, 1, 2, 3], [0, 1, 1, 3], 0.5, 0.75),
        ([[1, 0], [0, 1]], [[2.0, -1.0], [3.0, -4.0]], None, 0.5),
        (["cat", "dog"], ["cat", "cat"], None, 0.5),
    ],
)
def test_a82_accuracy_of_labels_scores_and_probabilities(
    true: object, predicted: object, threshold: float | None, expected: float
) -> None:
    metric = AccuracyMetric(true, predicted, positive_class_thresh=threshold)
    assert metric.get_metric() == pytest.approx(expected, abs=1e-15)


def test_accuracy_refuses_logits_of_two_classes() -> None:
    with pytest.raises(ValueError, match=r"reach from -2.5 to 3, so a threshold of 0.5"):
        AccuracyMetric([0, 1], [-2.5, 3.0])


def test_metrics_take_tensors_of_any_type() -> None:
    predicted = torch.tensor([0.25, 0.75], dtype=torch.bfloat16, requires_grad=True)
    assert AccuracyMetric(torch.tensor([0, 1]), predicted).get_metric() == 1.0
    assert AccuracyMetric([torch.tensor(0), torch.tensor(1)], [0, 1]).get_metric() == 1.0


def test_ragged_predictions_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="np_array=False"):
        Constant.__mro__[1].__init__(Constant(1), [[1], [1, 2]], [0], "constant")


def test_a83_metrics_of_two_classes_by_hand() -> None:
    """Ranked by score: 1, 0, 1, 1, 0. Of six pairs four are in order; at 0.5 two of three hit."""
    true, scores = [1, 0, 1, 1, 0], [0.9, 0.8, 0.7, 0.4, 0.1]
    assert ROCAUCMetric(true, scores).get_metric() == pytest.approx(4 / 6)
    assert PrecisionMetric(true, scores).get_metric() == pytest.approx(2 / 3)
    assert RecallMetric(true, scores).get_metric() == pytest.approx(2 / 3)
    assert F1ScoreMetric(true, scores).get_metric() == pytest.approx(2 / 3)
    assert F1ScoreMetric(true, scores, positive_class_thresh=0.95).get_metric() == 0.0
    # Precision 1, 1/2, 2/3, 3/4, 3/5 at recall 1/3, 1/3, 2/3, 1, 1, and 1 at recall 0.
    area = (1 / 3) * ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2)
    assert PrecisionRecallCurveAUCMetric(true, scores).get_metric() == pytest.approx(area)
    both = np.stack([1 - np.array(scores), scores], axis=1)
    assert ROCAUCMetric(true, both).get_metric() == pytest.approx(4 / 6)


def test_metrics_of_two_classes_refuse_more() -> None:
    with pytest.raises(ValueError, match="use ClassificationResultPackage"):
        ROCAUCMetric([0, 1], [[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])


def test_a83_errors_of_numbers_by_hand() -> None:
    assert MeanSquaredErrorMetric([1.0, 2.0], [2.0, 4.0]).get_metric() == 2.5
    assert MeanAbsoluteErrorMetric([1.0, 2.0], [2.0, 4.0]).get_metric() == 1.5
