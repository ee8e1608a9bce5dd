"""The five callbacks that a trainer has unless told otherwise."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from loopwright.device import LaggedValue
from loopwright.events import TrainerCallback
from loopwright.finite import BadStep, NonFiniteLossError, StepGuard
from loopwright.hints import bottleneck_hint, fused_hint
from loopwright.loaders import innermost
from loopwright.progress_bar import ProgressBar
from loopwright.train_arguments import optimizers_in

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


class MoveModulesToDeviceCallback(TrainerCallback):
    """Moves modules that are attributes of the trainer (metrics, losses) to its device.

    The model itself is moved by the trainer.
    """

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._move(trainer)

    def on_evaluation_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._move(trainer)

    def _move(self, trainer: Trainer) -> None:
        for name, value in vars(trainer).items():
            if name != "model" and isinstance(value, torch.nn.Module):
                value.to(trainer.device)


class TerminateOnNaNCallback(TrainerCallback):
    """Ends the run when a loss of training or evaluation is NaN or infinite.

    What the run leaves is what it was before that step: weights, optimizers, buffers, schedules,
    and in a run with a folder random states. Such a run saves the step in `forensics`, to be run
    again by `loopwright replay` or `loopwright.forensics.replay`.

    On a CPU each loss is read before its gradients exist. On an accelerator a flag on the device
    stops all changes from that step on; it is read twice a second without stalling, at the end of
    the epoch, and before anything is saved. Optimizers that cannot skip on the device (all but
    fused ones, see `loopwright.finite.skips_on_device`) cost one read per step, as does fp16.
    """

    seconds_between_reads = 0.5

    def __init__(self) -> None:
        self.triggered = False
        self._running_sum = LaggedValue()
        self._next_read = 0.0

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._arm(trainer)

    def on_evaluation_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._arm(trainer)

    def _guard_of(self, trainer: Trainer) -> StepGuard:
        if trainer._guard is None:  # this callback came when the run had begun
            self._arm(trainer)
        assert trainer._guard is not None
        return trainer._guard

    def _arm(self, trainer: Trainer) -> None:
        self.triggered = False
        every = self.seconds_between_reads
        trainer._guard = StepGuard(trainer, seconds_between_reads=every)

    def on_train_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._guard_of(trainer).start_epoch(trainer)

    def on_eval_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._running_sum = LaggedValue()

    def on_eval_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
        total = trainer.loss_trackers[0].total_loss
        if isinstance(total, torch.Tensor) and time.perf_counter() >= self._next_read:
            self._next_read = time.perf_counter() + self.seconds_between_reads
            self._check(trainer, self._running_sum.read(total))

    def on_eval_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        for tracker in trainer.loss_trackers:
            self._check(trainer, tracker.average)

    def _check(self, trainer: Trainer, loss: float | None) -> None:
        if loss is not None and not math.isfinite(loss):
            self._guard_of(trainer).stop(trainer, f"the loss became {loss}")

    def on_stop_training_error(self, trainer: Trainer, **kwargs: Any) -> None:
        """Note what ended the run; the flag on the device may be set and not read yet."""
        if trainer._guard is not None and trainer.progress.phase == "train":
            try:
                trainer._guard.settle(trainer)
            except NonFiniteLossError as bad:
                trainer._stop = bad.with_traceback(None)
        self.triggered = isinstance(trainer._stop, NonFiniteLossError)
        if trainer._guard is not None and trainer._guard.bad is not None:
            _save_bad_step(trainer, trainer._guard.bad)


def _save_bad_step(trainer: Trainer, bad: BadStep) -> None:
    if trainer.run_dir is None:
        return
    # Not imported with the trainer, which is to cost next to nothing over torch.
    from loopwright.forensics import FOLDER, save_bad_step

    folder = trainer.run_dir / FOLDER
    try:
        save_bad_step(trainer, bad, folder)
    except OSError as error:
        trainer.print(f"The step could not be saved in {folder}: {error}")
    else:
        trainer.print(f"Saved the step in {folder}. Run it again: loopwright replay {folder}")


class PrintProgressCallback(TrainerCallback):
    """Prints a line at the start and the end of a run and at the start of each epoch.

    At the start it says when a fused optimizer would pay, at the end whether data or the model
    took the time.
    """

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        trainer.print("Starting training run")
        for optimizer in optimizers_in(trainer.optimizer):
            if hint := fused_hint(optimizer, trainer.device):
                trainer.print(hint)

    def on_train_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
        trainer.print(f"\nStarting epoch {trainer.run_history.current_epoch}")

    def on_eval_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
        trainer.print("Starting eval epoch")

    def on_training_run_end(self, trainer: Trainer, **kwargs: Any) -> None:
        if trainer.seconds_training:
            workers = getattr(innermost(trainer._train_dataloader), "num_workers", None)
            trainer.print(
                bottleneck_hint(trainer.seconds_waiting, trainer.seconds_training, workers)
            )
        trainer.print("Finishing training run")

    def on_evaluation_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        trainer.print("Starting evaluation run")

    def on_evaluation_run_end(self, trainer: Trainer, **kwargs: Any) -> None:
        trainer.print("Finishing evaluation run")


class ProgressBarCallback(TrainerCallback):
    """Shows a bar with the mean loss so far, redrawn on a clock and never per step."""

    def __init__(self) -> None:
        self._bars: list[ProgressBar] = []
        self._loss = LaggedValue()

    def on_train_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._open("train", trainer.num_train_batches)

    def on_eval_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._open("eval", trainer.num_eval_batches)

    def on_train_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
        bar = self._bars[-1]
        bar.count += 1
        if time.perf_counter() >= bar.next_draw:
            bar.note = self._note(trainer)
            bar.draw()

    on_eval_step_end = on_train_step_end

    def on_train_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        self._close(trainer)

    def on_eval_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        self._close(trainer)

    def on_stop_training_error(self, trainer: Trainer, **kwargs: Any) -> None:
        self._close_all(trainer)

    def on_run_interrupted(self, trainer: Trainer, **kwargs: Any) -> None:
        """End the lines of bars that an exception left open."""
        self._close_all(trainer)

    def _open(self, title: str, total: int | None) -> None:
        self._bars.append(ProgressBar(title, total))
        self._loss = LaggedValue()

    def _note(self, trainer: Trainer) -> str:
        tracker = trainer.loss_trackers[0]
        if not isinstance(tracker.total_loss, torch.Tensor):
            return f"loss {tracker.average:.4g}"
        mean = self._loss.read(tracker.total_loss / tracker.running_count)
        return "" if mean is None else f"loss {mean:.4g}"

    def _close(self, trainer: Trainer) -> None:
        bar = self._bars.pop()
        bar.note = self._note(trainer)
        bar.close()

    def _close_all(self, trainer: Trainer) -> None:
        while self._bars:
            self._close(trainer)


class LogMetricsCallback(TrainerCallback):
    """Prints the latest metrics: those named with "train" after training, the others after eval.

    Override `log_metrics` to send them elsewhere.
    """

    def on_train_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        names = trainer.run_history.get_metric_names()
        self._log_latest(trainer, (name for name in names if "train" in name))

    def on_eval_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        names = trainer.run_history.get_metric_names()
        self._log_latest(trainer, (name for name in names if "train" not in name))

    def _log_latest(self, trainer: Trainer, names: Iterable[str]) -> None:
        latest = trainer.run_history.get_latest_metric
        self.log_metrics(trainer, {name: latest(name) for name in sorted(names)})

    def log_metrics(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Print each metric on a line of its own."""
        for name, value in metrics.items():
            shown = f"{value:.6g}" if isinstance(value, float) else value
            trainer.print(f"{name}: {shown}")


PrintMetricsCallback = LogMetricsCallback
"""The older documented name of `LogMetricsCallback` (P-26)."""

DEFAULT_CALLBACKS = (
    MoveModulesToDeviceCallback,
    TerminateOnNaNCallback,
    PrintProgressCallback,
    ProgressBarCallback,
    LogMetricsCallback,
)
"""What a `Trainer` uses when no callbacks are given (P-40)."""
