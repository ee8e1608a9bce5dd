"""Trains a `LightningModule` as it is, on our loop.

`Trainer` takes the place of `lightning.Trainer`; the module, its data module and its callbacks stay
as they are.
"""

from loopwright.adapters.lightning.trainer import Trainer

__all__ = ["Trainer"]
