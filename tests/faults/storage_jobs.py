"""What the processes of the storage tests do."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loopwright.callbacks import TrainerCallback
from loopwright.checkpoint import read_state
from loopwright.errors import StorageError
from loopwright.storage import Backoff, Mirror, fetch

QUICK = Backoff(first_seconds=0.1, most_seconds=0.5)


class Pace(TrainerCallback):
    """Lets each step take a while, and notes when it was done."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.times: list[float] = []

    def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
        time.sleep(self.seconds)
        self.times.append(time.time())


def mirror_of(folder: str, url: str, environment: dict[str, str], wait: float) -> Mirror:
    """Return the copy of a folder, with credentials where the provider looks for them."""
    os.environ.update(environment)
    return Mirror(url, folder, backoff=QUICK, wait_seconds=wait, stall_seconds=10)


def push(folder: str, url: str, environment: dict[str, str]) -> dict[str, Any]:
    """Copy a folder."""
    told: list[str] = []
    try:
        mirror_of(folder, url, environment, 0).push(told.append, seconds=100)
    except StorageError as error:
        return {"error": str(error), "told": told}
    return {"error": None, "told": told}


def fetched(url: str, folder: str, environment: dict[str, str]) -> dict[str, Any]:
    """Fetch a copy, and read every checkpoint in it."""
    os.environ.update(environment)
    try:
        fetch(url, folder)
    except StorageError as error:
        return {"error": str(error)}
    steps = [path.name for path in sorted(Path(folder).glob("checkpoints/step-*"))]
    for step in steps:
        read_state(Path(folder) / "checkpoints" / step)
    return {"error": None, "steps": steps}


def copied(
    ended: Callable[..., dict[str, Any]],
    folder: str,
    *callbacks: TrainerCallback,
    url: str,
    environment: dict[str, str],
    pause: float,
    wait: float,
) -> dict[str, Any]:
    """Train with a copy at a URL; report when each step was done, too."""
    pace = Pace(pause)
    report = ended(mirror_of(folder, url, environment, wait), pace, *callbacks)
    return {**report, "times": pace.times}
