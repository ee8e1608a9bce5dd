"""Where a run stands, as plain counters."""

from dataclasses import dataclass
from typing import Literal

Phase = Literal["idle", "train", "eval", "predict"]


@dataclass
class Progress:
    """Counts what a run has done. The trainer writes it; everybody else reads it.

    A *step* is one optimizer update; a *micro-batch* is what goes through the model at once.
    """

    phase: Phase = "idle"
    """What the trainer does now."""

    epoch: int = 1
    """The epoch being trained or trained last, from 1."""

    epochs_done: int = 0
    """Epochs of this run that are trained and evaluated."""

    step: int = 0
    """Steps completed in this run."""

    epoch_step: int = 0
    """Steps completed in this epoch."""

    micro_batch: int = 0
    """Micro-batches of this epoch that are completed: the index of the one being worked on."""

    epoch_is_trained: bool = False
    """Whether the training of this epoch is complete, and its evaluation is not."""

    samples: int = 0
    """Samples trained in this run."""

    epochs: int | None = None
    """Epochs planned for this run; None when only steps limit it."""

    total_steps: int | None = None
    """Steps planned for this run; None when the length of an epoch is unknown."""
