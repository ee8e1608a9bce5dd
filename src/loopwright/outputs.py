"""Outputs of a model, collected batch by batch into one structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch

from loopwright.device import move_to_device
from loopwright.loaders import EpochLoader, TensorLoader

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


def collect_outputs(trainer: Trainer, loader: EpochLoader) -> Any:
    """Return what a trainer predicts for the batches of a loader, joined."""
    collected = Collected(loader.num_samples if isinstance(loader, TensorLoader) else None)
    # Freed buffers are not kept: giving them back would cost each call more than it gains.
    with trainer._phase("predict", loader), closing(loader), torch.no_grad():
        trainer.model.eval()
        for batch in trainer._feed.batches(trainer, loader):
            collected.add(_predict(trainer, batch))
    return collected.result()


def stream_outputs(trainer: Trainer, loader: EpochLoader) -> Iterator[Any]:
    """Give what a trainer predicts for each batch of a loader."""
    with closing(loader):
        for batch in trainer._feed.batches(trainer, loader):
            # What happens between batches is the caller's.
            with trainer._phase("predict", loader), torch.no_grad():
                trainer.model.eval()
                output = _predict(trainer, batch)
            yield output


def _predict(trainer: Trainer, batch: Any) -> Any:
    output = trainer._stepping.predict(batch)
    if trainer.device.type == "cpu":
        return output
    return move_to_device(output, torch.device("cpu"))


class Collected:
    """Joins structures of tensors along the first dimension.

    Args:
        num_rows: Rows in all, when known: results are then written in place, so that the outputs
            are never held twice.
    """

    def __init__(self, num_rows: int | None = None) -> None:
        self._num_rows = num_rows
        self._columns: list[_Column] = []
        self._template: Any = None
        self._is_empty = True

    def add(self, output: Any) -> None:
        """Add the output of a batch.

        Raises:
            ValueError: It has another structure than the ones before.
        """
        if isinstance(output, torch.Tensor) and isinstance(self._template, _Leaf):
            self._columns[0].add(output)  # the usual case, many times
            return
        leaves: list[torch.Tensor] = []
        template = _flatten(output, leaves)
        if self._is_empty:
            self._template, self._is_empty = template, False
            self._columns = [_Column(self._num_rows) for _ in leaves]
        elif template != self._template:
            raise ValueError(
                f"The model returned {template} for one batch and {self._template} for those "
                "before, which cannot be joined. Use predict(..., stream=True)."
            )
        for column, leaf in zip(self._columns, leaves, strict=True):
            column.add(leaf)

    def result(self) -> Any:
        """Return the joined structure; None when nothing was added."""
        return None if self._is_empty else _unflatten(self._template, iter(self._columns))


class _Column:
    def __init__(self, num_rows: int | None) -> None:
        self._num_rows = num_rows
        self._whole: torch.Tensor | None = None
        self._filled = 0
        self._parts: list[torch.Tensor] = []

    def add(self, part: torch.Tensor) -> None:
        part = part.detach()
        if part.ndim == 0:
            part = part.reshape(1)
        if self._num_rows is None or self._parts:
            self._parts.append(part)
            return
        if self._whole is None:
            self._whole = part.new_empty((self._num_rows, *part.shape[1:]))
        if part.shape[1:] != self._whole.shape[1:]:
            raise _unjoinable(part.shape, self._whole.shape)
        end = self._filled + len(part)
        if end > self._num_rows or part.dtype != self._whole.dtype:
            self._parts = [self._whole[: self._filled], part]  # not one row for each sample
            self._whole = None
            return
        self._whole.narrow(0, self._filled, len(part)).copy_(part)
        self._filled = end

    def joined(self) -> torch.Tensor:
        if self._whole is not None:
            return self._whole[: self._filled]
        try:
            return torch.cat(self._parts)
        except RuntimeError:
            raise _unjoinable(*{part.shape for part in self._parts}) from None


def _unjoinable(*shapes: torch.Size) -> ValueError:
    listed = " and ".join(str(list(shape)) for shape in shapes[:3])
    return ValueError(
        f"Outputs with shapes {listed} cannot be joined along the first dimension. Use "
        "predict(..., stream=True), which gives the output of each batch as it is."
    )


class _Leaf:
    """Stands for a tensor in a template."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Leaf)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "a tensor"


def _flatten(value: Any, leaves: list[torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        leaves.append(value)
        return _Leaf()
    if isinstance(value, Mapping):
        return (type(value), {key: _flatten(item, leaves) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return (type(value), [_flatten(item, leaves) for item in value])
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"The model returned a {type(value).__name__}, and predict joins tensors in tuples, lists "
        "and mappings. Override calculate_prediction to return such, or use stream=True."
    )


def _unflatten(template: Any, columns: Any) -> Any:
    if isinstance(template, _Leaf):
        return next(columns).joined()
    if not isinstance(template, tuple):
        return template
    kind, content = template
    if isinstance(content, dict):
        items = {key: _unflatten(item, columns) for key, item in content.items()}
        return items if kind is dict else kind(items)
    parts = [_unflatten(item, columns) for item in content]
    return kind(*parts) if hasattr(kind, "_fields") else kind(parts)
