"""Schedulers that set a field of an optimizer's parameter groups after every update."""

from loopwright.schedulers.base import SchedulerBase, StatefulSchedulerBase
from loopwright.schedulers.cosine import CosineLrScheduler
from loopwright.schedulers.function_scheduler import (
    FunctionScheduler,
    SchedulerList,
    all_of,
    function_schedule,
)
from loopwright.schedulers.functions import (
    DecayToEpoch,
    DecayWhenAcc,
    DecayWhenEpoch,
    EpochSet,
    ExponentialDecay,
    InvTriangular,
    LinearDecay,
    LogDecay,
    RateFunction,
    ScheduleFunction,
    Step,
    Triangular,
    Triangular2,
    Triangular2Exp,
    TriangularDecayWhenAcc,
    TriangularExp,
    TriangularMomentum,
    WarmRestart,
)
from loopwright.schedulers.wsd import WSDLrScheduler

__all__ = [
    "CosineLrScheduler",
    "DecayToEpoch",
    "DecayWhenAcc",
    "DecayWhenEpoch",
    "EpochSet",
    "ExponentialDecay",
    "FunctionScheduler",
    "InvTriangular",
    "LinearDecay",
    "LogDecay",
    "RateFunction",
    "ScheduleFunction",
    "SchedulerBase",
    "SchedulerList",
    "StatefulSchedulerBase",
    "Step",
    "Triangular",
    "Triangular2",
    "Triangular2Exp",
    "TriangularDecayWhenAcc",
    "TriangularExp",
    "TriangularMomentum",
    "WSDLrScheduler",
    "WarmRestart",
    "all_of",
    "function_schedule",
]
