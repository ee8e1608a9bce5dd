"""The schedulers of a TrainLoop, which are callbacks."""

from loopwright.loop_schedulers.base import AbstractScheduler
from loopwright.loop_schedulers.schedulers import (
    ConstantWithWarmupScheduler,
    CosineWithWarmupScheduler,
    GeneralLRSchedulerCallback,
    HardRestartsCosineWithWarmupScheduler,
    LambdaLRScheduler,
    LinearWithWarmupScheduler,
    MultiStepLRScheduler,
    ReduceLROnPlateauMetricScheduler,
    ReduceLROnPlateauScheduler,
    StepLRScheduler,
)

__all__ = [
    "AbstractScheduler",
    "ConstantWithWarmupScheduler",
    "CosineWithWarmupScheduler",
    "GeneralLRSchedulerCallback",
    "HardRestartsCosineWithWarmupScheduler",
    "LambdaLRScheduler",
    "LinearWithWarmupScheduler",
    "MultiStepLRScheduler",
    "ReduceLROnPlateauMetricScheduler",
    "ReduceLROnPlateauScheduler",
    "StepLRScheduler",
]
