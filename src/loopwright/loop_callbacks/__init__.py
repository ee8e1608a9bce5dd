"""The callbacks of a TrainLoop."""

from loopwright.loop_callbacks.base import AbstractCallback, AbstractExperimentCallback
from loopwright.loop_callbacks.continuing import ModelLoadContinueTraining
from loopwright.loop_callbacks.messages import Message, MessageHandling, MessageService
from loopwright.loop_callbacks.saving import (
    ModelCheckpoint,
    ModelIterationCheckpoint,
    ModelTrainEndSave,
)

__all__ = [
    "AbstractCallback",
    "AbstractExperimentCallback",
    "Message",
    "MessageHandling",
    "MessageService",
    "ModelCheckpoint",
    "ModelIterationCheckpoint",
    "ModelLoadContinueTraining",
    "ModelTrainEndSave",
]
