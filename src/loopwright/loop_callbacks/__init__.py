"""The callbacks of a TrainLoop."""

from loopwright.loop_callbacks.base import AbstractCallback, AbstractExperimentCallback
from loopwright.loop_callbacks.messages import Message, MessageHandling, MessageService

__all__ = [
    "AbstractCallback",
    "AbstractExperimentCallback",
    "Message",
    "MessageHandling",
    "MessageService",
]
