"""What a TrainLoop trains: models that know their loss, and plain ones with a feed definition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from loopwright.batches import num_samples_in


class TTModel(nn.Module, ABC):
    """Is a module that says how a batch becomes a loss, and how it becomes predictions."""

    def __init__(self) -> None:
        super().__init__()
        self.transfer_model_attributes: list[str] = []
        """Kept for models written elsewhere; a wrapped model gives all its attributes anyway."""

    @abstractmethod
    def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
        """Return the loss of a batch in training.

        Args:
            batch_data: What the loader gave.
            criterion: The loop's; None where the model computes its own loss.
            device: Where the model is.

        Returns:
            A scalar, the mean over the batch's samples, or a `MultiLoss`.
        """

    def get_loss_eval(self, batch_data: Any, criterion: Any, device: Any) -> Any:
        """Return the loss of a batch in evaluation: by default that of training."""
        return self.get_loss(batch_data, criterion, device)

    @abstractmethod
    def get_predictions(self, batch_data: Any, device: Any) -> tuple[Any, Any, Any]:
        """Return predictions, targets, and metadata: a dict of lists, tensors or arrays, or None.

        Args:
            batch_data: What the loader gave.
            device: Where the model is.
        """

    def get_batch_size(self, batch_data: Any) -> int:
        """Return how many samples a batch holds, which its loss is a mean over.

        By default the length of the first tensor; a batch without tensors counts as one.
        """
        return num_samples_in(batch_data) or 1


class TTBasicModel(TTModel):
    """Takes all items of a batch but the last as the inputs of `forward`, the last as targets."""

    def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
        *inputs, targets = (item.to(device) for item in batch_data)
        return criterion(self(*inputs), targets)

    def get_predictions(self, batch_data: Any, device: Any) -> tuple[Any, Any, Any]:
        *inputs, targets = batch_data
        return self(*(item.to(device) for item in inputs)), targets, {}


class TTBasicMultiGPUModel(TTBasicModel):
    """Computes the loss inside `forward`, so that each GPU computes its part.

    `forward(*inputs, targets=None, criterion=None)` returns the loss where there is a criterion,
    else the predictions.
    """

    def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
        *inputs, targets = (item.to(device) for item in batch_data)
        return self(*inputs, targets=targets, criterion=criterion)


class MultiGPUModelWrap(TTBasicMultiGPUModel):
    """Makes a `TTBasicMultiGPUModel` of a module whose `forward` returns predictions.

    Raises:
        TypeError: It is no module.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = _module(model)

    def forward(self, *input_data: Any, targets: Any = None, criterion: Any = None) -> Any:
        """Return the loss where there is a criterion, else the predictions."""
        predictions = self.model(*input_data)
        return predictions if criterion is None else criterion(predictions, targets)


class AbstractModelFeedDefinition(ABC):
    """Says for a plain module what a `TTModel` says for itself; the model comes first."""

    @abstractmethod
    def get_loss(self, model: nn.Module, batch_data: Any, criterion: Any, device: Any) -> Any:
        """Return the loss of a batch in training (see `TTModel.get_loss`)."""

    def get_loss_eval(self, model: nn.Module, batch_data: Any, criterion: Any, device: Any) -> Any:
        """Return the loss of a batch in evaluation: by default that of training."""
        return self.get_loss(model, batch_data, criterion, device)

    @abstractmethod
    def get_predictions(
        self, model: nn.Module, batch_data: Any, device: Any
    ) -> tuple[Any, Any, Any]:
        """Return predictions, targets and metadata (see `TTModel.get_predictions`)."""

    def get_batch_size(self, batch_data: Any) -> int:
        """Return how many samples a batch holds (see `TTModel.get_batch_size`)."""
        return num_samples_in(batch_data) or 1


class ModelWrap:
    """Joins a plain module with its feed definition, for a TrainLoop.

    Raises:
        TypeError: One of them is something else.
    """

    def __init__(self, model: nn.Module, batch_model_feed_def: AbstractModelFeedDefinition) -> None:
        if not isinstance(batch_model_feed_def, AbstractModelFeedDefinition):
            raise TypeError(
                f"batch_model_feed_def is a {type(batch_model_feed_def).__name__}; expected an "
                "AbstractModelFeedDefinition, which says how a batch becomes a loss."
            )
        self.model = _module(model)
        self.batch_model_feed_def = batch_model_feed_def


def _module(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"The model is a {type(model).__name__}; expected a torch.nn.Module.")
    return model
