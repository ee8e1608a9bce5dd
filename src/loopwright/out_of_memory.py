"""Running out of memory: what is told, and splitting micro-batches where that is asked for."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from loopwright.batches import num_samples_in
from loopwright.buffers import BufferCopies
from loopwright.device import tensors_in
from loopwright.errors import OutOfMemoryError
from loopwright.finite import StepStart, generators_of
from loopwright.train_arguments import torch_optimizers_in

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on the host or on a device."""
    if isinstance(error, OutOfMemoryError):
        return False  # told already
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # What the allocator of the CPU raises has no class of its own.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


@contextmanager
def explaining_out_of_memory(trainer: Trainer) -> Iterator[None]:
    """Tell what was in memory, and what to lower.

    Raises:
        OutOfMemoryError: The body ran out of memory. Its frames let go of what they held.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        explained = OutOfMemoryError(describe(trainer, error))
        traceback.clear_frames(error.__traceback__)
        raise explained from error


def describe(trainer: Trainer, error: BaseException, reason: str = "") -> str:
    """Return the message of an `OutOfMemoryError`.

    Args:
        trainer: Where it happened.
        error: What was raised.
        reason: Why micro-batches were not split, where that was asked for.
    """
    where = trainer.progress
    lines = [
        f"Out of memory on {trainer.device} in {where.phase}, epoch {where.epoch}, after step "
        f"{where.step}: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
    ]
    batch = trainer._micro_batch
    if batch is not None:
        shapes = ", ".join(f"{list(t.shape)} {_name(t.dtype)}" for t in tensors_in(batch))
        lines.append(f"Micro-batch: {num_samples_in(batch)} samples ({shapes}).")
    model = trainer.model if isinstance(trainer.model, nn.Module) else nn.Module()
    states = [optimizer.state for optimizer in torch_optimizers_in(trainer.optimizer)]
    parameters, state = _num_bytes(model.parameters()), _num_bytes(tensors_in(_plain(states)))
    lines.append(
        f"Precision: {trainer.precision}. Parameters: {_size(parameters)}, their gradients as "
        f"much; state of the optimizer: {_size(state)}."
    )
    if trainer.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(trainer.device)
        lines.append(f"Free on the device: {_size(free)} of {_size(total)}.")
    lines.append(reason or _advice(trainer))
    return "\n".join(lines)


def _advice(trainer: Trainer) -> str:
    if trainer.progress.phase != "train":
        return "Lower per_device_batch_size."
    advice = (
        "Lower per_device_batch_size and raise gradient_accumulation_steps by the same factor, "
        "which keeps the batch"
    )
    if trainer.on_out_of_memory != "split":
        advice += ", or let Trainer(on_out_of_memory='split') do it"
    if trainer.precision == "fp32" and trainer.device.type != "cpu":
        advice += "; precision='bf16' halves the activations"
    return f"{advice}."


class Splitter:
    """Runs micro-batches of a trainer in parts, in twice as many whenever memory is not enough.

    The parts weigh as in gradient accumulation, so that a step is that of the whole batch. The
    step that ran out of memory begins again from the same state and the same random states, and
    later steps keep the number of parts.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.num_parts = 1
        """Parts of a micro-batch, kept in checkpoints."""
        self._trainer = trainer
        self._generators = generators_of(trainer)
        self._buffers = BufferCopies([])
        self._epoch = 0
        self._start: StepStart | None = None
        self._batches: list[Any] = []
        self._has_updated = False

    def release(self) -> None:
        """Let go of the last step."""
        self._start, self._batches = None, []

    def run_train_step(self, batch: Any) -> None:
        """Run a micro-batch in parts.

        Raises:
            OutOfMemoryError: It cannot be split further.
        """
        if not self._trainer._accumulation.is_open:
            self._keep_start()
        self._batches.append(batch)
        error = self._attempt([batch])
        while error is not None:
            self._check(error)
            self._go_back()
            self.num_parts *= 2
            self._trainer.print(
                f"Out of memory in epoch {self._trainer.progress.epoch}, after step "
                f"{self._trainer.progress.step}: going on with micro-batches in "
                f"{self.num_parts} parts"
            )
            error = self._attempt(self._batches)

    def _keep_start(self) -> None:
        trainer = self._trainer
        if self._epoch != trainer.progress.epoch:  # modules may have come or been set otherwise
            self._epoch = trainer.progress.epoch
            modules = [each for each in vars(trainer).values() if isinstance(each, nn.Module)]
            self._buffers = BufferCopies(modules)
        else:
            self._buffers.save()
        states = {name: get() for name, (get, _) in self._generators.items()}
        self._start, self._batches = StepStart.of(trainer, states), []

    def _attempt(self, batches: list[Any]) -> BaseException | None:
        """Run micro-batches in parts, and return the error if memory was not enough."""
        trainer, accumulation = self._trainer, self._trainer._accumulation
        self._has_updated = False
        optimizers = torch_optimizers_in(trainer.optimizer)
        handles = [each.register_step_pre_hook(self._note_update) for each in optimizers]
        try:
            for batch in batches:
                parts = split_batch(batch, self.num_parts)
                for index, part in enumerate(parts):
                    accumulation.take_part(index, len(parts))
                    trainer._run_train_step(part)
                    trainer.progress.micro_batch -= index + 1 < len(parts)
                accumulation.take_part(0, 1)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
            return error.with_traceback(None)
        finally:
            for handle in handles:
                handle.remove()
        return None

    def _note_update(self, *_: Any) -> None:
        self._has_updated = True

    def _go_back(self) -> None:
        """Stand where the step began."""
        trainer = self._trainer
        assert self._start is not None
        trainer._drop_gradients()
        trainer._accumulation.restart()
        self._start.restore(trainer)
        self._buffers.put_back()
        states = [scaler.state_dict() for scaler in trainer._scalers.values()]
        trainer._scalers = trainer._create_scalers()  # they know of gradients that are gone
        for scaler, state in zip(trainer._scalers.values(), states, strict=True):
            scaler.load_state_dict(state)

    def _check(self, error: BaseException) -> None:
        if reason := self._obstacle():
            reason = f"The micro-batch was not split: {reason}."
            raise OutOfMemoryError(describe(self._trainer, error, reason)) from error

    def _obstacle(self) -> str | None:
        """Return why more parts would not do."""
        if self._has_updated:
            return "an optimizer had begun its update, which cannot be done twice"
        names = batch_norms_in_training(self._trainer.model)
        if names:
            return (
                f"batch norm in training ({', '.join(names[:3])}) takes its statistics over the "
                "whole of it. Use GroupNorm, or freeze its statistics with eval()"
            )
        size = max(map(num_samples_in, self._batches))
        if self.num_parts >= size:
            return f"its parts have one sample each (of {size})"
        try:
            for batch in self._batches:
                split_batch(batch, 2 * self.num_parts)
        except ValueError as error:
            return str(error)
        return None


def batch_norms_in_training(model: Any) -> list[str]:
    """Return the names of batch norms that use the statistics of their micro-batch."""
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    return [name or "the model" for name, m in modules if isinstance(m, _BatchNorm) and m.training]


def split_batch(batch: Any, num_parts: int) -> list[Any]:
    """Return a micro-batch in parts of as equal sizes as can be, each with one sample at least.

    Tensors of one row per sample are split, through lists, tuples and mappings; so is a list with
    one entry per sample.

    Raises:
        ValueError: It holds something else.
    """
    size = num_samples_in(batch)
    num_parts = min(num_parts, size)
    if num_parts <= 1:
        return [batch]
    bounds = [size * index // num_parts for index in range(num_parts + 1)]
    return [_rows(batch, size, slice(*pair)) for pair in zip(bounds, bounds[1:], strict=False)]


def _rows(data: Any, size: int, rows: slice) -> Any:
    if isinstance(data, Tensor) and data.ndim and len(data) == size:
        return data[rows]
    if isinstance(data, Mapping):
        taken = {key: _rows(value, size, rows) for key, value in data.items()}
        return taken if type(data) is dict else type(data)(taken)  # type: ignore[call-arg]
    if isinstance(data, (list, tuple)):
        if len(data) == size and not any(_has_rows(each, size) for each in data):
            return data[rows]
        taken_items = (_rows(each, size, rows) for each in data)
        return type(data)(*taken_items) if hasattr(data, "_fields") else type(data)(taken_items)
    if data is None:
        return None
    shown = f"a tensor of shape {list(data.shape)}" if isinstance(data, Tensor) else repr(data)[:50]
    raise ValueError(f"it holds {shown} beside its {size} samples, which has no part for each")


def _has_rows(data: Any, size: int) -> bool:
    return any(tensor.ndim and len(tensor) == size for tensor in tensors_in(data))


def _plain(states: Iterable[Mapping[Any, Any]]) -> list[Any]:
    return [list(state.values()) for state in states]


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
