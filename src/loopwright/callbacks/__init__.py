"""Every callback that loopwright ships, with the base class and the handler."""

from loopwright.callbacks.early_stopping import EarlyStoppingCallback
from loopwright.callbacks.ema import ModelEmaCallback
from loopwright.callbacks.evaluation import StepBasedEvaluationCallback
from loopwright.callbacks.metrics import MetricsCallback
from loopwright.callbacks.pictures import TrainingPlotsCallback
from loopwright.callbacks.saving import SaveBestModelCallback, SaveTrainingStateCallback
from loopwright.callbacks.sync_batch_norm import ConvertSyncBatchNormCallback
from loopwright.callbacks.wsd import WSDCheckpointCallback
from loopwright.default_callbacks import (
    DEFAULT_CALLBACKS,
    LogMetricsCallback,
    MoveModulesToDeviceCallback,
    PrintMetricsCallback,
    PrintProgressCallback,
    ProgressBarCallback,
    TerminateOnNaNCallback,
)
from loopwright.events import CallbackHandler, StopTrainingError, TrainerCallback
from loopwright.finite import NonFiniteLossError
from loopwright.limits import LimitBatchesCallback, LimitEvalStepsCallback

__all__ = [
    "DEFAULT_CALLBACKS",
    "CallbackHandler",
    "ConvertSyncBatchNormCallback",
    "EarlyStoppingCallback",
    "LimitBatchesCallback",
    "LimitEvalStepsCallback",
    "LogMetricsCallback",
    "MetricsCallback",
    "ModelEmaCallback",
    "MoveModulesToDeviceCallback",
    "NonFiniteLossError",
    "PrintMetricsCallback",
    "PrintProgressCallback",
    "ProgressBarCallback",
    "SaveBestModelCallback",
    "SaveTrainingStateCallback",
    "StepBasedEvaluationCallback",
    "StopTrainingError",
    "TerminateOnNaNCallback",
    "TrainerCallback",
    "TrainingPlotsCallback",
    "WSDCheckpointCallback",
    "get_default_callbacks",
]


def get_default_callbacks(progress_bar: bool = True) -> tuple[type[TrainerCallback], ...]:
    """Return the default callbacks, with or without the progress bar."""
    return tuple(
        callback
        for callback in DEFAULT_CALLBACKS
        if progress_bar or callback is not ProgressBarCallback
    )
