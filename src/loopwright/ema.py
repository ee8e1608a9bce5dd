"""An exponential moving average of the weights of a model."""

from collections.abc import Callable, Iterator
from copy import deepcopy

import torch


class ModelEma(torch.nn.Module):
    """Keeps a copy of a model whose floating point state is a moving average.

    With every `update`, average = decay * average + (1 - decay) * present, for parameters and
    buffers; integer buffers (counters) are copied.

    Args:
        model: The model to follow.
        decay: How much of the average stays, between 0 and 1.
    """

    def __init__(self, model: torch.nn.Module, decay: float = 0.9999) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}; expected a number from 0 to 1.")
        self.module = deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    def update_fn(self, averaged: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Return the new average of one tensor; override it for another rule."""
        return self.decay * averaged + (1.0 - self.decay) * present

    def update(self, model: torch.nn.Module) -> None:
        """Take the present state of the model into the average."""
        self._combine(model, self.update_fn)

    def set(self, model: torch.nn.Module) -> None:
        """Start again from the present state of the model."""
        self._combine(model, lambda averaged, present: present)

    @torch.no_grad()
    def _combine(
        self,
        model: torch.nn.Module,
        rule: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> None:
        present = dict(_state(model))
        for name, averaged in _state(self.module):
            source = present[name].to(averaged.device)
            has_mean = averaged.is_floating_point() or averaged.is_complex()
            averaged.copy_(rule(averaged, source) if has_mean else source)


def _state(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Give parameters and buffers, one that has several names only once."""
    yield from model.named_parameters()
    yield from model.named_buffers()
