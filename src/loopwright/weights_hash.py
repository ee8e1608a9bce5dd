"""A short hash of weights, by which two people can tell whether their runs ended alike."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

_LENGTH = 16


def fingerprint(weights: torch.nn.Module | Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that depend on every bit of the weights.

    They are the beginning of a SHA-256 over name, dtype, shape and bytes of each parameter and
    buffer that is saved with the model, in the order of their names. Neither the device, nor the
    layout in memory, nor a wrapper of `torch.compile` changes them; entries that are no tensors,
    such as the extra state of a module, are left out.

    Args:
        weights: A module, or what its `state_dict` returned.
    """
    if isinstance(weights, torch.nn.Module):
        weights = getattr(weights, "_orig_mod", weights).state_dict()
    hashed = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        if isinstance(tensor, torch.Tensor):
            hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            hashed.update(_bytes_of(tensor))
    return hashed.hexdigest()[:_LENGTH]


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data
