"""Trackers by name: they report a declared run elsewhere, beside its run folder."""

from loopwright.trackers.base import History, Tracker, trackers
from loopwright.trackers.comet import Comet
from loopwright.trackers.delivery import TrackerList
from loopwright.trackers.mlflow import MLflow
from loopwright.trackers.tensorboard import TensorBoard
from loopwright.trackers.wandb import WandB

__all__ = [
    "Comet",
    "History",
    "MLflow",
    "TensorBoard",
    "Tracker",
    "TrackerList",
    "WandB",
    "trackers",
]
