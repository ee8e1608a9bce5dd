"""A trained model beside an existing one, on the same rows of the same test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from loopwright.extras import require

__all__ = ["NO_RESULTS", "Comparison"]

NO_RESULTS = "No test results found."
"""What a comparison without results gives (D-55)."""

Metric = Callable[[NDArray[Any], NDArray[Any]], float]


class Comparison:
    """Puts the results of two models beside each other, metric by metric.

    With `rows` each difference comes with its interval by the paired bootstrap (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13): rows are drawn with
    replacement, the same for both models, so that what makes a row hard for both cancels out.

    Args:
        test_results: the trained model's metrics by name: numbers, tensors of one, or a dict of the
            cells of a confusion matrix; None where there are none.
        eval_results: the existing model's.
        metrics_config: which metrics are compared; those that are False are left out.
        rows: targets, predictions of the trained and of the existing model, [rows] each or
            [rows, ...], in one order.
        metrics: functions of (targets, predictions) for the intervals, beside accuracy, precision,
            recall, f1 (means over classes), mean_squared_error and mean_absolute_error.
        confidence: the share of resamples that lie inside an interval.
        num_resamples: how many are drawn.
        seed: of the draws; no global generator is used.

    Raises:
        ValueError: the three arrays of `rows` have different lengths.
    """

    def __init__(
        self,
        test_results: Mapping[str, Any] | None,
        eval_results: Mapping[str, Any] | None,
        metrics_config: Mapping[str, bool],
        *,
        rows: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
        metrics: Mapping[str, Metric] | None = None,
        confidence: float = 0.95,
        num_resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        self.test_results = test_results
        self.eval_results = eval_results
        self.metrics = dict(metrics_config)
        self.comparison_results: dict[str, dict[str, Any]] | None = None
        """What `compare` returned last (D-57)."""
        self._rows = None if rows is None else tuple(np.asarray(each) for each in rows)
        self._functions = {**_known_metrics(), **(metrics or {})}
        self._confidence, self._num_resamples, self._seed = confidence, num_resamples, seed
        if self._rows is not None and len({len(each) for each in self._rows}) > 1:
            lengths = ", ".join(str(len(each)) for each in self._rows)
            raise ValueError(
                f"rows have the lengths {lengths}; expected targets and both predictions for the "
                "same rows, in one order."
            )

    def compare(self) -> dict[str, dict[str, Any]] | str:
        """Return for each metric that is switched on and in both results the two values.

        Returns:
            `{metric: {"trained": ..., "eval": ...}}`, with `rows` also `difference` (trained minus
            eval) and its `interval` [lower, upper], both of the metric computed from the rows; or
            the text `NO_RESULTS` where either result is missing.
        """
        if self.test_results is None or self.eval_results is None:
            return NO_RESULTS
        self.comparison_results = {
            name: {
                "trained": _plain(self.test_results[name]),
                "eval": _plain(self.eval_results[name]),
                **self._difference(name),
            }
            for name, is_on in self.metrics.items()
            if is_on and name in self.test_results and name in self.eval_results
        }
        return self.comparison_results

    def _difference(self, name: str) -> dict[str, Any]:
        if self._rows is None or name not in self._functions:
            return {}
        metric, rows = self._functions[name], self._rows

        def difference(chosen: NDArray[np.int64]) -> float:
            targets, trained, existing = (each[chosen] for each in rows)
            return metric(targets, trained) - metric(targets, existing)

        everything = np.arange(len(rows[0]))
        value = float(difference(everything))
        # Row numbers are drawn, so that both models get the same rows, whatever the shape of one.
        drawn = require("scipy.stats", "sklearn").bootstrap(
            (everything,),
            difference,
            n_resamples=self._num_resamples,
            vectorized=False,
            confidence_level=self._confidence,
            method="percentile",
            rng=np.random.default_rng(self._seed),
        )
        ends = drawn.confidence_interval
        return {"difference": value, "interval": [float(ends.low), float(ends.high)]}


def _plain(value: Any) -> Any:
    """Return a tensor or array of one as a number; anything else as it is (D-58)."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        return value.item()
    return value


def _known_metrics() -> dict[str, Metric]:
    def scored(name: str) -> Metric:
        def score(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
            function = getattr(require("sklearn.metrics", "sklearn"), name)
            return float(function(targets, predictions, average="macro", zero_division=0.0))

        return score

    def accuracy(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
        return float((targets == predictions).mean())

    def mean_squared_error(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
        return float(np.square(targets - predictions).mean())

    def mean_absolute_error(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
        return float(np.abs(targets - predictions).mean())

    return {
        "accuracy": accuracy,
        "precision": scored("precision_score"),
        "recall": scored("recall_score"),
        "f1": scored("f1_score"),
        "mean_squared_error": mean_squared_error,
        "mean_absolute_error": mean_absolute_error,
    }
