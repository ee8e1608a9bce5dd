"""The clock that every framework's code calls at the end of an epoch."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


class Clock:
    """Notes the time, the loss and the resident memory at the end of each epoch."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.cpu_times: list[float] = []
        self.losses: list[float] = []
        self.rss_mib: list[float] = []

    def lap(self, loss: Any = float("nan")) -> None:
        """Ends an epoch, whose mean loss is `loss`, or a call of predict, which has none."""
        self.times.append(time.perf_counter())
        self.cpu_times.append(time.process_time())
        self.losses.append(float(loss))
        self.rss_mib.append(resident_mib())


def resident_mib() -> float:
    """Returns the resident memory of this process in MiB; NaN where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return float("nan")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
