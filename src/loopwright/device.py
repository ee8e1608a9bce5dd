"""The device of a run: choosing it, moving batches to it, and reading from it without a stall."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or the accelerator of this machine, or the CPU.

    Raises:
        ValueError: The device is not usable here.
    """
    if device is None:
        found = torch.accelerator.current_accelerator(check_available=True)
        return found if found is not None else torch.device("cpu")
    chosen = torch.device(device)
    if chosen.type != "cpu":
        found = torch.accelerator.current_accelerator(check_available=True)
        if found is None or found.type != chosen.type:
            here = f"{found} and cpu" if found else "cpu only"
            raise ValueError(f"The device {str(device)!r} is not available here ({here}).")
    return chosen


def move_to_device(data: Any, device: torch.device) -> Any:
    """Return `data` with every tensor on `device`, through lists, tuples and mappings.

    Objects with a `to` method are moved by it; anything else is passed on. Copies from pinned
    memory do not wait.
    """
    if isinstance(data, torch.Tensor):
        return data.to(device, non_blocking=True)
    if isinstance(data, Mapping):
        moved = {key: move_to_device(value, device) for key, value in data.items()}
        return moved if type(data) is dict else type(data)(moved)  # type: ignore[call-arg]
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(move_to_device(item, device) for item in data))
    if isinstance(data, (list, tuple)):
        return type(data)(move_to_device(item, device) for item in data)
    if hasattr(data, "to") and not isinstance(data, type):
        return data.to(device)
    return data


def pinned(data: Any) -> Any:
    """Return `data` with every CPU tensor in pinned memory, so that copies can overlap."""
    if isinstance(data, torch.Tensor):
        return data if data.is_pinned() or data.device.type != "cpu" else data.pin_memory()
    if type(data) is dict:
        return {key: pinned(value) for key, value in data.items()}
    if type(data) in (list, tuple):
        return type(data)(pinned(item) for item in data)
    return data


def copied_ahead(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Give batches on a CUDA device, each copied on a side stream while the one before is used."""
    side = torch.cuda.Stream(device)
    iterator = iter(batches)
    end = object()

    def copy_next() -> Any:
        batch = next(iterator, end)
        if batch is end:
            return end
        with torch.cuda.stream(side):
            return move_to_device(pinned(batch), device)

    upcoming = copy_next()
    while upcoming is not end:
        current = torch.cuda.current_stream(device)
        current.wait_stream(side)
        batch = upcoming
        for tensor in tensors_in(batch):
            tensor.record_stream(current)  # its memory must not return to the side stream early
        upcoming = copy_next()
        yield batch


def tensors_in(data: Any) -> Iterator[torch.Tensor]:
    """Give every tensor in `data`, through lists, tuples and mappings."""
    if isinstance(data, torch.Tensor):
        yield data
    elif isinstance(data, Mapping):
        for value in data.values():
            yield from tensors_in(value)
    elif isinstance(data, (list, tuple)):
        for item in data:
            yield from tensors_in(item)


class LaggedValue:
    """Reads a scalar of a device without waiting for it: each call returns the last arrival."""

    def __init__(self) -> None:
        self.value: float | None = None
        self._buffer: torch.Tensor | None = None
        self._arrival: Any = None

    def read(self, source: torch.Tensor) -> float | None:
        """Return the newest value that has arrived, and send for the present one.

        On devices without asynchronous copies to pinned memory (all but CUDA) it waits.
        """
        if source.device.type != "cuda":
            self.value = float(source)
            return self.value
        if self._arrival is not None and not self._arrival.query():
            return self.value
        if self._buffer is None:
            self._buffer = torch.empty((), dtype=source.dtype, pin_memory=True)
        elif self._arrival is not None:
            self.value = float(self._buffer)
        self._buffer.copy_(source, non_blocking=True)
        self._arrival = torch.cuda.Event()
        self._arrival.record()
        return self.value


class Sent:
    """Is a copy of a small tensor on its way to the host, which nothing waits for.

    On devices without asynchronous copies to pinned memory (all but CUDA) it waits when it is made.

    Args:
        source: The tensor.
    """

    def __init__(self, source: torch.Tensor) -> None:
        self._arrival: Any = None
        if source.device.type != "cuda":
            self.value = source.detach().to("cpu", copy=True)
            return
        self.value = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        self.value.copy_(source.detach(), non_blocking=True)
        self._arrival = torch.cuda.Event()
        self._arrival.record()

    @property
    def has_arrived(self) -> bool:
        """Whether `value` can be read."""
        return self._arrival is None or bool(self._arrival.query())


def fits_in_memory(num_bytes: int, device: torch.device, *, share: float) -> bool:
    """Whether data takes less than `share` of what is free on an accelerator."""
    if device.type != "cuda":
        return device.type == "mps"  # shares the memory of the host
    free, _ = torch.cuda.mem_get_info(device)
    return num_bytes < share * free


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms alone while the body runs.

    Operations that have none raise a RuntimeError. On CUDA some need the environment variable
    CUBLAS_WORKSPACE_CONFIG=:4096:8, which has to be set before the process starts.
    """
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns_only)
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads on the CPU while the body runs; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
