"""The report of a classifier against scikit-learn, by hand, and its intervals' coverage."""

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.calibration import calibration_curve

from loopwright.results import bootstrap_intervals, classification_report
from loopwright.results.classification_statistics import Ranking, to_probabilities


def made_scores(num_samples: int, num_classes: int, seed: int = 0) -> tuple[NDArray, NDArray]:  # type: ignore[type-arg]
    """Return labels and logits that favour the right class, with ties."""
    generator = np.random.default_rng(seed)
    true = generator.integers(0, num_classes, num_samples)
    logits = generator.normal(size=(num_samples, num_classes))
    logits[np.arange(num_samples), true] += 1.0
    return true, logits.round(1)


def test_per_class_numbers_equal_scikit_learn() -> None:
    true, logits = made_scores(500, 4)
    report = classification_report(true, logits)
    predicted = logits.argmax(1)
    expected = metrics.precision_recall_fscore_support(true, predicted)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(getattr(report, name), values, rtol=1e-14)
    np.testing.assert_array_equal(report.confusion, metrics.confusion_matrix(true, predicted))
    assert report.accuracy == pytest.approx(metrics.accuracy_score(true, predicted))


def test_curves_equal_scikit_learn() -> None:
    true, logits = made_scores(500, 3)
    report = classification_report(true, logits)
    probabilities = to_probabilities(logits)
    for k in range(3):
        ranking = report.ranking(k)
        scores = probabilities[:, k]
        rates = metrics.roc_curve(true == k, scores, drop_intermediate=False)[:2]
        np.testing.assert_allclose(ranking.roc_curve(), rates, rtol=1e-12)
        precision, recall, _ = metrics.precision_recall_curve(true == k, scores)
        curve = ranking.precision_recall_curve()
        np.testing.assert_allclose(curve, (recall[-2::-1], precision[-2::-1]), rtol=1e-12)
        assert report.roc_auc[k] == pytest.approx(metrics.roc_auc_score(true == k, scores))
        average = metrics.average_precision_score(true == k, scores)
        assert report.average_precision[k] == pytest.approx(average)


def test_weighted_areas_equal_those_of_repeated_samples() -> None:
    """A resample is the same whether it is written as weights or as repeated rows."""
    true, logits = made_scores(60, 2)
    scores, positive = logits[:, 1], true == 1
    weights = np.random.default_rng(1).integers(0, 4, 60)
    repeated = np.repeat(np.arange(60), weights)
    ranking, again = Ranking(scores, positive), Ranking(scores[repeated], positive[repeated])
    assert ranking.roc_auc(weights.astype(float)) == pytest.approx(again.roc_auc())
    assert ranking.average_precision(weights.astype(float)) == pytest.approx(
        again.average_precision()
    )


def test_areas_without_one_of_the_classes_are_nan() -> None:
    ranking = Ranking(np.array([0.1, 0.2]), np.array([False, False]))
    assert np.isnan([ranking.roc_auc(), ranking.average_precision()]).all()


def test_calibration_by_hand_and_against_scikit_learn() -> None:
    """Confidence 0.8 (right), 0.8 (wrong) and 0.6 (right): errors 0.3 of 2/3 and 0.4 of 1/3."""
    three = np.array([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4]])
    report = classification_report([0, 1, 0], three)
    assert report.calibration().expected_error == pytest.approx(2 / 3 * 0.3 + 1 / 3 * 0.4)
    true, logits = made_scores(400, 2)
    logits += np.random.default_rng(2).normal(size=(400, 2)) / 100  # off the edges of bins
    found = classification_report(true, logits).calibration()
    confidence = to_probabilities(logits).max(1)
    share, mean = calibration_curve(true == logits.argmax(1), confidence, n_bins=10)
    filled = ~np.isnan(found.accuracy)
    np.testing.assert_allclose(found.accuracy[filled], share, rtol=1e-12)
    np.testing.assert_allclose(found.confidence[filled], mean, rtol=1e-12)


def test_probabilities_stay_and_log_probabilities_return() -> None:
    _, logits = made_scores(20, 3)
    probabilities = to_probabilities(logits)
    np.testing.assert_array_equal(to_probabilities(probabilities), probabilities)
    np.testing.assert_allclose(to_probabilities(np.log(probabilities)), probabilities, rtol=1e-12)


def test_labels_alone_give_counts_and_no_curves() -> None:
    report = classification_report(["b", "a", "b"], ["b", "b", "c"])
    assert report.labels == ("a", "b", "c")
    assert report.confusion.tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert report.precision.tolist() == [0.0, 0.5, 0.0]
    assert "roc_auc" not in report.to_dict(num_resamples=5)
    with pytest.raises(ValueError, match="no curves and no calibration"):
        report.calibration()


def test_a_threshold_decides_between_two_classes() -> None:
    scores = np.array([0.2, 0.6, 0.7])
    assert classification_report([0, 0, 1], scores, positive_class_thresh=0.65).accuracy == 1.0
    both = np.stack([1 - scores, scores], axis=1)
    assert classification_report([0, 0, 1], both, positive_class_thresh=0.65).accuracy == 1.0
    with pytest.raises(ValueError, match=r"reach from -1 to 2, and probabilities"):
        classification_report([0, 1], [-1.0, 2.0], positive_class_thresh=0.5)


def test_labels_that_have_no_column_are_refused() -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1. Found: \[0, 2\]"):
        classification_report([0, 2], [[0.5, 0.5], [0.1, 0.9]])
    with pytest.raises(ValueError, match="3 labels and 2 predictions"):
        classification_report([0, 1, 1], [0, 1])


def test_intervals_of_accuracy_are_those_of_the_binomial() -> None:
    """Resampled accuracy is binomial: 70 of 100 right gives a standard deviation of 0.0458."""
    report = classification_report([1] * 100, [1] * 70 + [0] * 30)
    low, high = report.intervals(num_resamples=4000)["accuracy"]
    deviation = (0.7 * 0.3 / 100) ** 0.5
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=0.06)
    assert (high + low) / 2 == pytest.approx(0.7, abs=0.01)


def test_intervals_repeat_and_leave_the_global_generator_alone() -> None:
    true, logits = made_scores(80, 3)
    report = classification_report(true, logits)
    np.random.seed(4)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    first, again = (report.intervals(num_resamples=50) for _ in range(2))
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
    other = report.intervals(num_resamples=50, seed=1)
    for name, ends in first.items():
        np.testing.assert_array_equal(ends, again[name])
        assert (ends[0] <= ends[1]).all()
    assert any((first[name] != other[name]).any() for name in first)
    assert first["precision"].shape == (2, 3)


def test_intervals_of_the_mean_cover_it_as_often_as_they_say() -> None:
    """Of 200 samples of 40 normal values, about 90 % of the 90 % intervals hold the mean."""
    generator = np.random.default_rng(7)
    hits = 0
    for _ in range(200):
        values = generator.normal(size=40)

        def mean(weights: NDArray[np.float64], values: NDArray[np.float64]) -> dict[str, float]:
            return {"mean": float(weights @ values / weights.sum())}

        options = {"num_resamples": 200, "confidence": 0.9}
        low, high = bootstrap_intervals(partial(mean, values=values), 40, **options)["mean"]  # type: ignore[arg-type]
        hits += low <= 0 <= high
    assert 0.82 <= hits / 200 <= 0.96


def test_curve_intervals_hold_the_value() -> None:
    true, logits = made_scores(120, 2)
    report = classification_report(true, logits)
    ends = report.curve_intervals(num_resamples=200)
    for name in ("roc_auc", "average_precision"):
        low, high = ends[name]
        assert (low < getattr(report, name)).all()
        assert (getattr(report, name) < high).all()


@pytest.mark.parametrize(
    ("samples", "resamples", "confidence"), [(0, 9, 0.9), (5, 1, 0.9), (5, 9, 1.0)]
)
def test_intervals_refuse_what_makes_none(samples: int, resamples: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="make no interval"):
        bootstrap_intervals(
            lambda weights: {"sum": float(weights.sum())},
            samples,
            num_resamples=resamples,
            confidence=confidence,
        )
