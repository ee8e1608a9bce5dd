"""TrainLoops: keep a plain PyTorch script, and get the tracked experiment."""

from loopwright.trainloop.callbacks_handler import CallbacksHandler
from loopwright.trainloop.datasets import BasicDataset, ListDataset
from loopwright.trainloop.model import (
    AbstractModelFeedDefinition,
    ModelWrap,
    MultiGPUModelWrap,
    TTBasicModel,
    TTBasicMultiGPUModel,
    TTModel,
)
from loopwright.trainloop.model_predict import PyTorchModelPredictor
from loopwright.trainloop.multi_loss import MultiLoss, MultiOptimizer
from loopwright.trainloop.parallel import TTDataParallel
from loopwright.trainloop.predictions import (
    ModelPredictionStore,
    append_concat_predictions,
    append_predictions,
    keep_list_transf,
    torch_cat_transf,
)
from loopwright.trainloop.tracking_loops import (
    TrainLoopCheckpoint,
    TrainLoopCheckpointEndSave,
    TrainLoopEndSave,
)
from loopwright.trainloop.train_loop import TrainLoop

__all__ = [
    "AbstractModelFeedDefinition",
    "BasicDataset",
    "CallbacksHandler",
    "ListDataset",
    "ModelPredictionStore",
    "ModelWrap",
    "MultiGPUModelWrap",
    "MultiLoss",
    "MultiOptimizer",
    "PyTorchModelPredictor",
    "TTBasicModel",
    "TTBasicMultiGPUModel",
    "TTDataParallel",
    "TTModel",
    "TrainLoop",
    "TrainLoopCheckpoint",
    "TrainLoopCheckpointEndSave",
    "TrainLoopEndSave",
    "append_concat_predictions",
    "append_predictions",
    "keep_list_transf",
    "torch_cat_transf",
]
