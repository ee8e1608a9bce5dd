"""What `loopwright train --json` writes: one JSON object per line, for programs that read along."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from loopwright.errors import RunInterrupted
from loopwright.events import TrainerCallback
from loopwright.plain_values import MASK, looks_secret, mask_secrets, to_plain
from loopwright.problems import MISSING, Problem, ProblemsError, write_path
from loopwright.run_record import REPORT_FILE
from loopwright.trainer import Trainer

_RESULTS = (
    "metrics",
    "epochs",
    "steps",
    "samples",
    "seconds",
    "samples_per_second",
    "parameters",
    "fingerprint",
)


class JsonEvents:
    """Writes events to a stream, each as one line that is there at once.

    When nobody reads the stream any more, that is told on stderr once, and the run goes on.

    Args:
        stream: where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, event: str, **values: Any) -> None:
        """Write one event; numbers that are not finite become "NaN", "Infinity" or "-Infinity"."""
        line = {"event": event, "time": time.time(), **mask_secrets(to_plain(values))}
        text = json.dumps(line, allow_nan=False) + "\n"
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            # What is written from here on, Python's own flush at its end included, goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            print("Nobody reads the events any more; the run goes on without.", file=sys.stderr)

    def write_end(self, results: Mapping[str, Any]) -> None:
        """Write what `Experiment.train` returned."""
        folder = Path(results["run_folder"])
        found = {name: results[name] for name in _RESULTS if name in results}
        self.write("end", run_folder=folder, report=folder / REPORT_FILE, **found)

    def write_error(self, error: BaseException, exit_code: int) -> None:
        """Write why the command ends, with each mistake of a configuration."""
        values: dict[str, Any] = {"type": type(error).__name__, "exit_code": exit_code}
        if isinstance(error, ProblemsError):
            values["problems"] = [_as_mapping(problem) for problem in error.problems]
        if isinstance(error, RunInterrupted):
            values |= {"signal": error.signal, "checkpoint": error.checkpoint}
        notes = list(getattr(error, "__notes__", ()))
        self.write("error", message=str(error), notes=notes, **values)


class JsonEventsCallback(TrainerCallback):
    """Writes the events `start` and `epoch`."""

    def __init__(self, events: JsonEvents) -> None:
        self._events = events
        self._began = 0.0

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        """Write where the run is and how long it will be."""
        self._began = time.perf_counter()
        where = trainer.progress
        self._events.write(
            "start",
            run_folder=trainer.run_dir,
            device=str(trainer.device),
            epochs=where.epochs,
            steps=where.total_steps,
            epochs_done=where.epochs_done,
            steps_done=where.step,
        )

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Write where the run is and its latest metrics."""
        where, history = trainer.progress, trainer.run_history
        names = sorted(history.get_metric_names())
        self._events.write(
            "epoch",
            epoch=where.epoch,
            step=where.step,
            samples=where.samples,
            seconds=time.perf_counter() - self._began,
            metrics={name: history.get_latest_metric(name) for name in names},
        )


def _as_mapping(problem: Problem) -> dict[str, Any]:
    is_secret = any(looks_secret(str(part)) for part in problem.path)
    value = {} if problem.value is MISSING else {"value": MASK if is_secret else problem.value}
    return {
        "path": write_path(problem.path),
        "source": problem.source,
        "message": problem.message,
        "suggestion": problem.suggestion,
        **value,
    }
