"""What was chosen for the steps of a run, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

StepMode = Literal["eager", "compile", "capture", "auto"]


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Tells how the steps of a run are executed."""

    asked: str
    """The mode that was asked for."""
    choice: Literal["eager", "compile", "capture"]
    reason: str
    """Half a sentence."""
    gain: float | None = None
    """How many times faster a step is than in eager mode, as measured before step 1."""
    seconds: float | None = None
    """What a step takes in eager mode, measured likewise."""
    reference: str | None = None
    """What errors were measured against: "float64", or "float32" where the step has no float64."""
    batch: str | None = None
    """Shapes and types of the batches that the program is for; others are trained eagerly."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for checkpoints and the run's folder."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StepReport:
        """Return what `to_dict` was made from."""
        return cls(**values)
