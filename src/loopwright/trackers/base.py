"""What a tracker offers, and the one that every run has: its folder."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from loopwright.registry import Registry


class Tracker:
    """Takes what a run reports; override what your store can hold (G-39).

    During a run the methods are called one at a time, in order, on a thread of the tracker's own.
    They may wait and they may raise: the run goes on.
    """

    extra: ClassVar[str | None] = None
    """The extra of loopwright that it needs."""

    def start(self, run_id: str, logdir: str) -> None:
        """Begin a run, or go on with the one of this id.

        Args:
            run_id: names the run, also where it goes on later.
            logdir: the folder of the run, for files of the tracker.
        """

    def log_tag(self, name: str, value: Any) -> None:
        """Take a word about the run; `status` is how it ended: finished, failed or stopped."""

    def log_asset(self, name: str, path: str) -> None:
        """Take a file."""

    def log_image(self, name: str, path: str) -> None:
        """Take a picture, the path of a PNG file."""

    def log_figure(self, name: str, figure: Any) -> None:
        """Take a figure of matplotlib."""

    def log_metric(self, name: str, value: float, step: int | None = None) -> None:
        """Take a number; `step` is the epoch, counted from 1, in what a run reports by itself."""

    def log_param(self, name: str, value: Any, step: int | None = None) -> None:
        """Take a setting."""

    def end(self) -> None:
        """End the run; whatever was taken has to be where it belongs when this returns."""

    def log_metrics(self, metrics: Mapping[str, float | Iterable[float]], prefix: str = "") -> None:
        """Take several numbers; of a list one for each step, numbered from 0 (G-40)."""
        for name, value in metrics.items():
            if isinstance(value, Iterable):
                for step, each in enumerate(value):
                    self.log_metric(prefix + name, each, step)
            else:
                self.log_metric(prefix + name, value)


trackers: Registry[Callable[..., Tracker]] = Registry("tracker", "loopwright.trackers")


@trackers.register("history")
class History(Tracker):
    """The folder of the run, which holds all of it; every run has it, named here or not."""
