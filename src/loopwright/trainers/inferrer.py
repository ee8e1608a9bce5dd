"""Using a trained model: on its device, in evaluation mode, without gradients."""

import os
from itertools import chain
from typing import Any, Self

import torch
from torch import nn

from loopwright.checkpoint import read_state
from loopwright.device import move_to_device
from loopwright.errors import CheckpointError
from loopwright.modes import preserved_modes
from loopwright.states import check_fits
from loopwright.trainers.arrays import checkpoint_path
from loopwright.trainers.rebuilding import ModelClass, rebuild_model


def floats_of(model: nn.Module) -> torch.dtype:
    """Return the type of a model's floating-point parameters, such as torch.float32."""
    types = (each.dtype for each in model.parameters() if each.is_floating_point())
    return next(types, torch.get_default_dtype())


class Inferrer:
    """Runs a model.

    Args:
        model: The model; None where `load_model` brings it.
        device_id: N for cuda:N, below 0 for the CPU.
    """

    def __init__(self, model: nn.Module | None = None, device_id: int = -1) -> None:
        self.device = torch.device("cpu" if device_id < 0 else f"cuda:{device_id}")
        self.model = model
        if model is not None:
            model.to(self.device)

    @classmethod
    def of(cls, model: nn.Module, **options: Any) -> Self:
        """Return an inferrer of a model that stays on the device where it is.

        Args:
            model: The model; one that holds no tensor is used on the CPU.
            options: Further ones of the constructor.
        """
        inferrer = cls(**options)
        inferrer.model = model
        held = chain(model.parameters(), model.buffers(), [torch.empty(0, device="cpu")])
        inferrer.device = next(held).device
        return inferrer

    def forward(self, inputs: Any) -> Any:
        """Return the model's outputs for a batch of inputs, on the device.

        Raises:
            ValueError: There is no model.
        """
        return self.call(self.get_model(), inputs)

    __call__ = forward

    def get_model(self) -> nn.Module:
        """Return the model.

        Raises:
            ValueError: There is none.
        """
        if self.model is None:
            raise ValueError(f"{type(self).__name__} has no model. Give one, or load_model.")
        return self.model

    def call(self, network: Any, *inputs: Any) -> Any:
        """Return what a network, or a method of one, gives in evaluation mode."""
        model = self.get_model()
        with preserved_modes(model), torch.no_grad():
            model.eval()
            return network(*move_to_device(inputs, self.device))

    def load_model(
        self,
        fname: str | os.PathLike[str],
        model_key: str = "model",
        model_class: ModelClass | None = None,
    ) -> None:
        """Take the model, or its weights, from a trainer's checkpoint.

        Args:
            fname: What `save_checkpoint` was given.
            model_key: The entry that holds the weights.
            model_class: What the model is made with where there is none here and it is not
                registered by a name.

        Raises:
            CheckpointError: It is missing or damaged, its weights are another model's, or the
                model cannot be made.
        """
        path = checkpoint_path(fname)
        state = read_state(path)
        if self.model is None:
            if "model_source" not in state:
                raise CheckpointError(f"{path} does not say what its model is. Give the model.")
            self.model = rebuild_model(state["model_source"], model_class, path)
        check_fits(self.model, state.get(model_key), f"entry {model_key!r} of {path}")
        self.model.load_state_dict(state[model_key])
        self.model.to(self.device)
