"""Base classes of generated projects: what `loopwright new` writes builds on these."""

from loopwright.compare import Comparison
from loopwright.project.callbacks import EarlyStopping, ModelCheckpoint
from loopwright.project.data import (
    CustomDataset,
    Data,
    DataModule,
    IterableDataset,
    Tokenizer,
    read_samples,
    write_samples,
)
from loopwright.project.exporting import ExportError, export_onnx, export_pt2
from loopwright.project.main import Main, rows_of, run
from loopwright.project.metrics import MetricSet
from loopwright.project.module import Model, NetworkModule, Optimizers, TrainingModule
from loopwright.project.preparation import DatasetPreparation
from loopwright.project.settings import (
    DATASET_CONFIG,
    METRICS_CONFIG,
    MODEL_CONFIG,
    TRAINER_CONFIG,
    complete_config,
)
from loopwright.project.testing import Test
from loopwright.project.trainer import Trainer
from loopwright.project.training import Train, load_weights

__all__ = [
    "DATASET_CONFIG",
    "METRICS_CONFIG",
    "MODEL_CONFIG",
    "TRAINER_CONFIG",
    "Comparison",
    "CustomDataset",
    "Data",
    "DataModule",
    "DatasetPreparation",
    "EarlyStopping",
    "ExportError",
    "IterableDataset",
    "Main",
    "MetricSet",
    "Model",
    "ModelCheckpoint",
    "NetworkModule",
    "Optimizers",
    "Test",
    "Tokenizer",
    "Train",
    "Trainer",
    "TrainingModule",
    "complete_config",
    "export_onnx",
    "export_pt2",
    "load_weights",
    "read_samples",
    "rows_of",
    "run",
    "write_samples",
]
