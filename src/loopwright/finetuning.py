"""Freezing and unfreezing parts of a model, for fine-tuning."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

# The base of all batch norms, lazy and synchronized ones included.
from torch.nn.modules.batchnorm import _BatchNorm


class Layer(NamedTuple):
    """Describes a module that holds no other module, or has parameters of its own."""

    layer_group_idx: tuple[int, int]
    """Index of its layer group, counted from the front (from 0) and from the end (to -1)."""

    module: nn.Module
    """The module."""

    is_frozen: bool
    """Whether a parameter of its own is frozen; without parameters, whether it is in eval mode."""


class LayerGroup(NamedTuple):
    """Describes a module that is an attribute of the model, with all that it contains."""

    layer_group_idx: tuple[int, int]
    """Its index, counted from the front (from 0) and from the end (to -1)."""

    module: nn.Module
    """The module."""

    is_frozen: bool
    """Whether at least one of its parameters is frozen."""


class ModelFreezer:
    """Freezes and unfreezes the layer groups of a model.

    A layer group is a child module of the model, in the order in which the model defines them; an
    index below 0 counts from the end. Parameters that the model holds directly, such as a class
    token, go with the first group. A new freezer unfreezes the whole model.

    Freezing sets `requires_grad` to False. An optimizer made before sees no gradient for what is
    frozen and leaves it alone. Frozen modules stay in training mode unless
    `set_modules_as_eval` is given; the Trainer puts the whole model back in training mode at the
    start of each epoch, so call `freeze` in `on_train_epoch_start` where that matters.

    Args:
        model: The model; changed in place.
        freeze_batch_norms: Whether `freeze` freezes batch norms too. They are left alone by
            default, in parameters and in mode, so that their statistics follow the new data.

    Raises:
        ValueError: The model has no child modules.
    """

    def __init__(self, model: nn.Module, freeze_batch_norms: bool = False) -> None:
        self.model = model
        self.freeze_bn = freeze_batch_norms
        if not self.num_groups:
            raise ValueError(
                f"{type(model).__name__} has no child modules, so it has no layer groups to "
                "freeze. Set requires_grad of its parameters directly."
            )
        model.requires_grad_(True)

    @property
    def num_groups(self) -> int:
        """How many layer groups the model has."""
        return len(self._groups)

    def get_layer_groups(self) -> list[LayerGroup]:
        """Return all layer groups, in order."""
        return [
            LayerGroup(self._both_indices(index), group, _any_frozen(group, recurse=True))
            for index, group in enumerate(self._groups.values())
        ]

    def get_layers(self) -> list[Layer]:
        """Return all layers of all groups, in order."""
        return [
            Layer(self._both_indices(index), module, _is_layer_frozen(module))
            for index in range(self.num_groups)
            for module in self._modules(index)
            if _is_layer(module)
        ]

    def get_trainable_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are not frozen, each once."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def freeze(
        self, from_index: int = 0, to_index: int = -2, set_modules_as_eval: bool = False
    ) -> None:
        """Freeze the layer groups from one index to another, both included.

        By default all but the last.

        Raises:
            ValueError: There is no layer group of that index.
        """
        mode = False if set_modules_as_eval else None
        self._switch(from_index, to_index, requires_grad=False, training=mode)

    def unfreeze(
        self, from_index: int = -1, to_index: int = 0, set_modules_as_training: bool = True
    ) -> dict[int, dict[str, list[nn.Parameter]]]:
        """Unfreeze the layer groups from one index to another, both included.

        By default all. Returns what was frozen until now, by index of the layer group, each value
        a parameter group that is ready for `optimizer.add_param_group`.

        Raises:
            ValueError: There is no layer group of that index.
        """
        mode = True if set_modules_as_training else None
        return self._switch(from_index, to_index, requires_grad=True, training=mode)

    def _switch(
        self, from_index: int, to_index: int, *, requires_grad: bool, training: bool | None
    ) -> dict[int, dict[str, list[nn.Parameter]]]:
        changed: dict[int, dict[str, list[nn.Parameter]]] = defaultdict(lambda: {"params": []})
        first, last = self._convert_idxs(from_index, to_index)
        for index in range(first, last + 1):
            for module in self._modules(index):
                if _module_is_batch_norm(module) and not self.freeze_bn:
                    continue
                if training is not None and module is not self.model:
                    # Not `train()`, which would reach into batch norms below.
                    module.training = training
                for parameter in module.parameters(recurse=False):
                    if parameter.requires_grad != requires_grad:
                        parameter.requires_grad = requires_grad
                        changed[index]["params"].append(parameter)
        return dict(changed)

    @property
    def _groups(self) -> dict[str, nn.Module]:
        # Read anew each time, since the head of a model may have been replaced.
        return dict(self.model.named_children())

    def _modules(self, index: int) -> Iterator[nn.Module]:
        """Yield the modules of a layer group; the first group begins with the model itself."""
        if index == 0:
            yield self.model
        yield from list(self._groups.values())[index].modules()

    def _both_indices(self, index: int) -> tuple[int, int]:
        return index, index - self.num_groups

    def _convert_idxs(self, from_idx: int, to_idx: int) -> tuple[int, int]:
        """Return both indices counted from the front, the smaller first."""
        for index in (from_idx, to_idx):
            if not -self.num_groups <= index < self.num_groups:
                raise ValueError(
                    f"There is no layer group {index}: {type(self.model).__name__} has "
                    f"{self.num_groups}, {-self.num_groups} to {self.num_groups - 1} "
                    f"({', '.join(self._groups)})."
                )
        first, last = sorted((from_idx % self.num_groups, to_idx % self.num_groups))
        return first, last


def _is_layer(module: nn.Module) -> bool:
    has_own = next(module.parameters(recurse=False), None) is not None
    return has_own or next(module.children(), None) is None


def _is_layer_frozen(module: nn.Module) -> bool:
    if next(module.parameters(recurse=False), None) is None:
        return not module.training
    return _any_frozen(module, recurse=False)


def _any_frozen(module: nn.Module, *, recurse: bool) -> bool:
    return any(not parameter.requires_grad for parameter in module.parameters(recurse=recurse))


def _module_is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm)
