"""The folder that a run owns: written so that what stands in it is always whole."""

import json
import math
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from loopwright.environment import describe_environment
from loopwright.errors import RunFolderError
from loopwright.plain_values import mask_secrets, to_plain
from loopwright.report import write_report
from loopwright.run_record import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LOCK_FILE,
    METRICS_FILE,
    RESULTS_FILE,
    STATUS_FILE,
    STEPS_FILE,
    TRAINER_FILE,
    RunRecord,
    is_run_folder,
    read_json,
    read_run,
)

__all__ = ["RunFolder", "RunRecord", "new_run_path", "read_run"]

_STATUS_INTERVAL_SECONDS = 1.0


class RunFolder:
    """Keeps one run: its configuration, environment, status, metrics, results and report.

    Files are written aside, flushed and renamed, so that a reader meets the old file or the new
    one; the metrics log alone is appended to. A folder made here is its owner's alone to read.

    Args:
        path: a folder that is empty or not there yet.
        resume: takes a folder whose run started and did not finish; its log is continued.

    Raises:
        RunFolderError: the folder cannot be written, holds something else, or holds a run already.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = Path(path)
        self._status: dict[str, Any] = {"status": "prepared", "epoch": 0, "step": 0}
        self._status_written = 0.0
        self._unwritten: list[str] = []
        make_folder(self.path)
        refuse_if_taken(self.path, resume=resume)
        self._write_status()

    @classmethod
    def reopen(cls, path: str | Path) -> "RunFolder":
        """Return the folder of a run that is there, finished or not, and write nothing yet."""
        folder = cls.__new__(cls)
        folder.path = Path(path)
        folder._status = dict(read_run(path).status)
        folder._status_written = 0.0
        folder._unwritten = []
        return folder

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml, secrets masked."""
        _write_text(self.path / CONFIG_FILE, to_yaml(mask_secrets(to_plain(config))))

    def start(self, config: Mapping[str, Any]) -> None:
        """Note that training begins, with what the trainer was called with.

        Where no declared configuration was written, this one becomes config.yaml too.
        """
        plain = mask_secrets(to_plain(config))
        _write_json(self.path / TRAINER_FILE, plain)
        if not (self.path / CONFIG_FILE).exists():
            self.write_config({"trainer": plain})
        _write_json(self.path / ENVIRONMENT_FILE, describe_environment())
        _end_torn_line(self.path / METRICS_FILE)
        self._status |= {"started": time.time(), "message": ""}
        self._set_status("running")

    def write_steps(self, report: Mapping[str, Any]) -> None:
        """Write how the steps of the run are executed, and why."""
        _write_json(self.path / STEPS_FILE, dict(report))

    def log(
        self, epoch: int, step: int, metrics: Mapping[str, float], event: str | None = None
    ) -> None:
        """Append one line to the metrics log and lets it reach the operating system.

        Args:
            epoch: counted from 1.
            step: optimizer updates done in the run so far.
            metrics: values by name.
            event: what the line is about where it is not the end of a training epoch.

        Raises:
            RunFolderError: it cannot be written, as on a full disk. The line is kept, and written
                with the next one, or by `flush`.
        """
        now = time.time()
        line = {"time": now, "epoch": epoch, "step": step, "metrics": to_plain(metrics)}
        if event is not None:
            line["event"] = event
        self._unwritten.append(json.dumps(line, allow_nan=False))
        self._status |= {"epoch": epoch, "step": step}
        self.flush()
        if now - self._status_written >= _STATUS_INTERVAL_SECONDS:
            self._write_status()

    def flush(self) -> None:
        """Append the lines that could not be written before.

        Raises:
            RunFolderError: they still cannot; the log stays as it was.
        """
        if not self._unwritten:
            return
        path = self.path / METRICS_FILE
        size = path.stat().st_size if path.exists() else 0
        try:
            _append_line(path, "\n".join(self._unwritten))
        except RunFolderError:
            with suppress(OSError):
                os.truncate(path, size)
            raise
        self._unwritten.clear()

    def cut_back(self, epoch: int) -> None:
        """Remove what the log holds of this epoch and later ones, which are trained again."""
        path = self.path / METRICS_FILE
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _epoch_of(line) < epoch]
        if len(kept) < len(lines):
            _write_text(path, "".join(kept))

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write the results and the report, and notes that the run is complete."""
        self.flush()
        _write_json(self.path / RESULTS_FILE, to_plain(results))
        self._set_status("finished")
        write_report(self.path)

    def add_metrics(self, metrics: Mapping[str, float]) -> None:
        """Add figures to the results of a finished run, as from its evaluation on a test set."""
        results = read_json(self.path / RESULTS_FILE)
        results["metrics"] = results.get("metrics", {}) | to_plain(metrics)
        _write_json(self.path / RESULTS_FILE, results)
        write_report(self.path)

    def fail(self, message: str) -> None:
        """Note that the run ended with an error."""
        self._end("failed", message)

    def stop(self, message: str) -> None:
        """Note that the run was stopped from outside, as by Ctrl-C."""
        self._end("stopped", message)

    def _end(self, status: str, message: str) -> None:
        self.flush()
        self._status["message"] = mask_secrets(message)
        self._set_status(status)
        write_report(self.path)

    def _set_status(self, status: str) -> None:
        self._status["status"] = status
        self._write_status()

    def _write_status(self) -> None:
        self._status_written = time.time()
        _write_json(self.path / STATUS_FILE, self._status | {"updated": self._status_written})


def _epoch_of(line: str) -> float:
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line that was cut off


def new_run_path(parent: str | Path, name: str) -> Path:
    """Make an empty folder NAME-TIMESTAMP below `parent`, one that no other run gets.

    Raises:
        RunFolderError: nothing can be written below `parent`.
    """
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    for attempt in range(1, 1000):
        path = Path(parent) / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not path.is_dir():
                raise _not_writable(path, "a part of this path is a file") from None
        except OSError as error:
            raise _not_writable(path, error) from error
        else:
            return path
    raise RunFolderError(
        f"cannot find a free name for a run below {parent}: {stem}-2 to -999 exist."
    )


def to_yaml(value: Any, indent: int = 0) -> str:
    """Return plain values as YAML that any YAML 1.1 or 1.2 reader understands.

    Strings that a reader could take for something else are quoted as in JSON.
    """
    pad = "  " * indent
    if isinstance(value, Mapping) and value:
        return "".join(
            f"{pad}{_yaml_key(key)}:{_yaml_item(item, indent + 1)}" for key, item in value.items()
        )
    if _is_block(value):
        return "".join(f"{pad}- {to_yaml(item, indent + 1).lstrip(' ')}" for item in value)
    return f"{pad}{_yaml_scalar(value)}\n"


def _yaml_item(value: Any, indent: int) -> str:
    text = to_yaml(value, indent)
    return f"\n{text}" if _is_block(value) else f" {text.lstrip(' ')}"


def _is_block(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, Mapping | list) for item in value)
    return isinstance(value, Mapping) and bool(value)


def _yaml_key(key: str) -> str:
    return _yaml_scalar(str(key))


_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_PLAIN_TEXT = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*", re.ASCII)


def _yaml_scalar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_yaml_scalar(item) for item in value)}]"
    if isinstance(value, float):
        text = json.dumps(value)
        # YAML 1.1 reads 1e-05 as a string: it wants the dot.
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if isinstance(value, str) and _PLAIN_TEXT.fullmatch(value) and value.lower() not in _YAML_WORDS:
        return value
    return json.dumps(value)


def make_folder(path: Path) -> None:
    """Make a run's folder, its owner's alone to read, where there is none.

    Raises:
        RunFolderError: it cannot be made, or not be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        raise _not_writable(path, "a part of this path is a file") from None
    except OSError as error:
        raise _not_writable(path, error) from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise _not_writable(path, "permission denied")


def is_empty(path: Path) -> bool:
    """Whether nothing is in a folder but the file of its lock."""
    return all(each.name == LOCK_FILE for each in path.iterdir())


def refuse_if_taken(path: Path, *, resume: bool) -> None:
    """Do nothing if a new run may have a folder that is there, or go on in it with `resume`.

    Raises:
        RunFolderError: it may not.
    """
    if not is_run_folder(path):
        if not is_empty(path):
            raise RunFolderError(
                f"{path} is not empty and holds no run. Name a folder that is empty or new."
            )
        return
    status = read_json(path / STATUS_FILE).get("status")
    if status == "finished":
        raise RunFolderError(
            f"{path} holds a finished run. Name another folder, or remove this one."
        )
    if not resume and (status == "running" or _has_progress(path)):
        raise RunFolderError(
            f"{path} holds a run that is {status}. Name another folder, or remove this one."
        )


def _has_progress(path: Path) -> bool:
    checkpoints = path / CHECKPOINTS_FOLDER
    return (path / METRICS_FILE).exists() or (checkpoints.is_dir() and any(checkpoints.iterdir()))


def _not_writable(path: Path, reason: OSError | str) -> RunFolderError:
    text = reason if isinstance(reason, str) else (reason.strerror or str(reason)).lower()
    return RunFolderError(f"cannot write the run folder {path}: {text}. Name another folder.")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Replace a file in one move: written aside, flushed to the disk, renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from error


def _flush_folder(path: Path) -> None:
    if os.name != "posix":
        return  # a folder cannot be opened on Windows, where renames are journalled
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _append_line(path: Path, line: str) -> None:
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line + "\n")
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from error


def _end_torn_line(path: Path) -> None:
    """Close a line that was cut off, so that the next one stands on its own."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        _append_line(path, "")
