"""The hooks of a `Trainer`: what a run calls by name, so that a subclass can change it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from loopwright.loaders import make_loader
from loopwright.placeholders import replace_trainer_placeholder_values
from loopwright.train_arguments import (
    changed,
    default_loader_options,
    loader_options,
    require_dataset,
)

__all__ = ["TrainerHooks"]


class TrainerHooks:
    """Is what a `Trainer` lets a subclass override, with what is done by default.

    `loopwright.loop_map` shows when a run calls what. Methods named `create_`, `get_` or
    `calculate_` return a value; the others change state.
    """

    model: Any
    loss_func: Callable[..., Any] | None
    optimizer: Any
    scheduler: Any
    device: torch.device
    train_dataset: Any
    eval_dataset: Any
    collate_fn: Callable[[list[Any]], Any] | None
    create_scheduler_fn: Any
    _train_dl_kwargs: dict[str, Any] | None
    _eval_dl_kwargs: dict[str, Any] | None
    _scalers: dict[str | None, torch.amp.GradScaler]
    _turn: str | None
    """The name of the optimizer that is updated just now; None for an only one."""
    _retain_graph: bool

    def create_train_dataloader(
        self, batch_size: int, train_dl_kwargs: dict[str, Any] | None = None
    ) -> Iterable[Any]:
        """Return the loader of training batches, made for `self.train_dataset`.

        Args:
            batch_size: Samples in a micro-batch, unless `train_dl_kwargs` says otherwise.
            train_dl_kwargs: Arguments of a `DataLoader` that replace the defaults, and
                `reproducible_draws` (see `loopwright.loaders.make_loader`).
        """
        defaults = self.get_default_train_dl_kwargs(batch_size)
        require_dataset("train_dataset", self.train_dataset, "create_train_dataloader")
        self._train_dl_kwargs, given = loader_options(defaults, train_dl_kwargs)
        given |= changed(defaults, TrainerHooks.get_default_train_dl_kwargs(self, batch_size))
        return make_loader(
            self.train_dataset, self._train_dl_kwargs, given=given, collate_fn=self.collate_fn
        )

    def get_default_train_dl_kwargs(self, batch_size: int) -> dict[str, Any]:
        """Return the default arguments of the training loader."""
        return default_loader_options(batch_size, self.device, shuffle=True)

    def create_eval_dataloader(
        self, batch_size: int, eval_dl_kwargs: dict[str, Any] | None = None
    ) -> Iterable[Any]:
        """Return the loader of evaluation batches, made for `self.eval_dataset`.

        Args:
            batch_size: Samples in a batch, unless `eval_dl_kwargs` says otherwise.
            eval_dl_kwargs: As in `create_train_dataloader`.
        """
        defaults = self.get_default_eval_dl_kwargs(batch_size)
        require_dataset("eval_dataset", self.eval_dataset, "create_eval_dataloader")
        self._eval_dl_kwargs, given = loader_options(defaults, eval_dl_kwargs)
        given |= changed(defaults, TrainerHooks.get_default_eval_dl_kwargs(self, batch_size))
        return make_loader(
            self.eval_dataset, self._eval_dl_kwargs, given=given, collate_fn=self.collate_fn
        )

    def get_default_eval_dl_kwargs(self, batch_size: int) -> dict[str, Any]:
        """Return the default arguments of the evaluation loader."""
        return default_loader_options(batch_size, self.device, shuffle=False)

    def create_scheduler(self) -> Any:
        """Return the scheduler that `create_scheduler_fn` makes for the optimizer, or None.

        With several optimizers it is a dict by their names; `create_scheduler_fn` is then a dict
        too, or one function for all.
        """
        if self.create_scheduler_fn is None:
            return None
        fill = partial(replace_trainer_placeholder_values, self)
        if not isinstance(self.optimizer, Mapping):
            return fill(self.create_scheduler_fn)(self.optimizer)
        functions = self.create_scheduler_fn
        if not isinstance(functions, Mapping):
            functions = dict.fromkeys(self.optimizer, functions)
        return {name: fill(fn)(self.optimizer[name]) for name, fn in functions.items()}

    def training_run_start(self) -> None:
        """Runs before the first epoch."""

    def train_epoch_start(self) -> None:
        """Put the model in training mode."""
        self.model.train()

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        """Return the loss of a micro-batch and what it was made from.

        The dict holds `loss` (a scalar, the mean over samples), `model_outputs` and
        `batch_size`; further entries reach `on_train_step_end`. Where the loss is a mean over
        something else, such as tokens, `num_items_in_batch` is its count (an int or a tensor)
        and takes the place of the batch size in every weight and mean.
        """
        inputs, targets = batch[0], batch[1]
        outputs = self.model(inputs)
        if self.loss_func is None:
            raise ValueError(
                "The trainer has no loss_func. Give it one, or override calculate_train_batch_loss "
                "and calculate_eval_batch_loss."
            )
        loss = self.loss_func(outputs, targets)
        return {"loss": loss, "model_outputs": outputs, "batch_size": targets.size(0)}

    def backward_step(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss that is weighed for accumulation already.

        With several optimizers, only parameters of the one being updated get gradients.
        """
        scaler = self._scalers.get(self._turn)
        if scaler is not None:
            loss = scaler.scale(loss)
        if self._turn is None:
            loss.backward(retain_graph=self._retain_graph)
        else:
            inputs = [p for p in self._parameters_in_turn() if p.requires_grad]
            torch.autograd.backward(loss, inputs=inputs, retain_graph=self._retain_graph)

    def optimizer_step(self) -> None:
        """Update the parameters; runs in the micro-batch that completes an update."""
        scaler = self._scalers.get(self._turn)
        if self._turn is None and scaler is None:
            self.optimizer.step()
        elif scaler is None:
            self._in_turn(self.optimizer).step()
        else:
            scaler.step(self._in_turn(self.optimizer))

    def scheduler_step(self) -> None:
        """Step the scheduler, if there is one; runs after each update."""
        if self.scheduler is None:
            return
        scheduler = self._in_turn(self.scheduler)
        if scheduler is not None:
            scheduler.step()

    def optimizer_zero_grad(self) -> None:
        """Drop the gradients; runs after each update."""
        optimizer = self.optimizer if self._turn is None else self._in_turn(self.optimizer)
        optimizer.zero_grad()

    def train_epoch_end(self) -> None:
        """Runs after the last update of an epoch, before its loss is recorded."""

    def eval_epoch_start(self) -> None:
        """Put the model in evaluation mode."""
        self.model.eval()

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        """Return what `calculate_train_batch_loss` returns; it is called without gradients."""
        return TrainerHooks.calculate_train_batch_loss(self, batch)

    def eval_epoch_end(self) -> None:
        """Runs after the last batch of an evaluation, before its loss is recorded."""

    def training_run_epoch_end(self) -> None:
        """Runs after an epoch of training and its evaluation."""

    def training_run_end(self) -> None:
        """Leave the model without wrappers in `self.model`."""
        self.model = self.get_model()

    def evaluation_run_start(self) -> None:
        """Runs before an evaluation that `evaluate` started."""

    def evaluation_run_end(self) -> None:
        """Leave the model without wrappers in `self.model`."""
        self.model = self.get_model()

    def calculate_prediction(self, batch: Any) -> Any:
        """Return the model's output for a batch of `predict`; targets in it are ignored."""
        return self.model(batch[0] if isinstance(batch, (list, tuple)) else batch)

    def get_model(self, keep_torch_compile: bool = True) -> Any:
        """Return the model without wrappers of distributed training.

        Args:
            keep_torch_compile: False also removes the wrapper of `torch.compile`.
        """
        if keep_torch_compile:
            return self.model
        return getattr(self.model, "_orig_mod", self.model)

    def _in_turn(self, owned: Any) -> Any:
        if self._turn is None or not isinstance(owned, Mapping):
            return owned
        return owned.get(self._turn)

    def _parameters_in_turn(self) -> Iterator[torch.Tensor]:
        for group in self._in_turn(self.optimizer).param_groups:
            yield from group["params"]
