"""What is kept of an experiment of a TrainLoop."""

from loopwright.tracking.training_history import TrainingHistory

__all__ = ["TrainingHistory"]
