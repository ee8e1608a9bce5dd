"""What a trainer answers and lets be set between two calls of `train`."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from loopwright.schedulers.function_scheduler import Function, momentum_field
from loopwright.trainers.arrays import HistoryArrays
from loopwright.trainers.options import ClassificationOptions, check_schedule


class Accessors(ClassificationOptions, HistoryArrays, ABC):
    """Has the getters and setters of a trainer."""

    model: Any
    optimizer: Any

    @abstractmethod
    def _renew_loaders(self) -> None:
        """Make the loaders anew, and room in the history for their batches."""

    @abstractmethod
    def _init_history(self) -> None:
        """Make room in the history for the run that is planned."""

    def set_num_epochs(self, num_epochs: int) -> None:
        """Set how many epochs there are in all; more make room in the history."""
        is_longer = num_epochs > self.num_epochs
        self.num_epochs = num_epochs
        if is_longer:
            self._read_losses()
            self._init_history()

    def get_num_epochs(self) -> int:
        """Return how many epochs there are in all."""
        return self.num_epochs

    def get_cur_epoch(self) -> int:
        """Return how many epochs are done."""
        return self.cur_epoch

    def get_model(self) -> Any:
        """Return the model."""
        return self.model

    def get_model_params(self) -> dict[str, torch.Tensor] | None:
        """Return the weights by name; None without a model."""
        return None if self.model is None else self.model.state_dict()

    def get_learning_rate(self) -> float:
        """Return the learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def set_learning_rate(self, lr: float, param_zero: bool = True) -> None:
        """Set the learning rate of the first parameter group, or of all with `param_zero=False`."""
        groups = self.optimizer.param_groups
        for group in groups[:1] if param_zero else groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def get_momentum(self) -> float | None:
        """Return the momentum (of the Adam kind, the first beta); None without one."""
        try:
            value = self.optimizer.param_groups[0][momentum_field(self.optimizer)]
        except ValueError:
            return None
        return float(value[0] if isinstance(value, tuple) else value)

    def set_momentum(self, momentum: float) -> None:
        """Set the momentum of all parameter groups.

        Raises:
            ValueError: The optimizer has none.
        """
        field = momentum_field(self.optimizer)
        for group in self.optimizer.param_groups:
            group[field] = (momentum, *group[field][1:]) if field == "betas" else momentum

    def set_batch_size(self, batch_size: int) -> None:
        """Set the samples in a batch of training, and make the loaders anew."""
        self.batch_size = batch_size
        self._renew_loaders()

    def set_train_dataset(self, train_dataset: Any) -> None:
        """Set the training data, and make the loaders anew."""
        self.train_dataset = train_dataset
        self._renew_loaders()

    def set_val_dataset(self, val_dataset: Any) -> None:
        """Set the validation data, and make the loaders anew."""
        self.val_dataset = val_dataset
        self._renew_loaders()

    def set_test_dataset(self, test_dataset: Any) -> None:
        """Set the test data, and make the loaders anew."""
        self.test_dataset = test_dataset
        self._renew_loaders()

    def set_lr_scheduler(self, lr_scheduler: Function | None) -> None:
        """Set the schedule of the learning rate, for the next call of `train`."""
        check_schedule("lr_scheduler", lr_scheduler)
        self.lr_scheduler = lr_scheduler

    def get_lr_scheduler(self) -> Function | None:
        """Return the schedule of the learning rate."""
        return self.lr_scheduler

    def set_mtm_scheduler(self, mtm_scheduler: Function | None) -> None:
        """Set the schedule of the momentum, for the next call of `train`."""
        check_schedule("mtm_scheduler", mtm_scheduler)
        self.mtm_scheduler = mtm_scheduler

    def get_mtm_scheduler(self) -> Function | None:
        """Return the schedule of the momentum."""
        return self.mtm_scheduler

    def set_tb_writer(self, writer: Any) -> None:
        """Set what gets the scalars, such as a tensorboard `SummaryWriter`."""
        self.tb_writer = writer

    def freeze_to(self, layer_num: int) -> None:
        """Let the parameters from the first to number `layer_num`, from 0, keep their values."""
        set_trainable(self.model, layer_num, False)

    def unfreeze_to(self, layer_num: int) -> None:
        """Let the parameters from the first to number `layer_num`, from 0, be trained."""
        set_trainable(self.model, layer_num, True)


def set_trainable(model: nn.Module, last: int, trainable: bool) -> None:
    """Set `requires_grad` of the parameters of a model from the first to number `last`."""
    for parameter in list(model.parameters())[: last + 1]:
        parameter.requires_grad_(trainable)
        if not trainable:
            parameter.grad = None
