"""Optimizers by name, with one launch for all parameters where torch has that."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from loopwright.arguments import accepts
from loopwright.registry import Registry

optimizers: Registry[type[Optimizer]] = Registry("optimizer")

# SparseAdam takes sparse gradients only; LBFGS wants a closure, which the loop does not give.
for _name in (
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "Adamax",
    "AdamW",
    "ASGD",
    "Muon",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
):
    optimizers.add(_name.lower(), getattr(torch.optim, _name))

_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps"})
_EXCLUDE_FUSED = frozenset({"fused", "foreach", "differentiable"})


def build_optimizer(
    name: str, arguments: Mapping[str, Any], parameters: Iterable[Parameter]
) -> Optimizer:
    """Make an optimizer; a fused one unless the arguments choose otherwise or it cannot be.

    Raises:
        ValueError: an argument is out of its range.
    """
    kind = optimizers.get(name)
    parameters = list(parameters)
    chosen = dict(arguments)
    if kind in _FUSED and _can_fuse(parameters) and not _EXCLUDE_FUSED & chosen.keys():
        chosen["fused"] = True
    if "betas" in chosen and accepts(kind, "betas"):
        chosen["betas"] = tuple(chosen["betas"])
    return kind(parameters, **chosen)


def _can_fuse(parameters: list[Parameter]) -> bool:
    return all(p.device.type in _FUSED_DEVICES and p.is_floating_point() for p in parameters)
