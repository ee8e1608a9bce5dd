"""Comparing a trained model with an existing one."""

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")

from loopwright.compare import Comparison

ON = {"precision": True, "accuracy": True, "recall": True, "f1": True, "confusion_matrix": True}


def test_D_53_and_D_54_both_values_of_each_metric_that_is_on_and_in_both() -> None:
    comparison = Comparison({"accuracy": 0.9, "f1": 0.8}, {"accuracy": 0.7, "recall": 0.5}, ON)
    assert comparison.compare() == {"accuracy": {"trained": 0.9, "eval": 0.7}}


@pytest.mark.parametrize("results", [(None, {}), ({}, None), (None, None)])
def test_D_55_without_results_there_is_a_text(results: tuple[None, None]) -> None:
    assert Comparison(*results, ON).compare() == "No test results found."


def test_D_56_and_D_61_the_keywords_and_the_second_key() -> None:
    comparison = Comparison(
        test_results={"f1": 1.0}, eval_results={"f1": 1.4}, metrics_config={"f1": True}
    )
    assert comparison.compare() == {"f1": {"trained": 1.0, "eval": 1.4}}


def test_D_57_the_results_are_kept() -> None:
    comparison = Comparison({"f1": 1.0}, {"f1": 1.4}, ON)
    assert comparison.comparison_results is None
    assert comparison.compare() is comparison.comparison_results


def test_D_58_tensors_and_numbers() -> None:
    compared = Comparison({"f1": torch.tensor(0.5)}, {"f1": np.float64(0.25)}, ON).compare()
    assert compared == {"f1": {"trained": 0.5, "eval": 0.25}}
    assert isinstance(compared, dict)
    assert type(compared["f1"]["trained"]) is float


def test_D_59_a_confusion_matrix_has_its_cells_on_each_side() -> None:
    cells = {"tp": 1, "tn": 2, "fp": 3, "fn": 4}
    compared = Comparison({"confusion_matrix": cells}, {"confusion_matrix": cells}, ON).compare()
    assert compared == {"confusion_matrix": {"trained": cells, "eval": cells}}


def test_D_60_what_is_off_is_left_out() -> None:
    results = {"accuracy": 0.5, "f1": 0.5}
    compared = Comparison(results, results, {"accuracy": False, "f1": True}).compare()
    assert set(compared) == {"f1"}


def rows(draw: np.random.Generator, count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return targets of two classes, and predictions that are right in 90 and 80 % of the rows."""
    targets = draw.integers(0, 2, count)
    hard = draw.random(count)
    return targets, targets ^ (hard > 0.9), targets ^ (hard > 0.8)


def test_a_difference_comes_with_its_interval() -> None:
    data = rows(np.random.default_rng(0))
    results = [{"accuracy": float((data[0] == each).mean())} for each in data[1:]]
    compared = Comparison(*results, {"accuracy": True}, rows=data).compare()
    assert isinstance(compared, dict)
    entry = compared["accuracy"]
    assert entry["difference"] == pytest.approx(entry["trained"] - entry["eval"])
    low, high = entry["interval"]
    assert low < entry["difference"] < high
    correct = (data[0] == data[1]).astype(float) - (data[0] == data[2])
    spread = 1.96 * correct.std() / np.sqrt(len(correct))
    assert high - low == pytest.approx(2 * spread, rel=0.15)


def test_intervals_hold_the_true_difference_as_often_as_they_say() -> None:
    """Of 150 samples; an interval of 90 % misses in 15 on average, and in 35 almost never."""
    inside = 0
    for seed in range(150):
        data = rows(np.random.default_rng(seed), count=200)
        compared = Comparison(
            {"accuracy": 0.0},
            {"accuracy": 0.0},
            {"accuracy": True},
            rows=data,
            confidence=0.9,
            num_resamples=200,
        ).compare()
        assert isinstance(compared, dict)
        low, high = compared["accuracy"]["interval"]
        inside += low <= 0.1 <= high
    assert 115 <= inside <= 149


def test_the_same_rows_are_drawn_for_both() -> None:
    """A model beside itself differs by nothing, in every resample."""
    targets, predictions, _ = rows(np.random.default_rng(0))
    results = {"accuracy": 0.9, "f1": 0.9, "recall": 0.9, "precision": 0.9}
    compared = Comparison(
        results, results, ON, rows=(targets, predictions, predictions), num_resamples=20
    ).compare()
    assert isinstance(compared, dict)
    assert {tuple(entry["interval"]) for entry in compared.values()} == {(0.0, 0.0)}


def test_a_metric_of_ones_own_and_one_without_a_function() -> None:
    data = tuple(np.arange(10.0) + shift for shift in (0, 1, 3))
    compared = Comparison(
        {"bias": 1.0, "other": 1.0, "mean_squared_error": 1.0},
        {"bias": 3.0, "other": 1.0, "mean_squared_error": 9.0},
        {"bias": True, "other": True, "mean_squared_error": True},
        rows=data,  # type: ignore[arg-type]
        metrics={"bias": lambda targets, predictions: float((predictions - targets).mean())},
        num_resamples=20,
    ).compare()
    assert isinstance(compared, dict)
    assert compared["bias"]["difference"] == -2
    assert compared["mean_squared_error"]["interval"] == [-8.0, -8.0]
    assert compared["other"].keys() == {"trained", "eval"}


def test_a_row_may_hold_several_numbers() -> None:
    draw = np.random.default_rng(0)
    targets, trained, existing = draw.normal(size=(3, 50, 1))
    flat = (targets[:, 0], trained[:, 0], existing[:, 0])
    wide = (np.hstack([targets, targets]), np.hstack([trained] * 2), np.hstack([existing] * 2))
    metric = {"mean_squared_error": True}
    found = [
        Comparison({**metric}, {**metric}, metric, rows=rows, num_resamples=20).compare()
        for rows in ((targets, trained, existing), flat, wide)
    ]
    assert found[0] == found[1]
    for each in found:
        assert each["mean_squared_error"]["interval"] == pytest.approx(
            found[0]["mean_squared_error"]["interval"]
        )


def test_draws_are_those_of_the_seed_alone() -> None:
    data = rows(np.random.default_rng(0))
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    found = [
        Comparison({"f1": 1}, {"f1": 1}, {"f1": True}, rows=data, num_resamples=9, seed=seed)
        for seed in (1, 1, 2)
    ]
    first, again, other = (each.compare() for each in found)
    assert first == again != other
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]


def test_rows_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths 3, 3, 2"):
        Comparison({}, {}, {}, rows=([1, 2, 3], [1, 2, 3], [1, 2]))
