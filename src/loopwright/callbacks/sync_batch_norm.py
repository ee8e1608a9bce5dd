"""Batch normalisation over several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from loopwright.events import TrainerCallback

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


class ConvertSyncBatchNormCallback(TrainerCallback):
    """Converts batch norms of the model to `SyncBatchNorm` where several processes train."""

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        if trainer.run_config is not None and trainer.run_config.is_distributed:
            trainer.model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(trainer.model)
