"""Batches and outputs as flat lists of tensors, and back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

PLAIN = (bool, int, float, complex, str, bytes, type(None))


@dataclass(frozen=True)
class Place:
    """Stands for the tensor with this index in a flat list."""

    index: int


def flatten(tree: Any, tensors: list[torch.Tensor]) -> Any:
    """Move the tensors of lists, tuples and mappings to the end of a list; return what is left."""
    if isinstance(tree, torch.Tensor):
        tensors.append(tree)
        return Place(len(tensors) - 1)
    if isinstance(tree, Mapping):
        return _like(tree, {key: flatten(value, tensors) for key, value in tree.items()})
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(flatten(item, tensors) for item in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(flatten(item, tensors) for item in tree)
    return tree


def unflatten(form: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """Return a tree of the form that `flatten` returned, with these tensors."""
    if type(form) is Place:
        return tensors[form.index]
    if type(form) is dict:
        return {key: unflatten(value, tensors) for key, value in form.items()}
    if isinstance(form, Mapping):
        return _like(form, {key: unflatten(value, tensors) for key, value in form.items()})
    if isinstance(form, tuple) and hasattr(form, "_fields"):
        return type(form)(*(unflatten(item, tensors) for item in form))
    if isinstance(form, (list, tuple)):
        return type(form)(unflatten(item, tensors) for item in form)
    return form


def _like(tree: Mapping[Any, Any], entries: dict[Any, Any]) -> Any:
    if type(tree) is dict:
        return entries
    other: Any = copy.copy(tree)
    for key, value in entries.items():
        other[key] = value
    return other


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """Return the tensors of a tree in order."""
    if type(tree) in (list, tuple) and all(type(item) is torch.Tensor for item in tree):
        return list(tree)
    found: list[torch.Tensor] = []
    flatten(tree, found)
    return found


def others_in(tree: Any) -> Iterator[Any]:
    """Give what is neither a tensor nor a list, tuple or mapping."""
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        for item in tree:
            yield from others_in(item)
    elif not isinstance(tree, torch.Tensor):
        yield tree


def signature_of(tree: Any) -> Any:
    """Return a hashable value that two batches share if one program fits both.

    Shapes, dtypes, strides and devices of tensors, and plain values as they are. Whatever else is
    in a batch is like nothing.
    """
    if isinstance(tree, torch.Tensor):
        return (tree.shape, tree.dtype, tree.stride(), tree.device)
    if isinstance(tree, Mapping):
        return tuple((key, signature_of(value)) for key, value in tree.items())
    if isinstance(tree, (list, tuple)):
        return tuple([signature_of(item) for item in tree])
    return (type(tree), tree) if isinstance(tree, PLAIN) else object()
