"""What a trainer writes to the folder of its run."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from loopwright.errors import RunFolderError, RunInterrupted
from loopwright.events import StopTrainingError
from loopwright.history import RunHistory, history_state
from loopwright.progress import Progress
from loopwright.run_config import TrainerRunConfig
from loopwright.run_folder import RunFolder
from loopwright.run_record import METRICS_FILE, is_run_folder, read_metrics, read_run
from loopwright.weights_hash import fingerprint


class RunLog:
    """Logs the metrics of a run as they appear, and how it ended.

    Args:
        folder: The folder of the run.
        config: The settings of the run.
        history: The history to go on from.
        samples_before: Samples that were trained by the processes before this one.
        resume: Whether the folder may hold a run that did not finish.
        tell: Called with a line for the user when metrics cannot be written, which then wait for
            the next time; None raises instead.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainerRunConfig,
        history: RunHistory,
        *,
        samples_before: int,
        resume: bool,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._tell = tell
        self._samples_before = samples_before
        self._folder = RunFolder(folder, resume=resume)
        self._began = time.perf_counter()
        self._logged: dict[str, int] = {}
        if resume:
            self._folder.cut_back(history.current_epoch)
            self._logged = count_logged(folder)
        self._folder.start(config.to_dict())

    def log_steps(self, report: dict[str, Any]) -> None:
        """Note how steps are executed."""
        self._folder.write_steps(report)

    def log(self, history: RunHistory, progress: Progress) -> None:
        """Append the values that are new in the history."""
        fresh = {}
        for name, values in history_state(history).items():
            if len(values) > self._logged.get(name, 0):
                fresh[name] = _plain(values[-1])
                self._logged[name] = len(values)
        if fresh:
            with self._going_on():
                self._folder.log(progress.epoch, progress.step, fresh)

    def flush(self) -> None:
        """Write the metrics that could not be written before."""
        with self._going_on():
            self._folder.flush()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except RunFolderError as error:
            if self._tell is None:
                raise
            self._tell(f"Metrics could not be logged and wait, training goes on: {error}")

    def finish(
        self, history: RunHistory, progress: Progress, model: Any, *, stop: StopTrainingError | None
    ) -> str | None:
        """Write the results of a run that came to its end; return the fingerprint of its weights.

        What is no module has none.
        """
        weights = fingerprint(model) if isinstance(model, torch.nn.Module) else None
        self.log(history, progress)
        seconds = time.perf_counter() - self._began  # of this process, like the rate below
        samples = progress.samples - self._samples_before
        values = history_state(history)
        self._folder.finish(
            {
                "metrics": {name: _plain(listed[-1]) for name, listed in values.items()},
                "history": {name: [_plain(v) for v in listed] for name, listed in values.items()},
                "steps": progress.step,
                "epochs": progress.epochs_done,
                "samples": progress.samples,
                "seconds": seconds,
                "samples_per_second": samples / seconds if seconds else math.nan,
                "parameters": _num_parameters(model),
                "fingerprint": weights,
                "stop_reason": None if stop is None else str(stop),
            }
        )
        if stop is not None and stop.is_failure:
            self._folder.fail(str(stop))
        return weights

    def add_evaluation(self, history: RunHistory, progress: Progress) -> None:
        """Append the metrics of an evaluation after the run, whose history started anew."""
        metrics = {name: _plain(v[-1]) for name, v in history_state(history).items() if v}
        self._folder.log(progress.epoch, progress.step, metrics, event="evaluation")

    def abandon(self, error: BaseException) -> None:
        """Note that an exception ended the run."""
        note = f"{type(error).__name__}: {error}".removesuffix(": ")
        if isinstance(error, (KeyboardInterrupt, RunInterrupted)):
            self._folder.stop(note)
        else:
            self._folder.fail(note)


def count_logged(folder: Path) -> dict[str, int]:
    """Return how often each metric stands in the log.

    The history can hold more: a run that goes on with the evaluation of an epoch has its training
    loss already, and logs both together.
    """
    rows, _ = read_metrics(folder / METRICS_FILE)
    return Counter(name for row in rows if row.event is None for name in row.metrics)


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a run that is complete."""
    return is_run_folder(folder) and read_run(folder).status.get("status") == "finished"


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    return value


def _num_parameters(model: Any) -> int | None:
    if not isinstance(model, torch.nn.Module):
        return None
    return sum(parameter.numel() for parameter in model.parameters())
