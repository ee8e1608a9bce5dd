"""A compiled graph as one launch: the calls that a CUDA device needs, recorded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from loopwright.execution.graphs import Draw

_WARM_UP = 3  # runs before the recording; libraries and kernels set themselves up in them


class GraphedCall:
    """Replays a call as a CUDA graph; the draws of a step are made inside it, new in each replay.

    The graph reads and writes fixed memory. Parameters, buffers and the state of optimizers are
    where they are; tensors that come anew with each call (a batch, gradients) are copied into
    inputs that the graph keeps. Outputs are copies, since the next replay overwrites its own.

    Args:
        call: The compiled step, without its draws.
        draws: Made before it, in order.
        cuda: What is used of `torch.cuda`; a test gives a recorder.
    """

    def __init__(
        self,
        call: Callable[..., Sequence[torch.Tensor]],
        draws: Sequence[Draw],
        cuda: Any = torch.cuda,
    ) -> None:
        self._call = call
        self._draws = draws
        self._cuda = cuda
        self._graph: Any = None
        self._fixed: list[torch.Tensor] = []
        self._inputs: list[torch.Tensor] = []
        self._outputs: Sequence[torch.Tensor] = ()

    def __call__(
        self, fixed: Sequence[torch.Tensor], fresh: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Run the step.

        Args:
            fixed: Tensors that stay where they are; another address makes another graph.
            fresh: Tensors that are copied in.
        """
        if self._graph is None or not all(map(_same_place, fixed, self._fixed)):
            self._record(fixed, fresh)
        for own, given in zip(self._inputs, fresh, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return [each.clone() for each in self._outputs]

    def _record(self, fixed: Sequence[torch.Tensor], fresh: Sequence[torch.Tensor]) -> None:
        """Record the step; what the runs before it change and draw is put back."""
        self._fixed = list(fixed)
        self._inputs = [each.clone() for each in fresh]
        values = [each.clone() for each in (*self._fixed, *self._inputs)]
        random = self._cuda.get_rng_state()
        side = self._cuda.Stream()
        side.wait_stream(self._cuda.current_stream())
        with self._cuda.stream(side):
            for _ in range(_WARM_UP):
                self._run()
        self._cuda.current_stream().wait_stream(side)
        for tensor, value in zip((*self._fixed, *self._inputs), values, strict=True):
            tensor.copy_(value)
        self._cuda.set_rng_state(random)
        self._graph = self._cuda.CUDAGraph()
        with self._cuda.graph(self._graph):
            self._outputs = self._run()

    def _run(self) -> Sequence[torch.Tensor]:
        draws = [draw.make() for draw in self._draws]
        return self._call(*self._fixed, *self._inputs, *draws)


def _same_place(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.data_ptr() == other.data_ptr()
