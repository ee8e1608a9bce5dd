"""The callbacks of a TrainLoop."""

from loopwright.loop_callbacks.base import AbstractCallback, AbstractExperimentCallback
from loopwright.loop_callbacks.basic import (
    AllPredictionsSame,
    DataSubsetTestRun,
    FunctionOnTrainLoop,
    ListRegisteredCallbacks,
)
from loopwright.loop_callbacks.continuing import ModelLoadContinueTraining
from loopwright.loop_callbacks.early_stopping import (
    EarlyStopping,
    TerminateOnNaN,
    ThresholdEarlyStopping,
)
from loopwright.loop_callbacks.gradients import (
    GradDistributionPlot,
    GradientCallbackBase,
    GradientStats,
    GradientStatsPrint,
    GradNormClip,
    GradValueClip,
    gradient_stats,
)
from loopwright.loop_callbacks.history import (
    MetricHistoryRename,
    ModelTrainHistoryBaseCB,
    ModelTrainHistoryFileWriter,
    ModelTrainHistoryPlot,
    TrainHistoryFormatter,
)
from loopwright.loop_callbacks.log_upload import LogUpload
from loopwright.loop_callbacks.messages import Message, MessageHandling, MessageService
from loopwright.loop_callbacks.performance import (
    ModelPerformanceEvaluation,
    ModelPerformancePrintReport,
)
from loopwright.loop_callbacks.saving import (
    ModelCheckpoint,
    ModelIterationCheckpoint,
    ModelTrainEndSave,
)
from loopwright.loop_callbacks.several_processes import (
    DistributedSamplerSetEpoch,
    InMultiProcessDataLoad,
)
from loopwright.loop_callbacks.tensorboard import (
    TensorboardFullTracking,
    TensorboardReporterBaseCB,
    TensorboardTrainBatchLoss,
    TensorboardTrainHistoryMetric,
)
from loopwright.loop_callbacks.wandb import AlertConfig, WandBTracking
from loopwright.loop_callbacks.webhook import WebhookNotification

__all__ = [
    "AbstractCallback",
    "AbstractExperimentCallback",
    "AlertConfig",
    "AllPredictionsSame",
    "DataSubsetTestRun",
    "DistributedSamplerSetEpoch",
    "EarlyStopping",
    "FunctionOnTrainLoop",
    "GradDistributionPlot",
    "GradNormClip",
    "GradValueClip",
    "GradientCallbackBase",
    "GradientStats",
    "GradientStatsPrint",
    "InMultiProcessDataLoad",
    "ListRegisteredCallbacks",
    "LogUpload",
    "Message",
    "MessageHandling",
    "MessageService",
    "MetricHistoryRename",
    "ModelCheckpoint",
    "ModelIterationCheckpoint",
    "ModelLoadContinueTraining",
    "ModelPerformanceEvaluation",
    "ModelPerformancePrintReport",
    "ModelTrainEndSave",
    "ModelTrainHistoryBaseCB",
    "ModelTrainHistoryFileWriter",
    "ModelTrainHistoryPlot",
    "TensorboardFullTracking",
    "TensorboardReporterBaseCB",
    "TensorboardTrainBatchLoss",
    "TensorboardTrainHistoryMetric",
    "TerminateOnNaN",
    "ThresholdEarlyStopping",
    "TrainHistoryFormatter",
    "WandBTracking",
    "WebhookNotification",
    "gradient_stats",
]
