"""What keeps a run: its log, its checkpoints, going on from one, and signals that end it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.checkpoint_store import CheckpointStore
from loopwright.ends import StopRequested, StopRequests, undisturbed_by_workers
from loopwright.errors import RunInterrupted
from loopwright.finite import NonFiniteLossError
from loopwright.training_state import finish_resuming, put_state, take_state

if TYPE_CHECKING:
    from loopwright.execution.report import StepReport
    from loopwright.run_log import RunLog
    from loopwright.storage import Mirror
    from loopwright.trainer import Trainer

_SCHEME = re.compile(r"[a-z][a-z0-9+]+:")


class Keeper:
    """Keeps the runs of a trainer in their folder; without a folder it does nothing.

    Args:
        run_dir: The folder, a URL, a `loopwright.storage.Mirror`, or None.
        policy: When to save; None saves at the end and when a signal ends the run.
    """

    def __init__(
        self, run_dir: str | os.PathLike[str] | None, policy: CheckpointPolicy | None
    ) -> None:
        self.mirror = _mirror_of(run_dir)
        """Keeps a copy of the folder at a URL, if it is to have one."""
        given = self.mirror or run_dir
        self.run_dir = Path(given) if given is not None else None
        self.policy = policy or CheckpointPolicy()
        self.requests = StopRequests()
        self.store: CheckpointStore | None = None
        """The checkpoints, while a run goes on."""
        self.refuses_changes = False
        """Whether a state of other settings is refused."""
        self.goes_on_with = "resume='latest'"
        """What the caller of a run that a signal ended is told to go on with."""
        self.resumed: Mapping[str, Any] | None = None
        """The state that the run goes on from."""
        self.resumed_from: Path | None = None
        """Where that is."""
        self._log: RunLog | None = None

    @contextmanager
    def locked(self, trainer: Trainer) -> Iterator[None]:
        """Let no other process use the folder meanwhile.

        Raises:
            RunFolderError: Another one does.
        """
        if self.run_dir is None:
            yield
            return
        from loopwright.run_lock import locked

        with locked(self.run_dir, trainer.print):
            yield

    @contextmanager
    def keeping(self, trainer: Trainer, *, resumes: bool) -> Iterator[None]:
        """Log a run and let it save: while it goes on, when a signal ends it, and at its end.

        Raises:
            RunInterrupted: SIGTERM, SIGHUP or SIGUSR1 ended the run.
            KeyboardInterrupt: SIGINT did.
        """
        if self.run_dir is None:
            yield
            return
        log = self._open_log(trainer, resumes=resumes)
        self.store = self._make_store(trainer)
        self.store.sweep()
        if trainer.step_report is not None:
            self.log_steps(trainer.step_report)
        is_complete = False
        try:
            if self.mirror is not None:
                self.mirror.begin(trainer.print)
            with self.requests.listening():  # while saving, too: job managers ask twice
                asked = False
                try:
                    yield
                except StopRequested:  # not kept: it refers to what the run was in the middle of
                    asked = True
                with undisturbed_by_workers():
                    path = self._save_end(trainer)
                    if asked:
                        raise self._interruption(path)
                    weights = log.finish(
                        trainer.run_history, trainer.progress, trainer.model, stop=trainer._stop
                    )
                if weights is not None:
                    trainer.print(f"The run ended with weights {weights}")
                is_complete = True
        except BaseException as error:
            try:
                with undisturbed_by_workers():
                    log.abandon(error)
            except OSError as failure:  # a full disk, which may be what ended the run
                error.add_note(f"The end could not be noted in the run's folder: {failure}")
            raise
        else:
            if self.requests.signal is not None:  # it came when nothing was left to train
                raise self._interruption(path)
        finally:
            self.store.wait()
            self.store = None
            if self.mirror is not None:
                self.mirror.finish(trainer.print, is_stopping=not is_complete)

    def _open_log(self, trainer: Trainer, *, resumes: bool) -> RunLog:
        # Not imported with the trainer, which is to cost next to nothing over torch.
        from loopwright.run_log import RunLog

        assert self.run_dir is not None
        assert trainer.run_config is not None
        history = trainer.run_history
        self._log = RunLog(
            self.run_dir,
            trainer.run_config,
            history,
            samples_before=trainer.progress.samples,
            resume=resumes,
            tell=None if self.policy.stop_when_save_fails else trainer.print,
        )
        return self._log

    def _make_store(self, trainer: Trainer) -> CheckpointStore:
        assert self.run_dir is not None
        folder = self.run_dir / "checkpoints"
        return CheckpointStore(
            folder,
            self.policy,
            trainer.print,
            protected=self.resumed_from,
            on_change=None if self.mirror is None else self.mirror.changed,
        )

    def _interruption(self, path: Path) -> BaseException:
        """Return what the caller of a run is told that saved and ended."""
        assert self.requests.signal is not None
        if self.requests.signal.name == "SIGINT":
            return KeyboardInterrupt(f"saved {path}")
        return RunInterrupted(self.requests.signal.name, path, self.goes_on_with)

    def log_steps(self, report: StepReport) -> None:
        """Note in the folder how steps are executed."""
        if self.store is not None and self._log is not None:
            self._log.log_steps(report.to_dict())

    def log_epoch(self, trainer: Trainer) -> None:
        """Log the metrics that an epoch recorded."""
        if self.store is not None and self._log is not None:
            self._log.log(trainer.run_history, trainer.progress)
            if self.mirror is not None:
                self.mirror.changed()
                self.mirror.report(trainer.print)

    def log_evaluation(self, trainer: Trainer) -> None:
        """Log the metrics of an evaluation after a run."""
        if self._log is not None:
            self._log.add_evaluation(trainer.run_history, trainer.progress)
            self.finish_copy(trainer)

    def finish_copy(self, trainer: Trainer) -> None:
        """Have the copy of the folder take in what was written after the run."""
        if self.mirror is not None:
            self.mirror.finish(trainer.print)

    def save_if_due(self, trainer: Trainer) -> None:
        """Save between updates when the policy asks for it; leave when a signal does."""
        if self.store is None or trainer._accumulation.is_open:
            return
        self.leave_if_asked()
        self.store.stop_if_failed()
        if self.store.is_due(trainer.progress.step):
            self._save(trainer)

    def save_after_epoch(self, trainer: Trainer) -> None:
        """Save after an epoch when the policy asks for it; leave when a signal does."""
        if self.store is None:
            return
        self.leave_if_asked()
        if self.store.is_due_after_epoch(trainer.progress.epochs_done):
            self._save(trainer)

    def leave_if_asked(self) -> None:
        """Leave the run when a signal asked for it."""
        if self.requests.signal is not None and self.store is not None:
            raise StopRequested

    def _save_end(self, trainer: Trainer) -> Path:
        """Save the state that the run leaves, and return the newest checkpoint.

        A step of several updates that was left in its middle is no state to go on from.
        """
        assert self.store is not None
        guard = trainer._guard
        try:
            if guard is None or guard.bad is None or not guard.bad.is_half_done:
                return self._save(trainer, wait=True)
        except NonFiniteLossError:  # it brought the trainer back to before that step
            return self._save_end(trainer)
        self.store.wait()
        trainer.print("Not saved: an optimizer had updated in the step that was not finite")
        saved = self.store.list()
        return saved[-1].path if saved else self.store.folder

    def _save(self, trainer: Trainer, *, wait: bool = False) -> Path:
        assert self.store is not None
        history, watch = trainer.run_history, self.policy.watch
        is_known = trainer.progress.phase == "idle" and watch in history.get_metric_names()
        metric = float(history.get_latest_metric(watch)) if is_known else None
        step = trainer.progress.step
        if self._log is not None:
            self._log.flush()
        return self.store.save(take_state(trainer), step=step, metric=metric, wait=wait)

    def resume(
        self, trainer: Trainer, origin: str | os.PathLike[str], *, allow_changes: bool
    ) -> None:
        """Bring a trainer to a checkpoint, before its run starts.

        Args:
            trainer: The trainer, prepared for the run.
            origin: The folder, the URL of one or of the copy of a run, or "latest" for the newest
                one that is whole; without any the run starts anew.
            allow_changes: Take other settings than those of the checkpoint.
        """
        self.refuses_changes = not allow_changes
        try:
            state = self._restore(trainer, origin)
        finally:
            self.refuses_changes = False
        if state is not None:
            trainer.run_history._set_epoch(state["current_epoch"])

    def _restore(
        self, trainer: Trainer, origin: str | os.PathLike[str]
    ) -> Mapping[str, Any] | None:
        if isinstance(origin, str) and "://" in origin:
            from loopwright.storage import fetch_checkpoint

            origin = fetch_checkpoint(origin)
        if origin != "latest":
            self.resumed_from = Path(origin)
            return trainer.load_training_state(origin)
        if self.run_dir is None:
            raise ValueError("resume='latest' needs the run's folder: give run_dir.")
        found = self._make_store(trainer).read_latest()
        if found is None:
            trainer.print(f"No checkpoint in {self.run_dir}: starting anew")
            return None
        self.resumed_from, state = found
        put_state(trainer, state)
        trainer.print(f"Going on from {self.resumed_from}")
        return state

    def is_finished(self, trainer: Trainer) -> bool:
        """Whether the folder holds a run that is complete; its end is restored then."""
        if self.run_dir is None:
            return False
        if self.mirror is not None:
            self.mirror.pull(trainer.print)
        from loopwright.run_log import is_finished

        if not is_finished(self.run_dir):
            return False
        trainer.print(f"The run in {self.run_dir} is finished: nothing to resume")
        self.resume(trainer, "latest", allow_changes=True)
        return True

    def finish_resuming(self, trainer: Trainer) -> None:
        """Put back what callbacks reset or drew at the start of the run."""
        if self.resumed is not None and "callbacks" in self.resumed:
            finish_resuming(trainer, self.resumed)

    def take_loader_position(self) -> dict[str, Any] | None:
        """Return where the loader stood in the epoch that the run goes on in, once."""
        resumed, self.resumed = self.resumed, None
        return None if resumed is None else resumed["loader"]


def _mirror_of(run_dir: str | os.PathLike[str] | None) -> Mirror | None:
    """Return what copies a folder to a URL: as given, made for a URL, or as notes in it say."""
    if run_dir is None:
        return None
    place = run_dir if isinstance(run_dir, str) else os.fspath(run_dir)
    if isinstance(run_dir, Path) and run_dir.parts[:1] and _SCHEME.fullmatch(run_dir.parts[0]):
        raise ValueError(
            f"run_dir is the path {place!r}, where a URL lost a slash; give the URL as a string."
        )
    is_plain = isinstance(run_dir, (str, Path)) and "://" not in place
    if is_plain and not os.path.exists(os.path.join(place, ".mirror")):
        return None
    from loopwright.storage import Mirror

    if isinstance(run_dir, Mirror):
        return run_dir
    return Mirror.of(place) if "://" not in place else Mirror(place)
