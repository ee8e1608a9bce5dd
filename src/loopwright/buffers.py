"""The buffers of modules as they were before a step: which ones steps change, kept and put back."""

from collections.abc import Iterable
from itertools import compress
from operator import is_not

import torch
from torch import Tensor, nn

from loopwright.device import Sent

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class BufferCopies:
    """Keeps copies of the buffers that steps change, such as the statistics of batch norm.

    Which ones those are is seen in their values: before the first step all are copied, and those
    that it left alone are let go as soon as the device has told, which nothing waits for.

    Args:
        modules: What is trained.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        slots = {
            id(buffer): (each._buffers, name)
            for module in modules
            for each in module.modules()
            for name, buffer in each._buffers.items()
            if buffer is not None and buffer.layout is torch.strided and not buffer.is_quantized
        }
        self._slots = list(slots.values())
        self._take()
        self._changed: Sent | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def _now(self) -> list[Tensor]:
        return [owner[name] for owner, name in self._slots]  # type: ignore[misc]

    def _take(self) -> None:
        """Copy anew what the slots hold."""
        self._slots = [(owner, name) for owner, name in self._slots if owner[name] is not None]
        self._live = self._now()
        self._saved = [buffer.detach().clone() for buffer in self._live]
        self._integers: list[tuple[list[Tensor], list[Tensor]]] | None = None

    @torch.no_grad()
    def save(self) -> None:
        """Copy the buffers as they are now."""
        if self._changed is not None:
            self.let_go()
        if any(map(is_not, self._now(), self._live)):  # a module put another tensor there
            self._take()
        elif self._live:
            torch._foreach_copy_(self._saved, self._live)

    @torch.no_grad()
    def compare(self) -> None:
        """Find out which buffers differ from their copies, to keep only those from then on."""
        now = self._now()
        if now:
            pairs = zip(now, self._saved, strict=True)
            self._changed = Sent(torch.stack([_differ(*pair) for pair in pairs]))

    def let_go(self) -> None:
        """Forget the buffers that did not differ, once that is known."""
        if self._changed is None or not self._changed.has_arrived:
            return
        changed, self._changed = self._changed.value.tolist(), None
        self._slots = list(compress(self._slots, changed))
        self._live = list(compress(self._live, changed))
        self._saved = list(compress(self._saved, changed))
        self._integers = None

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the buffers the values of their copies."""
        for (owner, name), buffer, saved in zip(self._slots, self._live, self._saved, strict=True):
            owner[name] = buffer.copy_(saved)

    @torch.no_grad()
    def put_back_where(self, flag: Tensor) -> None:
        """Give the buffers the values of their copies if a flag on the device is set.

        The bits are combined as integers, saved + keep * (now - saved), so that no NaN stays; one
        launch serves many buffers.

        Args:
            flag: A scalar of 0 or 1.
        """
        now = self._now()
        if any(map(is_not, now, self._live)):  # a module put another tensor there
            for (owner, name), each, saved in zip(self._slots, now, self._saved, strict=True):
                owner[name] = torch.where(flag.bool(), saved, each)
            return
        if self._integers is None:
            self._integers = _as_integers(self._live, self._saved, flag.device)
        for bits, saved_bits in self._integers:
            difference = torch._foreach_sub(bits, saved_bits)
            torch._foreach_mul_(difference, flag.logical_not().to(bits[0].dtype))
            torch._foreach_copy_(bits, saved_bits)
            torch._foreach_add_(bits, difference)


def _differ(now: Tensor | None, saved: Tensor) -> Tensor:
    if now is None or now.shape != saved.shape:
        return torch.ones((), dtype=torch.bool, device=saved.device)
    return (now != saved).any()


def _as_integers(
    live: list[Tensor], saved: list[Tensor], device: torch.device
) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Return both lists as integers of the same bits, grouped by their size."""
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for pair in zip(live, saved, strict=True):
        if pair[0].device != device:
            continue
        views = [torch.view_as_real(each) if each.is_complex() else each for each in pair]
        integer = _INTEGERS[views[0].element_size()]
        group = groups.setdefault(integer, ([], []))
        for side, view in zip(group, views, strict=True):
            side.append(view.view(integer))
    return list(groups.values())
