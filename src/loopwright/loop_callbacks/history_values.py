"""Reading the training history: the value that an epoch added to a metric."""

from typing import Any


def lower_is_better(metric_name: str) -> bool:
    """Tell it from the name: it holds "loss" or "error"."""
    return "loss" in metric_name.lower() or "error" in metric_name.lower()


class NewValues:
    """Gives the latest value of a metric, once.

    Args:
        metric_name: The name in the training history.
        owner: Who asks, for messages.
    """

    def __init__(self, metric_name: str, owner: str) -> None:
        self.metric_name = metric_name
        self.owner = owner
        self.num_seen = 0

    def latest(self, history: Any) -> Any:
        """Return the value that was added since the last call; None where there is none.

        Raises:
            ValueError: The metric was never recorded.
        """
        recorded = {name: values for name, values in history.items() if values}
        if self.metric_name not in recorded:
            raise ValueError(
                f"{self.owner} watches {self.metric_name!r}, which was not recorded. Recorded: "
                f"{', '.join(recorded) or 'nothing'}. Give one of these, and put the callback that "
                "evaluates it before this one."
            )
        values = recorded[self.metric_name]
        is_new = len(values) > self.num_seen
        self.num_seen = len(values)
        return values[-1] if is_new else None
