"""A wrapper that gives any network the methods and names of lernomatic's models."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from loopwright.checkpoint import read_state
from loopwright.states import check_fits
from loopwright.trainers.accessors import set_trainable
from loopwright.trainers.arrays import checkpoint_path


class ModelWrapper(nn.Module):
    """Holds a network, and can be trained in its place.

    Subclass it to make the network in the constructor, and `get_model_args` to have a checkpoint
    keep what it was made with.

    Args:
        net: The network; None where it comes later.
    """

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net: nn.Module | None = net

    @property
    def import_path(self) -> str:
        """The module that defines the wrapper's class."""
        return type(self).__module__

    @property
    def model_name(self) -> str:
        """The name of the wrapper's class."""
        return type(self).__name__

    @property
    def module_import_path(self) -> str:
        """The module that defines the network's class."""
        return type(self.get_net()).__module__

    @property
    def module_name(self) -> str:
        """The name of the network's class."""
        return type(self.get_net()).__name__

    def get_net(self) -> nn.Module:
        """Return the network.

        Raises:
            ValueError: There is none.
        """
        if self.net is None:
            raise ValueError(f"{type(self).__name__} has no network. Set net.")
        return self.net

    def forward(self, inputs: Any) -> Any:
        """Return the network's outputs."""
        return self.get_net()(inputs)

    def get_model_args(self) -> dict[str, Any]:
        """Return what the wrapper is made with, as plain values."""
        return {}

    def get_model_parameters(self) -> Iterator[nn.Parameter]:
        """Return the network's parameters."""
        return self.get_net().parameters()

    def get_net_state_dict(self) -> dict[str, torch.Tensor]:
        """Return the network's weights by name."""
        return self.get_net().state_dict()

    def set_net_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Load weights into the network.

        Raises:
            CheckpointError: They are those of another network; nothing is loaded.
        """
        check_fits(self.get_net(), state_dict, "the state")
        self.get_net().load_state_dict(state_dict)

    def get_params(self) -> dict[str, Any]:
        """Return the weights, and the names of the classes that they belong to."""
        return {
            "model_state_dict": self.get_net_state_dict(),
            "model_name": self.model_name,
            "model_import_path": self.import_path,
            "module_name": self.module_name,
            "module_import_path": self.module_import_path,
        }

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Load the weights of `get_params` into the network that is here; no class is imported."""
        self.set_net_state_dict(params["model_state_dict"])

    def set_train(self) -> None:
        """Put the network in training mode."""
        self.get_net().train()

    def set_eval(self) -> None:
        """Put the network in evaluation mode."""
        self.get_net().eval()

    def send_to(self, device: str | torch.device) -> None:
        """Move the network to a device."""
        self.get_net().to(device)

    def freeze(self) -> None:
        """Let all parameters keep their values."""
        self.get_net().requires_grad_(False)

    freeze_all = freeze

    def unfreeze(self) -> None:
        """Let all parameters be trained."""
        self.get_net().requires_grad_(True)

    def freeze_to(self, layer_num: int) -> None:
        """Let the parameters from the first to number `layer_num`, from 0, keep their values."""
        set_trainable(self.get_net(), layer_num, False)

    def unfreeze_to(self, layer_num: int) -> None:
        """Let the parameters from the first to number `layer_num`, from 0, be trained."""
        set_trainable(self.get_net(), layer_num, True)

    def load_checkpoint(self, fname: str | os.PathLike[str], model_key: str = "model") -> None:
        """Load the weights of a trainer's checkpoint.

        Args:
            fname: What `save_checkpoint` was given.
            model_key: The entry that holds them.

        Raises:
            CheckpointError: It is missing or damaged, or its weights are another model's.
        """
        state = read_state(checkpoint_path(fname)).get(model_key)
        check_fits(self, state, f"entry {model_key!r} of {fname}")
        self.load_state_dict(state or {})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the network's gradients."""
        self.get_net().zero_grad(set_to_none)
