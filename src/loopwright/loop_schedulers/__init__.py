"""The schedulers of a TrainLoop, which are callbacks."""

from loopwright.loop_schedulers.base import AbstractScheduler

__all__ = ["AbstractScheduler"]
