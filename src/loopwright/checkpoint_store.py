"""The checkpoints of a run: written in the background, found again, and cleared away."""

import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright.checkpoint import (
    Buffers,
    Snapshot,
    read_manifest,
    read_state,
    take_snapshot,
    write_snapshot,
)
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.errors import CheckpointError
from loopwright.watching import is_better

_NAME = re.compile(r"step-(\d{8,})")
_PARTIAL = re.compile(r"\.step-\d{8,}\.(partial|replaced)-\d+")


@dataclass(frozen=True)
class Saved:
    """Is a checkpoint that lies in the folder whole, as far as its manifest tells."""

    path: Path
    step: int
    metric: float | None


class CheckpointStore:
    """Keeps the checkpoints of one run, in folders named `step-00000152`.

    Saving copies the state into memory that is kept from one save to the next; a thread writes it
    to disk meanwhile. The next save waits for the one before, so that memory stays bounded.

    Args:
        folder: The run's folder for checkpoints; made when the first one is saved.
        policy: When to save and what to keep.
        tell: Called with a line for the user.
    """

    def __init__(self, folder: Path, policy: CheckpointPolicy, tell: Callable[[str], None]) -> None:
        self.folder = folder
        self.policy = policy
        self._tell = tell
        self._buffers = Buffers()
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._protected: Path | None = None
        self._saved_at = time.monotonic()
        self._last_step: int | None = None

    def is_due(self, step: int) -> bool:
        """Whether the policy asks for a save after this update."""
        policy = self.policy
        if step == self._last_step:
            return False
        if policy.every_steps and step % policy.every_steps == 0:
            return True
        minutes = policy.every_minutes
        return minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    def is_due_after_epoch(self, epochs_done: int) -> bool:
        """Whether the policy asks for a save after this epoch."""
        return bool(self.policy.every_epochs) and epochs_done % self.policy.every_epochs == 0  # type: ignore[operator]

    def save(
        self, state: Mapping[str, Any], *, step: int, metric: float | None, wait: bool = False
    ) -> Path:
        """Save a state under the number of its step.

        Args:
            state: A tree that `take_snapshot` takes.
            step: The updates that are in it.
            metric: The watched metric at this point; None when it is not known.
            wait: Return when it is on disk, rather than when it is copied.

        Raises:
            OSError: The state cannot be written (with `wait`); an earlier checkpoint stays.
        """
        self.wait()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}"
        snapshot = take_snapshot(state, self._buffers)
        self._saved_at, self._last_step = time.monotonic(), step
        about = {"step": step, "metric": metric}
        if wait:
            self._write(path, snapshot, about)
        else:
            self._writer = threading.Thread(
                target=self._write_quietly, args=(path, snapshot, about), name="checkpoint writer"
            )
            self._writer.start()
        return path

    def wait(self) -> None:
        """Wait until nothing is being written; tell of a save that failed."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            self._tell(f"A checkpoint could not be saved, training goes on: {failure}")

    def _write_quietly(self, *arguments: Any) -> None:
        try:
            self._write(*arguments)
        except BaseException as error:  # told by `wait`, in the thread of the run
            self._failure = error

    def _write(self, path: Path, snapshot: Snapshot, about: Mapping[str, Any]) -> None:
        try:
            write_snapshot(path, snapshot, about)
        except OSError as error:
            free = shutil.disk_usage(self.folder).free
            raise OSError(
                error.errno,
                f"{path} could not be written ({error.strerror or error}): it needs "
                f"{snapshot.num_bytes:,} bytes, and {free:,} are free. Earlier checkpoints are "
                "as they were.",
            ) from error
        self._clear_away()

    def _clear_away(self) -> None:
        """Remove what the policy does not keep; never what the run was resumed from."""
        listed = self.list()
        kept = {saved.path for saved in listed[-self.policy.keep_latest :]}
        best = [saved for saved in listed if saved.metric is not None]
        best.sort(key=lambda saved: saved.metric or 0.0, reverse=self.policy.greater_is_better)
        kept |= {saved.path for saved in best[: self.policy.keep_best]}
        for saved in listed:
            if saved.path not in kept and saved.path != self._protected:
                shutil.rmtree(saved.path)

    def list(self) -> list[Saved]:
        """Return the checkpoints in the folder that have a manifest, oldest first."""
        found = []
        for path in sorted(self.folder.glob("step-*")):
            match = _NAME.fullmatch(path.name)
            if match is None:
                continue
            try:
                metric = read_manifest(path).get("metric")
            except CheckpointError:
                continue
            found.append(Saved(path, int(match[1]), metric))
        return sorted(found, key=lambda saved: saved.step)

    def best(self) -> Saved | None:
        """Return the checkpoint with the best watched metric."""
        best: Saved | None = None
        for saved in self.list():
            known = None if best is None else best.metric
            if saved.metric is not None and is_better(
                saved.metric, known, greater_is_better=self.policy.greater_is_better
            ):
                best = saved
        return best

    def read_latest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest checkpoint that is whole; damaged ones are told and passed over."""
        folders = (path for path in self.folder.glob("step-*") if _NAME.fullmatch(path.name))
        for path in sorted(folders, key=lambda path: int(path.name[5:]), reverse=True):
            try:
                return path, self.read(path)
            except CheckpointError as error:
                self._tell(f"Passing over a damaged checkpoint: {error}")
        return None

    def read(self, path: Path) -> dict[str, Any]:
        """Return the state of a checkpoint, and never clear it away in this run."""
        state = read_state(path)
        self._protected = path
        return state

    def sweep(self) -> None:
        """Remove what a process that was killed left half-written."""
        for path in self.folder.glob(".step-*"):
            if _PARTIAL.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
