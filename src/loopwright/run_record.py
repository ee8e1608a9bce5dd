"""Reading a run folder: the names of its files and what stands in them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopwright.errors import RunFolderError
from loopwright.plain_values import read_number

CONFIG_FILE = "config.yaml"
TRAINER_FILE = "trainer.json"
ENVIRONMENT_FILE = "environment.json"
STATUS_FILE = "status.json"
METRICS_FILE = "metrics.jsonl"
RESULTS_FILE = "results.json"
REPORT_FILE = "report.html"
LOCK_FILE = ".lock"
STEPS_FILE = "steps.json"
CHECKPOINTS_FOLDER = "checkpoints"
PICTURES_FOLDER = "pictures"


@dataclass(frozen=True, kw_only=True)
class MetricsRow:
    """Is one line of the metrics log."""

    time: float
    """When the line was written, in seconds since 1970."""
    epoch: int
    step: int
    metrics: Mapping[str, float]
    event: str | None = None
    """What the line is about where it is no epoch of training, such as "evaluation"."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Is what a run folder held at the moment it was read."""

    path: Path
    config: str
    """The text of config.yaml; empty where there is none."""
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """What the trainer was called with, and the numbers it derived from that."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[MetricsRow, ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    unreadable_lines: int = 0
    """Lines of the metrics log that were cut off, as by a power failure."""

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Return (epoch, value) pairs of each metric that was logged at the end of an epoch."""
        curves: dict[str, list[tuple[int, float]]] = {}
        for row in self.metrics:
            if row.event is None:
                for name, value in row.metrics.items():
                    curves.setdefault(name, []).append((row.epoch, value))
        return curves


def is_run_folder(path: Path) -> bool:
    """Tell whether a run has been here."""
    return (path / STATUS_FILE).is_file()


def read_run(path: str | Path) -> RunRecord:
    """Read a run folder, finished or not.

    Raises:
        RunFolderError: there is no run at `path`, or one of its files is damaged.
    """
    path = Path(path)
    if not is_run_folder(path):
        raise RunFolderError(f"{path} is no run folder: it holds no {STATUS_FILE}.")
    rows, unreadable = read_metrics(path / METRICS_FILE)
    return RunRecord(
        path=path,
        config=_read_text(path / CONFIG_FILE),
        trainer=read_json(path / TRAINER_FILE),
        environment=read_json(path / ENVIRONMENT_FILE),
        status=read_json(path / STATUS_FILE),
        metrics=rows,
        results=read_json(path / RESULTS_FILE),
        unreadable_lines=unreadable,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one where there is no such file."""
    text = _read_text(path)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} is damaged: expected an object, got {type(value).__name__}.")
    return value


def read_metrics(path: Path) -> tuple[tuple[MetricsRow, ...], int]:
    """Return the rows of a metrics log and the number of lines that were cut off."""
    rows = []
    unreadable = 0
    for line in _read_text(path).splitlines():
        if not line.strip():
            continue
        row = _parse_row(line)
        if row is None:
            unreadable += 1
        else:
            rows.append(row)
    return tuple(rows), unreadable


def _parse_row(line: str) -> MetricsRow | None:
    try:
        value = json.loads(line)
        return MetricsRow(
            time=float(value["time"]),
            epoch=int(value["epoch"]),
            step=int(value["step"]),
            metrics=_numbers(value["metrics"]),
            event=value.get("event"),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are one number; others, such as a matrix, have no curve."""
    read = {name: read_number(value) for name, value in metrics.items()}
    return {name: float(value) for name, value in read.items() if isinstance(value, int | float)}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from error
