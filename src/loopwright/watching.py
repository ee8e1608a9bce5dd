"""Watching a metric of the history: which value is better."""

from typing import Any

from loopwright.history import RunHistory


def watched_value(history: RunHistory, metric: str, owner: object) -> Any:
    """Return the latest value of the metric that a callback watches.

    Raises:
        ValueError: It was not recorded; the message names the callback and what there is.
    """
    names = history.get_metric_names()
    if metric not in names:
        known = ", ".join(sorted(names)) or "nothing so far"
        raise ValueError(
            f"{type(owner).__name__} watches {metric!r}, which was not recorded by the end of the "
            f"epoch. Recorded: {known}. Give watch_metric one of these; eval_loss_epoch needs an "
            "eval_dataset."
        )
    return history.get_latest_metric(metric)


def is_better(value: Any, best: Any, *, greater_is_better: bool) -> bool:
    """Whether `value` improves on `best`; NaN improves on nothing, anything else on None."""
    if value != value:
        return False
    if best is None:
        return True
    return bool(value > best if greater_is_better else value < best)
