"""The checkpoints of a run: written in the background, found again, and cleared away."""

import errno
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

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
_PARTIAL = re.compile(r"\.(step-\d{8,})\.(partial|replaced|removed)-\d+")


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
        protected: The checkpoint that the run was resumed from, which is never cleared away.
        on_change: Called when a checkpoint is in the folder and old ones are cleared away.
    """

    def __init__(
        self,
        folder: Path,
        policy: CheckpointPolicy,
        tell: Callable[[str], None],
        *,
        protected: Path | None = None,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        self.policy = policy
        self._tell = tell
        self._on_change = on_change
        self._buffers = Buffers()
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._protected = None if protected is None else protected.resolve()
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
        every = self.policy.every_epochs or (1 if self.policy.keep_best else None)
        return every is not None and epochs_done % every == 0

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
            OSError: The state cannot be written (with `wait`), or the one before could not be and
                the policy says to stop; earlier checkpoints stay.
        """
        self._join()
        if not wait:
            self.stop_if_failed()
        self.wait()
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
        """Wait until nothing is being written, and tell of a save that failed."""
        self._join()
        failure, self._failure = self._failure, None
        if failure is not None:
            self._tell(f"A checkpoint could not be saved, training goes on: {failure}")

    def stop_if_failed(self) -> None:
        """Raise the error of a save that failed, where the policy says to stop."""
        if self._failure is not None and self.policy.stop_when_save_fails:
            failure, self._failure = self._failure, None
            raise failure

    def _join(self) -> None:
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _write_quietly(self, *arguments: Any) -> None:
        try:
            self._write(*arguments)
        except BaseException as error:  # told by `wait`, in the thread of the run
            self._failure = error

    def _write(self, path: Path, snapshot: Snapshot, about: Mapping[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_snapshot(path, snapshot, about)
        except (OSError, SafetensorError) as error:  # the latter has the system's words alone
            number = getattr(error, "errno", None) or errno.EIO
            raise OSError(
                number,
                f"{path} could not be written ({getattr(error, 'strerror', None) or error}): it "
                f"needs {snapshot.num_bytes:,} bytes, and {free_bytes(path):,} are free. Earlier "
                "checkpoints are as they were.",
            ) from error
        self._clear_away()
        if self._on_change is not None:
            self._on_change()

    def _clear_away(self) -> None:
        """Remove what the policy does not keep; never what the run was resumed from."""
        listed = self.list()
        kept = {saved.path for saved in listed[-self.policy.keep_latest :]}
        best = [saved for saved in listed if saved.metric is not None]
        best.sort(key=lambda saved: saved.metric or 0.0, reverse=self.policy.greater_is_better)
        kept |= {saved.path for saved in best[: self.policy.keep_best]}
        for saved in listed:
            if saved.path not in kept and saved.path.resolve() != self._protected:
                _remove(saved.path)

    def folders(self) -> tuple[Path, ...]:
        """Return the folders of checkpoints, damaged ones too, oldest first."""
        found = (path for path in self.folder.glob("step-*") if _NAME.fullmatch(path.name))
        return tuple(sorted(found, key=lambda path: int(path.name[5:])))

    def list(self) -> list[Saved]:
        """Return the checkpoints in the folder that have a manifest, oldest first."""
        found = []
        for path in self.folders():
            try:
                metric = read_manifest(path).get("metric")
            except CheckpointError:
                continue
            is_known = isinstance(metric, (int, float)) and not math.isnan(metric)
            found.append(Saved(path, int(path.name[5:]), metric if is_known else None))
        return found

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
        """Return the newest checkpoint that is whole; damaged ones are told and passed over.

        Raises:
            CheckpointError: There are checkpoints, and all of them are damaged.
        """
        self.sweep()
        folders = self.folders()
        for path in reversed(folders):
            try:
                return path, self.read(path)
            except CheckpointError as error:
                self._tell(f"Passing over a damaged checkpoint: {error}")
        if folders:
            raise CheckpointError(
                f"Every checkpoint in {self.folder} is damaged ({len(folders)} of {len(folders)}). "
                "Put a whole one there from a copy, or remove the folder to start anew."
            )
        return None

    def read(self, path: Path) -> dict[str, Any]:
        """Return the state of a checkpoint, and never clear it away in this run."""
        state = read_state(path)
        self._protected = path.resolve()
        return state

    def sweep(self) -> None:
        """Remove what a process that was killed left half-written.

        A checkpoint that was being replaced by another of its step is put back in its place.
        """
        for path in self.folder.glob(".step-*"):
            match = _PARTIAL.fullmatch(path.name)
            if match is None:
                continue
            place = self.folder / match[1]
            if match[2] == "replaced" and not place.exists():
                os.rename(path, place)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    """Remove a checkpoint; killed in the middle, it leaves what `sweep` takes away."""
    aside = path.with_name(f".{path.name}.removed-{os.getpid()}")
    os.rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk that a path is on, or would be."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    return shutil.disk_usage(there).free
