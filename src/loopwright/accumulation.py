"""Gradient accumulation that equals the one big batch, whatever the sizes of its parts."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

Count = int | torch.Tensor


@dataclass
class _Share:
    expected: Count
    """Items that the update will hold if its micro-batches are as large as the first."""
    seen: Count = 0


class Accumulation:
    """Knows where an update begins and ends, and what each of its micro-batches weighs.

    A micro-batch weighs its share of the items in the update. That total is known only at the
    end, so losses are weighed by what the first micro-batch promises, and the gradients are
    corrected by one factor when the promise was not kept (a ragged tail, counts of tokens). With
    n equal micro-batches a loss is divided by n, exactly as in a loop written by hand.

    Args:
        num_micro_batches: Micro-batches in an update.
        epoch_length: Micro-batches in the epoch, None when unknown; the last update takes what
            is left.
    """

    def __init__(self, num_micro_batches: int, epoch_length: int | None) -> None:
        self.size = self._full_size = num_micro_batches
        self.is_needed = num_micro_batches > 1
        """Whether an update takes more than one micro-batch."""
        self.completes_update = num_micro_batches == 1
        """Whether the micro-batch in work is the last of its update."""
        self._epoch_length = epoch_length
        self._position = 0
        self._part = 0
        self.num_parts = 1
        """Parts that a micro-batch is taken in."""
        self._shares: dict[str | None, _Share] = {}

    def begin(self, micro_batch: int) -> None:
        """Take up the micro-batch with this index in the epoch."""
        if not self.is_needed:
            return
        if self._position == 0:
            left = (
                self._full_size if self._epoch_length is None else self._epoch_length - micro_batch
            )
            self.size = min(self._full_size, left) if left > 0 else self._full_size
        is_last = self._position + 1 == self.size
        self.completes_update = is_last and self._part + 1 == self.num_parts

    def end(self) -> None:
        """Leave the micro-batch."""
        if self.completes_update:
            self._position = 0
        elif self._part + 1 == self.num_parts:
            self._position += 1

    def take_part(self, index: int, num_parts: int) -> None:
        """Take the next micro-batch for a part of one, by its index among so many."""
        self._part, self.num_parts = index, num_parts
        self.is_needed = self._full_size > 1 or num_parts > 1

    def restart(self) -> None:
        """Forget the micro-batches of this update."""
        self._position = self._part = 0
        self._shares.clear()

    @property
    def role(self) -> tuple[int, bool, bool] | None:
        """What a micro-batch does beside its batch: the size of its update, whether it is the first
        and whether it is the last; None in a shorter update at the end of an epoch, and where an
        earlier one had another size than its share.
        """
        if not self.is_needed:
            return 1, True, True
        if self.size != self._full_size:
            return None
        for share in self._shares.values():
            if isinstance(share.seen, torch.Tensor) or isinstance(share.expected, torch.Tensor):
                return None
            if share.seen * self.size != share.expected * self._position:
                return None
        return self.size, self._position == 0, self.completes_update

    @property
    def seen(self) -> dict[str | None, Count]:
        """The items that the update in work has seen, for each optimizer."""
        return {name: share.seen for name, share in self._shares.items()}

    def count(self, name: str | None, num_items: int) -> None:
        """Note a micro-batch that was weighed elsewhere, as its share says."""
        if self.completes_update:
            self._shares.pop(name, None)
            return
        share = self._shares.setdefault(name, _Share(expected=num_items * self.size))
        share.seen += num_items

    @property
    def num_waiting(self) -> int:
        """How many micro-batches wait for the rest of their update."""
        return self._position

    @property
    def is_open(self) -> bool:
        """Whether micro-batches, or parts of one, wait for the rest of their update."""
        return self._position > 0 or self._part > 0

    @property
    def num_parts_begun(self) -> int:
        """Parts that were begun of the micro-batch in work."""
        return self._part + 1

    def close(self) -> list[str | None]:
        """End an update for which no more data comes; return the optimizers that take part."""
        self._position = 0
        return list(self._shares)

    def weigh(self, loss: torch.Tensor, count: Count, name: str | None) -> torch.Tensor:
        """Return the loss to run backward from, given how many items it is a mean over."""
        if self.size * self.num_parts == 1:
            return loss
        share = self._shares.get(name)
        if isinstance(count, torch.Tensor):
            count = count.detach().to(_wide(count))
        elif count == 0:
            return loss * 0.0
        if share is None:
            expected = _at_least_one(count) * (self.size * self.num_parts)
            share = self._shares[name] = _Share(expected)
        share.seen = share.seen + count
        ratio = share.expected / count  # infinite for a tensor of no items, which weighs nothing
        return loss / (ratio.to(loss.dtype) if isinstance(ratio, torch.Tensor) else ratio)

    def correct(self, parameters: Iterable[torch.Tensor], name: str | None) -> None:
        """Scale the accumulated gradients to the items that were really seen, in place."""
        share = self._shares.pop(name, None)
        if share is None:
            return
        if isinstance(share.seen, int) and share.seen == share.expected:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, share.expected / _at_least_one(share.seen))


def _wide(count: torch.Tensor) -> torch.dtype:
    return torch.float32 if count.device.type == "mps" else torch.float64


def _at_least_one(count: Count) -> Count:
    return count.clamp(min=1) if isinstance(count, torch.Tensor) else count
