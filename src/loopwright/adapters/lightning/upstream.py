"""What the adapter uses of Lightning, in one place; much of it is private there.

Importing this file imports Lightning, and says how to install it where it is missing.
"""

from typing import Any

from loopwright.extras import require


def _names(module: str, *names: str) -> list[Any]:
    found = require(f"lightning.{module}", "lightning")
    return [getattr(found, name) for name in names]


(Callback, LightningModule, LightningTrainer) = _names(
    "pytorch", "Callback", "LightningModule", "Trainer"
)
(from_compiled, to_uncompiled) = _names(
    "pytorch.utilities.compile", "from_compiled", "to_uncompiled"
)
(ProgressBar,) = _names("pytorch.callbacks", "ProgressBar")
(FitLoopBase,) = _names("pytorch.loops.fit_loop", "_FitLoop")
(EpochLoopBase,) = _names("pytorch.loops.training_epoch_loop", "_TrainingEpochLoop")
(EvaluationLoopBase,) = _names("pytorch.loops.evaluation_loop", "_EvaluationLoop")
(PredictionLoopBase,) = _names("pytorch.loops.prediction_loop", "_PredictionLoop")
(is_overridden,) = _names("pytorch.utilities.model_helpers", "is_overridden")
(is_param_in_hook_signature,) = _names(
    "pytorch.utilities.signature_utils", "is_param_in_hook_signature"
)
(CombinedLoader,) = _names("pytorch.utilities.combined_loader", "CombinedLoader")
(check_iterable, parse_num_batches, process_dataloader, request_dataloader, resolve_overfit) = (
    _names(
        "pytorch.trainer.connectors.data_connector",
        "_check_dataloader_iterable",
        "_parse_num_batches",
        "_process_dataloader",
        "_request_dataloader",
        "_resolve_overfit_batches",
    )
)
(RunningStage, TrainerFn) = _names("pytorch.trainer.states", "RunningStage", "TrainerFn")
(sized_len,) = _names("fabric.utilities.data", "sized_len")
(SingleDeviceStrategy,) = _names("pytorch.strategies", "SingleDeviceStrategy")
(Precision, MixedPrecision, HalfPrecision, DoublePrecision) = _names(
    "pytorch.plugins.precision",
    "Precision",
    "MixedPrecision",
    "HalfPrecision",
    "DoublePrecision",
)
(ClosureResult,) = _names("pytorch.loops.optimization.automatic", "ClosureResult")
(ManualResult,) = _names("pytorch.loops.optimization.manual", "ManualResult")
(Metadata, ResultCollectionBase, ResultMetric, Sync) = _names(
    "pytorch.trainer.connectors.logger_connector.result",
    "_Metadata",
    "_ResultCollection",
    "_ResultMetric",
    "_Sync",
)
(TorchCheckpointIO,) = _names("fabric.plugins.io.torch_io", "TorchCheckpointIO")
Metric: Any = require("torchmetrics", "lightning").Metric
(MockOptimizer,) = _names("pytorch.core.optimizer", "_MockOptimizer")
