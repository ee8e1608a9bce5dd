"""Several losses with optimizers of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any


class MultiLoss(MutableMapping[str, Any]):
    """Is a dict of losses, each of which its own optimizer follows.

    Only the parameters of its optimizer get gradients from a loss.

    Args:
        loss_dict: The losses by name.
        loss_optimizer_map: The index of each loss's optimizer in the `MultiOptimizer`; by default
            the first loss has the first optimizer, and so on.
        retain_graph_until_last: Keep the graph for the losses that follow.

    Raises:
        ValueError: `loss_optimizer_map` does not name each loss, or an optimizer twice.
    """

    def __init__(
        self,
        loss_dict: dict[str, Any],
        loss_optimizer_map: dict[str, int] | None = None,
        retain_graph_until_last: bool = True,
    ) -> None:
        if loss_optimizer_map is None:
            loss_optimizer_map = {name: index for index, name in enumerate(loss_dict)}
        self.loss_dict = loss_dict
        self.loss_optimizer_map = loss_optimizer_map
        self.retain_graph_until_last = retain_graph_until_last
        self.optimizer_loss_map = {int(i): name for name, i in loss_optimizer_map.items()}
        if len(loss_optimizer_map) != len(loss_dict) or set(
            self.optimizer_loss_map.values()
        ) != set(loss_dict):
            raise ValueError(
                f"loss_optimizer_map is {loss_optimizer_map}; expected the index of one optimizer "
                f"for each of the losses {', '.join(loss_dict)}."
            )

    def item(self) -> MultiLoss:
        """Return the losses as numbers."""
        return self._each(lambda loss: loss.item())

    def detach(self) -> MultiLoss:
        """Return the losses without their graphs."""
        return self._each(lambda loss: loss.detach())

    def numpy(self) -> MultiLoss:
        """Return the losses as arrays."""
        return self._each(lambda loss: loss.numpy())

    def to(self, *args: Any, **kwargs: Any) -> MultiLoss:
        """Return the losses on another device, or of another type."""
        return self._each(lambda loss: loss.to(*args, **kwargs))

    def cpu(self) -> MultiLoss:
        """Return the losses on the CPU."""
        return self.to("cpu")

    def get_loss_dict(self) -> dict[str, Any]:
        """Return the losses as a plain dict."""
        return self.loss_dict

    @property
    def device(self) -> dict[str, Any]:
        """The device of each loss."""
        return {name: loss.device for name, loss in self.loss_dict.items()}

    def __copy__(self) -> MultiLoss:
        return self._each(lambda loss: loss)

    def __truediv__(self, divisor: Any) -> MultiLoss:
        return self._each(lambda loss: loss / divisor)

    def _each(self, function: Callable[[Any], Any]) -> MultiLoss:
        changed = {name: function(loss) for name, loss in self.loss_dict.items()}
        return MultiLoss(changed, self.loss_optimizer_map, self.retain_graph_until_last)

    def __getitem__(self, name: str) -> Any:
        return self.loss_dict[name]

    def __setitem__(self, name: str, loss: Any) -> None:
        self.loss_dict[name] = loss

    def __delitem__(self, name: str) -> None:
        del self.loss_dict[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.loss_dict)

    def __len__(self) -> int:
        return len(self.loss_dict)

    def __repr__(self) -> str:
        return f"MultiLoss({self.loss_dict})"


class MultiOptimizer:
    """Is a list of optimizers, one for each loss of a `MultiLoss`.

    Override `step` for one that does not step in every update.
    """

    def __init__(self, optimizer_list: list[Any]) -> None:
        self.optimizer_list = optimizer_list

    def step(self, optimizer_idx: int, iteration: int, amp_grad_scaler: Any) -> None:
        """Step an optimizer; the loop calls it.

        Args:
            optimizer_idx: Which.
            iteration: The batch of the epoch, from 0.
            amp_grad_scaler: The gradient scaler, disabled without mixed precision.
        """
        amp_grad_scaler.step(self.optimizer_list[optimizer_idx])

    def zero_grad(self, optimizer_idx: int, iteration: int) -> None:
        """Drop the gradients of an optimizer; the loop calls it."""
        self.optimizer_list[optimizer_idx].zero_grad()

    def state_dict(self) -> list[Any]:
        """Return the states of the optimizers, in order."""
        return [optimizer.state_dict() for optimizer in self.optimizer_list]

    def load_state_dict(self, state_dict_list: list[Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            TypeError: It is no list.
            ValueError: It is of another number of optimizers.
        """
        if not isinstance(state_dict_list, list):
            raise TypeError(
                f"The state of a MultiOptimizer is a {type(state_dict_list).__name__}; expected a "
                "list with the state of each optimizer."
            )
        if len(state_dict_list) != len(self.optimizer_list):
            raise ValueError(
                f"The state is of {len(state_dict_list)} optimizers, and here are "
                f"{len(self.optimizer_list)}. Give as many optimizers as were saved."
            )
        for optimizer, state in zip(self.optimizer_list, state_dict_list, strict=True):
            optimizer.load_state_dict(state)

    def __len__(self) -> int:
        return len(self.optimizer_list)

    def __getitem__(self, index: int) -> Any:
        return self.optimizer_list[index]


def by_index(optimizer: Any) -> Any:
    """Return the optimizers of a `MultiOptimizer` by index, as a Trainer takes several."""
    if not isinstance(optimizer, MultiOptimizer):
        return optimizer
    return {str(index): each for index, each in enumerate(optimizer.optimizer_list)}
