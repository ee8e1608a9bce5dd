"""What the processes of the fault tests do; each function is a job by its name."""

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from faults import loop_task, task
from faults.runner import digest, peak_memory
from loopwright import checkpoint_store, run_log
from loopwright.callbacks import TrainerCallback
from loopwright.checkpoint import read_state
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.errors import CheckpointError, RunInterrupted
from loopwright.exports import load_export
from loopwright.trainer import Trainer


def train(
    folder: str, *, kill_at: int | None = None, number: int = signal.SIGKILL, **options: Any
) -> dict[str, Any]:
    """Run the task, or go on with it; end it at a step with a signal if asked to."""
    callbacks = [] if kill_at is None else [task.KillAt(kill_at, number)]
    return _ended(folder, *callbacks, **options)


def train_loop(folder: str, name: str, **options: Any) -> dict[str, Any]:
    """Train the task's TrainLoop, or go on with it."""
    return {key: digest(value) for key, value in loop_task.run(folder, name, **options).items()}


def _ended(folder: str, *callbacks: TrainerCallback, **options: Any) -> dict[str, Any]:
    """Train, and report how that ended."""
    report: dict[str, Any] = {"error": None, "started_at": None}
    watch = _Watch(report)
    try:
        trainer = task.run(Path(folder), watch, *callbacks, **options)
    except (RunInterrupted, KeyboardInterrupt, OSError) as error:
        report["error"] = type(error).__name__
        report["message"] = str(error)
        report["signal"] = getattr(error, "signal", None)
        report["step"] = watch.trainer.progress.step
        return report
    report["outcome"] = {name: digest(value) for name, value in task.outcome(trainer).items()}
    report["step"] = trainer.progress.step
    report["log"] = digest(task.log_of(Path(folder)))
    return report


class _Watch(TrainerCallback):
    def __init__(self, report: dict[str, Any]) -> None:
        self.report = report
        self.trainer: Any = None

    def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
        self.trainer = trainer
        if self.report["started_at"] is None:
            self.report["started_at"] = trainer.progress.step


assert run_log  # which trainers import late, is here before the server forks


# ------------------------------------------------------------------------- signals by phase


class _InEvaluation(TrainerCallback):
    def __init__(self, batch: int, number: int) -> None:
        self.left, self.number = batch, number

    def on_eval_step_end(self, trainer: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


class _SlowSample(task.Augmented):
    """Asks the process that trains to stop, once, and takes very long over that sample."""

    def __init__(self, sample: int, number: int, *, draws: bool) -> None:
        super().__init__()
        self.draws = draws
        self.left, self.number, self.trains = sample, number, os.getpid()

    def __getitem__(self, index: int) -> Any:
        self.left -= 1
        if self.left == 0:
            if self.draws:
                torch.rand(3)  # and the generators are left in the middle of it
            os.kill(self.trains, self.number)
            time.sleep(10)
        return super().__getitem__(index)


def stop_in(folder: str, phase: str, number: int, when: int, **options: Any) -> dict[str, Any]:
    """Train, and be asked to stop in a phase; `when` counts steps, batches, samples or writes."""
    if phase == "training":
        return train(folder, kill_at=when, number=number, **options)
    if phase == "evaluation":
        return _ended(folder, _InEvaluation(when, number), **options)
    if phase == "data":
        draws = options.get("data") != "own"  # whose draws are the run's own
        task.Augmented = lambda: _SlowSample(when, number, draws=draws)  # type: ignore[assignment,misc,return-value]
        return _ended(folder, **options)
    write, left = checkpoint_store.write_snapshot, [when]

    def slow(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)
            time.sleep(0.3)
            if phase == "saving twice":
                os.kill(os.getpid(), number)
        write(*arguments)

    checkpoint_store.write_snapshot = slow
    return _ended(folder, **options)


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


class _Full(TrainerCallback):
    """Lets no file grow past a size between two steps."""

    def __init__(self, first: int, last: int, size: int) -> None:
        self.first, self.last, self.size = first, last, size

    def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
        step = trainer.progress.step + 1
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if step in (self.first, self.last):
            size = self.size if step == self.first else hard
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def full_disk(
    folder: str, *, first: int, last: int, kill_at: int | None = None, **options: Any
) -> dict[str, Any]:
    """Train while files cannot grow between two steps; be asked to stop meanwhile if told to."""
    said: list[str] = []
    Trainer.print = lambda self, *args, **kwargs: said.append(" ".join(map(str, args)))  # type: ignore[method-assign]
    callbacks: list[TrainerCallback] = [_Full(first, last, 5_000)]
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
