"""Callbacks by name: early_stopping for EarlyStoppingCallback, and so on."""

import re
from collections.abc import Callable

from loopwright import callbacks as shipped
from loopwright.events import TrainerCallback
from loopwright.registry import Registry
from loopwright.trainers import pictures, text_samples

callbacks: Registry[Callable[..., TrainerCallback]] = Registry("callback")

_ALWAYS_THERE = frozenset(
    {
        "LogMetricsCallback",
        "MetricsCallback",
        "MoveModulesToDeviceCallback",
        "PrintMetricsCallback",
        "PrintProgressCallback",
        "ProgressBarCallback",
        "TerminateOnNaNCallback",
        "TrainerCallback",
    }
)
"""What a declared run has already, under its own keys or as the way it shows progress."""


def _name_of(kind: str) -> str:
    stem = kind.removesuffix("Callback")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", stem).lower()


_parts = {
    kind: getattr(home, kind) for home in (shipped, pictures, text_samples) for kind in home.__all__
}
for _kind, _part in _parts.items():
    if (
        isinstance(_part, type)
        and issubclass(_part, TrainerCallback)
        and _kind not in _ALWAYS_THERE
    ):
        callbacks.add(_name_of(_kind), _part)
