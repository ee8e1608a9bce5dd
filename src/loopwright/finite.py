"""What a loss that is not finite leaves behind: the trainer as it stood before that step.

On a CPU each loss is read before its gradients exist. Elsewhere a flag on the device is set by the
first bad loss; from then on optimizers skip and buffers are put back, until the host reads it.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from loopwright.buffers import BufferCopies
from loopwright.device import Sent
from loopwright.events import StopTrainingError
from loopwright.loaders import innermost
from loopwright.states import load_states, states_of
from loopwright.train_arguments import optimizers_in, torch_optimizers_in

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

_MOST_KEPT = 4
"""Batches kept on the device at once, of loaders that cannot make one again."""


class NonFiniteLossError(StopTrainingError):
    """Ends a run whose loss, or the norm of whose gradient, is NaN or infinite."""

    is_failure = True


@dataclass(frozen=True)
class BadStep:
    """Is the step that a run stopped at; the trainer stands before it."""

    what: str
    """What was not finite, such as "the loss became nan"."""
    micro_batch: int
    """The first micro-batch of the step: its index in the epoch."""
    size: int
    """Micro-batches that it would have had."""
    num_parts: int
    """Parts that each of them runs in; 1 where they are whole."""
    num_run: int
    """How many of all parts ran, the bad one included."""
    is_half_done: bool
    """Whether one of several updates of the step was, or may have been, complete before."""
    batches: list[Any] | None
    """Those that ran, where the loader cannot make them again."""


def skips_on_device(optimizer: Any) -> bool:
    """Whether an optimizer changes nothing, without a read, while its `found_inf` is 1.

    Those are Adam, AdamW, SGD and Adagrad of torch with `fused=True`, and others that keep torch's
    contract for gradient scaling, `_step_supports_amp_scaling`.
    """
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


class DeviceLatch:
    """A flag on a device that the first value that is not finite sets, for good.

    Every method only launches work on the device, so that it can be part of a captured graph.
    """

    def __init__(self, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.flag = torch.zeros((), device=device)
        """Is 1.0 from the first bad value on, as optimizers take it in `found_inf`."""
        self.num_bad = torch.zeros((), dtype=wide, device=device)
        """Micro-batches that ended with the flag set."""
        self.losses = torch.zeros((), dtype=wide, device=device)
        """The sum of all losses, in which a bad one stays visible."""
        self.norms = torch.zeros((), dtype=wide, device=device)
        """The same of the norms of gradients."""
        self._one = torch.ones((), device=device)

    def note(self, value: Tensor, total: Tensor) -> None:
        """Add a value to `losses` or `norms`, and set the flag if it is not finite."""
        total.add_(value)
        torch._amp_foreach_non_finite_check_and_unscale_([total], self.flag, self._one)


class StepGuard:
    """Keeps what a bad step changes, and brings a trainer back to where it stood before it.

    Args:
        trainer: The trainer, at the start of a run.
        seconds_between_reads: How often the flag on the device is read.
    """

    def __init__(self, trainer: Trainer, *, seconds_between_reads: float) -> None:
        self.is_watching = False
        """Whether the trainer is to tell when micro-batches begin and end."""
        self.bad: BadStep | None = None
        """The step that the run stopped at."""
        self.latch: DeviceLatch | None = None
        """What losses are noted in, instead of being read each."""
        # A random state matters to what is saved alone.
        self._generators = generators_of(trainer) if trainer.run_dir is not None else {}
        self._drawn = self._generators
        self._is_first = False
        self._buffers = BufferCopies([])
        self._keeps_batches = False
        self._records: deque[StepStart] = deque(maxlen=1)
        if not (trainer._reads_losses_per_step or trainer._scalers):
            self._watch_device(trainer, seconds_between_reads)

    def _watch_device(self, trainer: Trainer, seconds_between_reads: float) -> None:
        self.latch = DeviceLatch(trainer.device)
        self._records = deque()
        self._seconds = seconds_between_reads
        self._next_read = time.perf_counter() + seconds_between_reads
        self._num_ended = 0
        self._sent: tuple[Sent, int] | None = None
        self._skipping = [
            each for each in optimizers_in(trainer.optimizer) if skips_on_device(each)
        ]
        for optimizer in self._skipping:
            optimizer.found_inf = self.latch.flag

    def release(self) -> None:
        """Leave no trace in the optimizers."""
        if self.latch is not None:
            for optimizer in self._skipping:
                vars(optimizer).pop("found_inf", None)

    # -------------------------------------------------------------------- from the loop

    def start_epoch(self, trainer: Trainer) -> None:
        """Find out anew, in the first micro-batch, what steps change."""
        self.is_watching = self._is_first = True
        modules = [each for each in vars(trainer).values() if isinstance(each, nn.Module)]
        self._buffers = BufferCopies(modules)
        loader = innermost(trainer._train_dataloader)
        self._keeps_batches = not getattr(loader, "makes_again", False)

    def begin(self, trainer: Trainer) -> None:
        """Keep what the step may change, where this is its first micro-batch."""
        if not trainer._accumulation.is_open:
            self._buffers.save()
            generators = self._generators if self._is_first else self._drawn
            record = StepStart.of(trainer, {name: get() for name, (get, _) in generators.items()})
            if self.latch is not None:
                record.add_rates(trainer, self._num_ended)
            self._records.append(record)
        if self._keeps_batches:
            self._records[-1].batches.append(trainer._micro_batch)

    def end(self, trainer: Trainer) -> None:
        """Take in what the micro-batch changed; on the device, undo it where the flag is set."""
        if self._is_first:
            self._decide(trainer)
        if self.latch is None:
            return
        self._buffers.put_back_where(self.latch.flag)
        self.latch.num_bad.add_(self.latch.flag)
        self._num_ended += 1
        self._read_later(trainer)

    def _decide(self, trainer: Trainer) -> None:
        """Settle what has to be kept in each step, after the first one of an epoch."""
        self._is_first = False
        self._buffers.compare()
        self._buffers.let_go()
        before = self._records[-1].random
        self._drawn = {
            name: access
            for name, access in self._generators.items()
            if not _are_equal(before[name], access[0]())
        }
        # Looking at these takes long; models draw from the others.
        seldom = {"python", "numpy"} - self._drawn.keys()
        self._generators = {k: v for k, v in self._generators.items() if k not in seldom}
        self.is_watching = bool(
            self.latch is not None
            or len(self._buffers)
            or self._drawn
            or trainer._accumulation.is_needed
            or len(trainer._optimizer_names) > 1
            or trainer._splitter is not None
        )

    def note(self, trainer: Trainer, loss: Tensor) -> None:
        """Take in a loss of training: stop at once where it can be read, else set the flag."""
        if trainer.progress.phase != "train":
            return
        if self.latch is not None:
            self.latch.note(loss.detach(), self.latch.losses)
        elif not math.isfinite(value := loss.item()):
            self.stop(trainer, f"the loss became {value}")

    def note_norm(self, trainer: Trainer, norm: Tensor) -> None:
        """Take in the norm of a gradient, likewise."""
        if self.latch is not None:
            self.latch.note(norm, self.latch.norms)
        elif not math.isfinite(value := norm.item()):
            trainer._updated.discard(trainer._turn)  # its update is not done
            self.stop(trainer, f"the norm of the gradient became {value}")

    def check_update(self, trainer: Trainer, optimizer: Any) -> None:
        """Read the flag before the step of an optimizer that would not skip."""
        if self.latch is None or optimizer in self._skipping:
            return
        if self.latch.flag.item():
            self.settle(trainer)
        self._forget_before(self._num_ended)

    def settle(self, trainer: Trainer) -> None:
        """Wait for the device, and stop if the flag is set.

        Raises:
            NonFiniteLossError: It is; the trainer stands before the bad step.
        """
        if self.latch is None or self.bad is not None:
            return
        if self.latch.flag.item():
            self._stop_at(trainer, self._num_ended - int(self.latch.num_bad.item()))
        self._sent = None
        self._forget_before(self._num_ended)

    # --------------------------------------------------------------------- reading

    def _read_later(self, trainer: Trainer) -> None:
        """Send for the flag now and then, and act on what has arrived."""
        assert self.latch is not None
        is_due = self._keeps_batches and len(self._records) > _MOST_KEPT // 2
        if self._sent is None and (is_due or time.perf_counter() >= self._next_read):
            self._sent = Sent(self.latch.num_bad), self._num_ended
            self._next_read = time.perf_counter() + self._seconds
        if self._sent is not None and self._sent[0].has_arrived:
            (sent, num_ended), self._sent = self._sent, None
            if num_bad := int(sent.value.item()):
                self._stop_at(trainer, num_ended - num_bad)
            self._forget_before(num_ended)
        if self._keeps_batches and len(self._records) > _MOST_KEPT:
            self.settle(trainer)

    def _forget_before(self, num_ended: int) -> None:
        """Let go of steps that are known to be good, but for the newest."""
        while len(self._records) > 1 and self._records[1].num_ended <= num_ended:
            self._records.popleft()

    # --------------------------------------------------------------------- stopping

    def stop(self, trainer: Trainer, what: str) -> None:
        """Stop at the micro-batch that is being worked on.

        Raises:
            NonFiniteLossError: Always; in training, the trainer stands before the bad step.
        """
        if trainer.progress.phase == "train":
            record = self._records[-1] if self.is_watching else StepStart.of(trainer, {})
            if self._keeps_batches and not record.batches:
                record.batches.append(trainer._micro_batch)
            was_updated = trainer._accumulation.completes_update and bool(trainer._updated)
            whole = trainer.progress.micro_batch - record.position["micro_batch"]
            is_in_work = trainer._micro_batch is not None
            num_begun = trainer._accumulation.num_parts_begun if is_in_work else 0
            num_run = whole * record.num_parts + num_begun
            self._rewind(trainer, record, what, num_run, is_half_done=was_updated)
        self._raise(trainer, what)

    def _stop_at(self, trainer: Trainer, index: int) -> None:
        """Stop at a micro-batch by its number since the start of the run."""
        assert self.latch is not None
        record = [each for each in self._records if each.num_ended <= index][-1]
        sums = {"loss": self.latch.losses, "norm of the gradient": self.latch.norms}
        values = {name: value.item() for name, value in sums.items()}
        name = next(name for name, value in values.items() if not math.isfinite(value))
        what = f"the {name} became {values[name]}"
        trainer._feed.is_ahead = True
        has_several = len(trainer._optimizer_names) > 1  # which of them updated is not known
        num_run = index - record.num_ended + 1
        self._rewind(trainer, record, what, num_run, is_half_done=has_several)
        self._raise(trainer, what)

    def _rewind(
        self, trainer: Trainer, record: StepStart, what: str, num_run: int, *, is_half_done: bool
    ) -> None:
        trainer._abandon_update()
        record.restore(trainer)
        self._buffers.put_back()
        self.bad = BadStep(
            what,
            micro_batch=trainer.progress.micro_batch,
            size=record.size,
            num_parts=record.num_parts,
            num_run=num_run,
            is_half_done=is_half_done,
            batches=record.batches[:num_run] if self._keeps_batches else None,
        )
        self._records.clear()

    def _raise(self, trainer: Trainer, what: str) -> None:
        where = trainer.progress
        raise NonFiniteLossError(
            f"Stopping: {what} in {where.phase}, epoch {where.epoch}, after step {where.step}."
        )


@dataclass
class StepStart:
    """What a trainer was before a step, but for its weights and buffers."""

    position: dict[str, int]
    size: int
    num_parts: int
    losses: dict[str | None, dict[str, Any]]
    random: dict[str, Any]
    num_ended: int = 0
    """Micro-batches of the run before this step."""
    batches: list[Any] = field(default_factory=list)
    rates: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    """The groups of the optimizers, with what stood in them."""
    schedule: Any = None
    fresh: list[Any] = field(default_factory=list)
    """Optimizers that had made no state."""

    @classmethod
    def of(cls, trainer: Trainer, random: dict[str, Any]) -> StepStart:
        progress, accumulation = trainer.progress, trainer._accumulation
        position = {
            "step": progress.step,
            "epoch_step": progress.epoch_step,
            "micro_batch": progress.micro_batch,
            "samples": progress.samples,
        }
        losses: dict[str | None, dict[str, Any]] = {None: dict(vars(trainer._loss_tracker))}
        losses |= {name: dict(vars(each)) for name, each in trainer._named_losses.items()}
        return cls(position, accumulation.size, accumulation.num_parts, losses, random)

    def add_rates(self, trainer: Trainer, num_ended: int) -> None:
        """Keep also what skipped steps change on the host, until the flag is read."""
        self.num_ended = num_ended
        for optimizer in torch_optimizers_in(trainer.optimizer):
            for group in optimizer.param_groups:
                values = {name: value for name, value in group.items() if name != "params"}
                values |= {k: v.clone() for k, v in values.items() if isinstance(v, Tensor)}
                self.rates.append((group, values))
            if not optimizer.state:
                self.fresh.append(optimizer)
        self.schedule = states_of(trainer.scheduler)

    def restore(self, trainer: Trainer) -> None:
        """Bring the trainer back."""
        for name, value in self.position.items():
            setattr(trainer.progress, name, value)
        vars(trainer._loss_tracker).update(self.losses[None])
        for name in list(trainer._named_losses):
            if name in self.losses:
                vars(trainer._named_losses[name]).update(self.losses[name])
            else:
                del trainer._named_losses[name]
        if self.schedule is not None:
            load_states(trainer.scheduler, self.schedule)
        for group, values in self.rates:
            group.update(values)
        for optimizer in self.fresh:
            optimizer.state.clear()  # a fused SGD leaves memory as it found it in what it skips
        generators = generators_of(trainer)
        for name, state in self.random.items():
            generators[name][1](state)


def generators_of(trainer: Trainer) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """Return how to get and set the state of each global generator that a step may draw from."""
    known: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "torch": (torch.get_rng_state, torch.set_rng_state),
        "python": (random.getstate, random.setstate),
        "numpy": (np.random.get_state, np.random.set_state),
    }
    if trainer.device.type == "cuda":
        known["cuda"] = (
            partial(torch.cuda.get_rng_state, trainer.device),
            partial(torch.cuda.set_rng_state, device=trainer.device),
        )
    return known


def _are_equal(before: Any, now: Any) -> bool:
    if isinstance(before, Tensor):
        return torch.equal(before, now)
    return all(np.array_equal(a, b) for a, b in zip(before, now, strict=True))
