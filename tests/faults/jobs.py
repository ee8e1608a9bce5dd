"""What the processes of the fault tests do; each function is a job by its name."""

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which optimizers import late, is here before the server forks
from torch import nn

from faults import loop_task, storage_jobs, task
from faults.runner import digest, peak_memory
from faults.storage_jobs import fetched, push
from loopwright import checkpoint_store, run_log
from loopwright.callbacks import TerminateOnNaNCallback, TrainerCallback
from loopwright.checkpoint import read_state
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.errors import CheckpointError, RunInterrupted
from loopwright.exports import load_export
from loopwright.trainer import Trainer

with suppress(ImportError):  # what takes seconds is here before the server forks
    import matplotlib.figure  # noqa: F401
    import s3fs  # noqa: F401
    import sklearn.metrics  # noqa: F401


def train(
    folder: str, *, kill_at: int | None = None, number: int = signal.SIGKILL, **options: Any
) -> dict[str, Any]:
    """Run the task, or go on with it; end it at a step with a signal if asked to."""
    callbacks = [] if kill_at is None else [task.KillAt(kill_at, number)]
    return _ended(folder, *callbacks, **options)


def train_loop(folder: str, name: str, **options: Any) -> dict[str, Any]:
    """Train the task's TrainLoop, or go on with it; report what it ended with as checksums."""
    ended = loop_task.run(folder, name, **options)
    as_it_is = ("times", "interrupted")
    told = {key: ended[key] for key in as_it_is if key in ended}
    return {**{key: digest(ended[key]) for key in ended if key not in as_it_is}, **told}


def _ended(
    folder: str | os.PathLike[str], *callbacks: TrainerCallback, **options: Any
) -> dict[str, Any]:
    """Train, and report how that ended."""
    report: dict[str, Any] = {"error": None, "started_at": None}
    watch = _Watch(report)
    try:
        trainer = task.run(folder, watch, *callbacks, **options)
    except (RunInterrupted, KeyboardInterrupt, OSError) as error:
        asked = Path(folder).with_suffix(".asked")
        report["seconds"] = time.monotonic() - float(asked.read_text()) if asked.exists() else None
        report["error"] = type(error).__name__
        report["message"] = str(error)
        report["signal"] = getattr(error, "signal", None)
        report["step"] = watch.trainer.progress.step
        return report
    report["outcome"] = {name: digest(value) for name, value in task.outcome(trainer).items()}
    report["step"] = trainer.progress.step
    report["log"] = digest(task.log_of(Path(folder)))
    return report


class _OnDevice(TrainerCallback):
    """Takes the path of accelerators, on CPU tensors."""

    def on_training_run_start(self, trainer: Any, **kwargs: Any) -> None:
        trainer._reads_losses_per_step = False


def meet_bad_sample(
    folder: str, sample: int, *, kill_at: int | None = None, on_device: bool, **options: Any
) -> dict[str, Any]:
    """Train until a sample of NaN comes; report what the step left, too."""

    class Bad(task.Augmented):
        def __getitem__(self, index: int) -> Any:
            inputs, target = super().__getitem__(index)
            return inputs * (float("nan") if index == sample else 1.0), target

    task.Augmented = Bad  # type: ignore[misc]
    callbacks = [_OnDevice()] if on_device else []
    callbacks += [TerminateOnNaNCallback()]
    callbacks += [] if kill_at is None else [task.KillAt(kill_at)]
    report: dict[str, Any] = {"started_at": None}
    trainer = task.run(Path(folder), _Watch(report), *callbacks, **options)
    saved = read_state(Path(folder, "forensics"))
    saved["random"] = saved["random"]["torch"]  # the others are seeded by the system here
    return {
        **report,
        "step": trainer.progress.step,
        "outcome": digest(task.outcome(trainer)),
        "bad step": digest(saved),
    }


class _Watch(TrainerCallback):
    def __init__(self, report: dict[str, Any]) -> None:
        self.report = report
        self.trainer: Any = None

    def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
        self.trainer = trainer
        if self.report["started_at"] is None:
            self.report["started_at"] = trainer.progress.step


SLOW_SAMPLE = 7
"""Seconds."""

assert run_log  # which trainers import late, is here before the server forks


# ------------------------------------------------------------------------- signals by phase


def _ask(folder: str, number: int, process: int | None = None) -> None:
    """Send a signal to a process, this one by default, and note when."""
    asked = Path(folder).with_suffix(".asked")
    if not asked.exists():
        asked.write_text(str(time.monotonic()))
    os.kill(process or os.getpid(), number)


class _AtStep(task.KillAt):
    def __init__(self, step: int, number: int, folder: str) -> None:
        super().__init__(step, number)
        self.folder = folder

    def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
        if trainer.progress.step + 1 == self.step:
            self.step = -1
            _ask(self.folder, self.number)


class _InEvaluation(TrainerCallback):
    def __init__(self, batch: int, number: int, folder: str) -> None:
        self.left, self.number, self.folder = batch, number, folder

    def on_eval_step_end(self, trainer: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            _ask(self.folder, self.number)


class _SlowSample(task.Augmented):
    """Asks the process that trains to stop, once, and takes very long over that sample."""

    def __init__(self, sample: int, number: int, folder: str, *, draws: bool) -> None:
        super().__init__()
        self.draws, self.folder = draws, folder
        self.left, self.number, self.trains = sample, number, os.getpid()

    def __getitem__(self, index: int) -> Any:
        self.left -= 1
        if self.left == 0:
            if self.draws:
                torch.rand(3)  # and the generators are left in the middle of it
            _ask(self.folder, self.number, self.trains)
            time.sleep(SLOW_SAMPLE)
        return super().__getitem__(index)


def stop_in(folder: str, phase: str, number: int, when: int, **options: Any) -> dict[str, Any]:
    """Train, and be asked to stop in a phase.

    `when` counts steps, batches, samples, writes or compilations.
    """
    left = [when]

    def reached() -> bool:
        left[0] -= 1
        return left[0] == 0

    if phase == "training":
        return _ended(folder, _AtStep(when, number, folder), **options)
    if phase == "evaluation":
        return _ended(folder, _InEvaluation(when, number, folder), **options)
    if phase == "data":
        draws = options.get("data") != "own"  # whose draws are the run's own
        slow = partial(_SlowSample, when, number, folder, draws=draws)
        task.Augmented = slow  # type: ignore[assignment,misc]
        return _ended(folder, **options)
    if phase == "compiling":

        def backend(graph: Any, inputs: Any) -> Any:
            if reached():
                _ask(folder, number)
                time.sleep(0.3)
            return graph.forward

        task.backend = backend
        return _ended(folder, **options)
    write = checkpoint_store.write_snapshot

    def write_slowly(*arguments: Any) -> None:
        if reached():
            _ask(folder, number)
            time.sleep(0.3)
            if phase == "saving twice":
                _ask(folder, number)
        write(*arguments)

    checkpoint_store.write_snapshot = write_slowly
    return _ended(folder, **options)


class _Dies(task.Augmented):
    """Ends the worker that makes a sample, as the system does when memory runs out."""

    def __init__(self, sample: int) -> None:
        super().__init__()
        self.left = sample

    def __getitem__(self, index: int) -> Any:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def lose_worker(folder: str, when: int, **options: Any) -> dict[str, Any]:
    """Train, and lose a worker at a sample of its own."""
    task.Augmented = partial(_Dies, when)  # type: ignore[assignment,misc]
    try:
        task.run(Path(folder), **options)
    except (RuntimeError, OSError, EOFError) as error:
        return {"error": repr(error), "notes": getattr(error, "__notes__", [])}
    return {"error": None, "notes": []}


class _ToTheGroup(task.KillAt):
    def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
        if trainer.progress.step + 1 == self.step:
            self.step = -1
            os.killpg(os.getpgid(0), self.number)
            time.sleep(0.5)


def stop_group(folder: str, when: int, **options: Any) -> dict[str, Any]:
    """Train, and send SIGTERM to all processes of the job at a step."""
    os.setpgid(0, 0)
    return _ended(folder, _ToTheGroup(when, signal.SIGTERM), **options)


def ignoring(folder: str, when: int) -> dict[str, Any]:
    """Train where SIGHUP is ignored, and send one."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return train(folder, kill_at=when, number=signal.SIGHUP)


# -------------------------------------------------------------------------- large checkpoints


class _Large(nn.Module):
    """Has weights that are all minus the number of updates, with SGD of rate 1."""

    def __init__(self, megabytes: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(megabytes * 2**18))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.weights.sum()


def large(folder: str, megabytes: int, witness: str) -> dict[str, Any]:
    """Save a large checkpoint after every step, until killed; note each that is finished."""
    torch.set_num_threads(1)
    write = checkpoint_store.write_snapshot

    def noted(path: Path, *arguments: Any) -> None:
        write(path, *arguments)
        with open(witness, "a") as file:
            file.write(f"{int(path.name[5:])}\n")

    checkpoint_store.write_snapshot = noted
    model = _Large(megabytes)
    trainer = Trainer(
        model,
        lambda outputs, targets: outputs,
        torch.optim.SGD(model.parameters(), lr=1.0),
        callbacks=(),
        run_dir=folder,
        checkpoint=CheckpointPolicy(every_steps=1),
        seed=1,
    )
    data = torch.zeros(64, 1), torch.zeros(64)
    trainer.train(data, 10**6, per_device_batch_size=1, resume="latest")
    return {}


# ------------------------------------------------------------------------------ full disks


class _Between(TrainerCallback):
    """Lets nothing be written between two steps."""

    def __init__(self, first: int, last: int, begin: Callable[[], Any], end: Callable[[], Any]):
        self.moments = {first: begin, last: end}

    def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
        change = self.moments.get(trainer.progress.step + 1)
        if change is not None:
            trainer._keeper.store.wait()  # so that what was begun before is whole
            change()


def _limit_files(size: int | None) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _remount(path: Path, how: str) -> None:
    """Mount a folder in its place, read-only or not; it is busy while something is written."""
    path.mkdir(exist_ok=True)
    if how == "ro":
        subprocess.run(["mount", "--bind", path, path], check=True)
    command = ["mount", "-o", f"remount,bind,{how}", str(path)]
    while subprocess.run(command, capture_output=True).returncode:
        time.sleep(0.01)


def full_disk(
    folder: str,
    *,
    first: int,
    last: int,
    how: str = "limit",
    kill_at: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train while nothing can be written between two steps; be asked to stop meanwhile if told to.

    `how` is "limit" (no file can grow past 5,000 bytes), "full" (the file system that the folder's
    parent is), or "ro" (its checkpoints can only be read).
    """
    said: list[str] = []
    Trainer.print = lambda self, *args, **kwargs: said.append(" ".join(map(str, args)))  # type: ignore[method-assign]
    filler, checkpoints = Path(folder).with_suffix(".filler"), Path(folder) / "checkpoints"
    begin, end = {
        "limit": (partial(_limit_files, 5_000), partial(_limit_files, None)),
        "full": (partial(_fill, filler), filler.unlink),
        "ro": (partial(_remount, checkpoints, "ro"), partial(_remount, checkpoints, "rw")),
    }[how]
    callbacks: list[TrainerCallback] = [_Between(first, last, begin, end)]
    if kill_at is not None:
        callbacks.append(task.KillAt(kill_at, signal.SIGTERM))
    return {**_ended(folder, *callbacks, quiet=False, **options), "said": said}


# -------------------------------------------------------------------------------- reading


def read(folder: str) -> dict[str, Any]:
    """Read a state folder, and report what came of it and the memory it took."""
    return _measured(read_state, folder)


def read_export(path: str) -> dict[str, Any]:
    """Read an exported file, and report the same."""
    return _measured(load_export, path)


def _measured(reads: Callable[[str], Any], path: str) -> dict[str, Any]:
    before = peak_memory()
    try:
        report: dict[str, Any] = {"state": digest(reads(path)), "error": None}
    except CheckpointError as error:
        report = {"error": str(error)}
    return {**report, "memory": peak_memory() - before}


# -------------------------------------------------------------------------------- storage

__all__ = ["fetched", "push"]


def copied(folder: str, kill_at: int | None = None, **options: Any) -> dict[str, Any]:
    """Train with a copy at a URL, or go on; end at a step with SIGKILL if asked to."""
    callbacks = [] if kill_at is None else [task.KillAt(kill_at)]
    return storage_jobs.copied(_ended, folder, *callbacks, **options)
