"""Making a model anew from what a checkpoint says about it, without executing anything from it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from loopwright.errors import CheckpointError
from loopwright.models import models
from loopwright.registry import nearest_name

ModelClass = Callable[..., nn.Module]


def describe_model(model: nn.Module, name: str | None, arguments: Mapping[str, Any]) -> Any:
    """Return what a checkpoint says about a model beside its weights.

    Args:
        model: The model.
        name: Its name in the registry, or None.
        arguments: What it was made with.
    """
    kind = type(model)
    wrapped = getattr(model, "net", None)
    net = type(wrapped) if isinstance(wrapped, nn.Module) else kind
    return {
        "name": name,
        "arguments": dict(arguments),
        "model_name": kind.__name__,
        "model_import_path": kind.__module__,
        "module_name": net.__name__,
        "module_import_path": net.__module__,
    }


def rebuild_model(about: Mapping[str, Any], kind: ModelClass | None, path: Path) -> nn.Module:
    """Make the model of a checkpoint: from the class given, else by its registered name.

    Raises:
        CheckpointError: Its class is known by its path alone, which is never imported.
    """
    if kind is not None:
        return kind(**about["arguments"])
    name = about["name"]
    if isinstance(name, str) and name in models:
        return models.get(name)(**about["arguments"])
    where = f"{about['model_import_path']}:{about['model_name']}"
    if isinstance(name, str):
        nearest = nearest_name(name, models.names())
        hint = f"; the nearest registered name is {nearest!r}" if nearest else ""
        raise CheckpointError(f"{path} holds a model {name!r}, which is not registered{hint}.")
    raise CheckpointError(
        f"{path} holds a model of the class {where}, and a class is not imported because a file "
        "names it. Give it: load_checkpoint(fname, model_class=...)."
    )
