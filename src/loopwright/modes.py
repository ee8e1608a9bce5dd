"""The modes of modules, training or evaluation: left as they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def preserved_modes(model: Any) -> Iterator[None]:
    """Let the body set modes; afterwards each module has its own again.

    Args:
        model: One that is no module has no modes.
    """
    modes = [(m, m.training) for m in model.modules()] if isinstance(model, nn.Module) else []
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
