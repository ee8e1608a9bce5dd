"""Schedulers that set a field of an optimizer's parameter groups after every update."""

from loopwright.schedulers.base import SchedulerBase, StatefulSchedulerBase
from loopwright.schedulers.cosine import CosineLrScheduler
from loopwright.schedulers.wsd import WSDLrScheduler

__all__ = ["CosineLrScheduler", "SchedulerBase", "StatefulSchedulerBase", "WSDLrScheduler"]
