"""A trainer for classification, configured by names and numbers, whose epochs can be overridden."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from loopwright import checkpoint as saved
from loopwright.errors import CheckpointError
from loopwright.events import StopTrainingError
from loopwright.loaders import EpochLoader, length_of, make_loader
from loopwright.models import models
from loopwright.schedulers.function_scheduler import all_of, function_schedule
from loopwright.states import check_fits
from loopwright.trainers.accessors import Accessors
from loopwright.trainers.arrays import checkpoint_path
from loopwright.trainers.epoch_trainer import EpochTrainer
from loopwright.trainers.options import (
    make_loss,
    make_optimizer,
    name_of,
    read_options,
)
from loopwright.trainers.rebuilding import ModelClass, describe_model, rebuild_model
from loopwright.training_state import take_state

PARAMETERS = (
    "num_epochs",
    "learning_rate",
    "momentum",
    "weight_decay",
    "loss_function",
    "optim_function",
    "cur_epoch",
    "iter_per_epoch",
    "save_every",
    "print_every",
    "batch_size",
    "val_batch_size",
    "shuffle",
)
"""What `get_trainer_params` returns and checkpoints hold."""


class ClassificationTrainer(Accessors):
    """Trains a model to tell classes apart, and is the base of trainers with epochs of their own.

    Everything is done by the `Trainer` in the attribute `trainer`, so accumulation, precision,
    clipping, schedules and exact continuing are its own. Override `calculate_batch_loss` for
    another objective, `train_epoch` and `val_epoch` for other loops over the batches.

    A `train_epoch` that iterates `self.batches()` and calls `self.train_step(batch)` keeps all of
    that. One that runs a loop of its own, over `self.train_loader`, is plain code: checkpoints are
    then written at the ends of epochs, and the run says so.

    Args:
        model: A module, or the name of a registered one, made with `model_arguments`; None where a
            checkpoint brings it.
        options: See `ClassificationOptions`.

    Raises:
        TypeError: An option is unknown.
        ValueError: A value is out of its range, or no loss or optimizer has the name.
    """

    def __init__(self, model: nn.Module | str | None = None, **options: Any) -> None:
        given = read_options(options)
        super().__init__(**given)
        self._given = set(given)
        self.model_type = model if isinstance(model, str) else None
        self.model: Any = (
            models.get(model)(**self.model_arguments) if isinstance(model, str) else model
        )
        self.cur_epoch = 0
        self.start_epoch = 0
        self.best_acc = 0.0
        self.trainer: Any = None
        """The `Trainer` that runs; None without a model."""
        self.optimizer: Any = None
        self._resumes_from: Mapping[str, Any] | None = None
        self._last_saved = 0
        self._unread, self._epoch_starts = [], {}
        self._init_device()
        self._init_optimizer()
        self._init_dataloaders()
        self._init_history()
        self._init_trainer()
        self._settle_saving()

    def __repr__(self) -> str:
        return f"{type(self).__name__} ({self.num_epochs} epochs)"

    def __str__(self) -> str:
        lines = [f"  {name}: {value}" for name, value in self.get_trainer_params().items()]
        return "\n".join([f"{type(self).__name__}:", *lines])

    # ------------------------------------------------------------------------- set-up

    def _init_device(self) -> None:
        self.device = torch.device("cpu" if self.device_id < 0 else f"cuda:{self.device_id}")

    def _init_optimizer(self) -> None:
        self.optimizer = None if self.model is None else make_optimizer(self, self.model)
        self.criterion = make_loss(self)

    def _init_dataloaders(self) -> None:
        self.train_loader = self._loader(
            self.train_dataset, self.batch_size, shuffle=self.shuffle, drop_last=self.drop_last
        )
        self.val_loader = self._loader(self.val_dataset, self.val_batch_size)
        self.test_loader = self._loader(self.test_dataset, self.val_batch_size)

    def _loader(self, dataset: Any, batch_size: int, **order: bool) -> EpochLoader | None:
        if dataset is None:
            return None
        options = {"batch_size": batch_size, "num_workers": self.num_workers, **order}
        options["pin_memory"] = self.device.type == "cuda"
        return make_loader(dataset, options, given=self._given, collate_fn=None)

    def _init_history(self) -> None:
        num_train, num_val = (
            None if loader is None else length_of(loader) or 0
            for loader in (self.train_loader, self.val_loader)
        )
        self._make_room(num_train, num_val, self.num_epochs)

    def _init_trainer(self) -> None:
        """Put model and optimizer into a `Trainer`, which sends the model to the device."""
        if self.model is None:
            return
        self.trainer = EpochTrainer(
            self,
            self.optimizer,
            self.callbacks,
            device=self.device,
            precision=self.precision,
            step_mode=self.step_mode,
            seed=self.seed,
            run_dir=self.run_dir,
            checkpoint=self.checkpoint_policy,
        )
        self.model.to(self.device)

    def _settle_saving(self) -> None:
        if self.train_loader is not None and self.save_every < 0:
            self.save_every = max((length_of(self.train_loader) or 0) - 1, 0)
        if self.save_every > 0:
            self.save_best = True

    def print(self, *values: Any) -> None:
        """Print, unless `verbose` is False."""
        if self.verbose:
            print(*values)

    # ---------------------------------------------------------------------- training

    def train(self, resume: str | None = None) -> None:
        """Train from `cur_epoch` to `num_epochs`; nothing is left to do after that.

        Each epoch is a `train_epoch`, then a `val_epoch` where there is validation data, then a
        `test_epoch` where there is test data.

        Args:
            resume: "latest" goes on with the run in `run_dir`. What `load_checkpoint` brought is
                gone on from without it.

        Raises:
            ValueError: There is no model, or no data to train on; or the batch size was changed in
                the middle of an epoch.
        """
        for name in ("model", "train_dataset"):
            if getattr(self, name) is None:
                raise ValueError(
                    f"There is no {name} to train with. Give one to {type(self).__name__}, or "
                    f"use {'load_checkpoint' if name == 'model' else 'set_train_dataset'}."
                )
        state = self._state_to_go_on_from() if resume is None else None
        if state is not None:
            self.cur_epoch = state["current_epoch"] - 1
        if self.cur_epoch >= self.num_epochs:
            return
        self._check_batch_size(state)
        epochs_left = self.num_epochs - self.cur_epoch
        if state is None:
            self.trainer.run_history._set_epoch(self.cur_epoch + 1)
        self.trainer.goes_on_from, self._resumes_from = state, None
        self.trainer.train(
            self.train_dataset,
            epochs_left + (0 if state is None else state["progress"]["epochs_done"]),
            eval_dataset=self.val_dataset,
            per_device_batch_size=self.batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            gradient_clip_value=self.gradient_clip_value,
            gradient_clip_norm=self.gradient_clip_norm,
            create_scheduler_fn=self._create_schedulers(),
            reset_run_history=False,
            resume=resume if state is None else "memory",
            allow_changes=True,
        )

    def _check_batch_size(self, state: Mapping[str, Any] | None) -> None:
        """Refuse to go on at a batch's number where batches were of another size."""
        if state is None or state["progress"]["micro_batch"] == 0:
            return
        then = state["settings"]["per_device_batch_size"]
        if then != self.batch_size:
            raise ValueError(
                f"The checkpoint is from the middle of an epoch with batch_size={then}, and now it "
                f"is {self.batch_size}. Set it back, or go on from the end of an epoch."
            )

    def _state_to_go_on_from(self) -> Mapping[str, Any] | None:
        """Return the state of the run before, or of a checkpoint; None for a new run."""
        has_run = self.trainer.run_config is not None
        return self._state_now() if has_run or self._resumes_from is not None else None

    def _state_now(self) -> dict[str, Any]:
        if self._resumes_from is not None:  # loaded, and not gone on from yet
            now = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            return {**self._resumes_from, **now}
        if self.trainer.run_config is None:
            self.trainer._run_seed = self.trainer.seed
        return take_state(self.trainer)

    def _create_schedulers(self) -> Callable[[Optimizer], Any] | None:
        create = []
        for field, function in (("lr", self.lr_scheduler), ("momentum", self.mtm_scheduler)):
            if function is not None:
                create.append(function_schedule(function, field=field))
        return all_of(*create) if create else None

    def train_epoch(self) -> None:
        """Train on the batches that are left of an epoch."""
        for batch in self.batches():
            self.train_step(batch)

    def batches(self) -> Iterator[Any]:
        """Give the batches that are left of this epoch of training, on the device."""
        self._refuse_outside_a_run("batches")
        batches: Iterator[Any] = self.trainer.batches()
        return batches

    def train_step(self, batch: Any) -> torch.Tensor:
        """Train on one batch of `batches`, and return its loss, detached."""
        self._refuse_outside_a_run("train_step")
        loss: torch.Tensor = self.trainer.run_step(batch)
        return loss

    def calculate_batch_loss(self, batch: Any) -> dict[str, Any]:
        """Return the loss of a batch and what it was made from, in training and evaluation.

        Returns:
            `loss` (a scalar, the mean over samples), `model_outputs` and `batch_size`.
        """
        inputs, targets = batch[0], batch[1]
        outputs = self.model(inputs)
        loss = self.criterion(outputs, targets)
        return {"loss": loss, "model_outputs": outputs, "batch_size": len(targets)}

    def val_epoch(self) -> None:
        """Evaluate on the validation data: losses, accuracy, and their means."""
        if self.trainer is None or self.val_loader is None:
            raise ValueError("val_epoch needs a model and a val_dataset.")
        if self.trainer.progress.phase == "idle":
            self.trainer.evaluate_alone(self.val_loader)
        else:
            self.trainer.evaluate_epoch(self.val_loader)

    def test_epoch(self) -> None:
        """Evaluate on the test data; `test_accuracy` and `evaluation_loss` are recorded."""
        self.trainer.evaluate_epoch(self.test_loader, is_test=True)

    def count_correct(self, batch: Any, output: Mapping[str, Any]) -> torch.Tensor | None:
        """Return how many samples of a batch are right; None where classes are not whole numbers.

        Args:
            batch: Inputs and targets of shape [samples].
            output: What `calculate_batch_loss` returned, with scores [samples, classes].
        """
        return count_correct(batch, output)

    def predict(self, dataset: Any) -> Any:
        """Return the model's outputs for a dataset, in order and on the CPU."""
        return self.trainer.predict(dataset, per_device_batch_size=self.val_batch_size)

    def after_batch(self) -> None:
        """Save after a batch where `save_every` says so, and no update is half done."""
        if self.save_every <= 0:
            return
        is_due = self.loss_iter // self.save_every > self._last_saved // self.save_every
        if is_due and not self.trainer._accumulation.is_open:
            self._save_iteration(self.cur_epoch)

    def _save_iteration(self, epoch: int) -> None:
        name = f"{self.checkpoint_name}_epoch_{epoch}_iter_{self.loss_iter}"
        self._last_saved = self.loss_iter
        self.save_checkpoint(Path(self.checkpoint_dir, name))

    def end_epoch(self) -> None:
        """Test, save and stop, as the options say; runs after each epoch and its evaluation."""
        self.cur_epoch += 1
        if self.trainer.recorder.has_own_loop and self.save_every != 0:
            self._save_iteration(self.cur_epoch - 1)
        if self.test_loader is not None:
            self.test_epoch()
        accuracy = self.get_cur_acc()
        if accuracy > self.best_acc:
            self.best_acc = accuracy
            if self.save_best:
                self.save_checkpoint(Path(self.checkpoint_dir, f"best_{self.checkpoint_name}"))
        if self.save_hist:
            self.save_history(Path(self.checkpoint_dir, self.checkpoint_name))
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        measured = self.get_acc_history()
        if measured is None:
            return
        if self.stop_when_acc > 0 and measured[-1] >= self.stop_when_acc:
            raise StopTrainingError(
                f"Stopping: the accuracy {measured[-1]:.4f} reached stop_when_acc="
                f"{self.stop_when_acc}."
            )
        if self.early_stop is None or len(measured) <= self.early_stop["num_epochs"]:
            return
        gained = measured[-1] - measured[-1 - int(self.early_stop["num_epochs"])]
        if gained < self.early_stop["improv"]:
            raise StopTrainingError(
                f"Stopping: {self.early_stop['num_epochs']} epochs gained {gained:.4f} in "
                f"accuracy, less than {self.early_stop['improv']}."
            )

    def _refuse_outside_a_run(self, method: str) -> None:
        if self.trainer is None or self.trainer.progress.phase != "train":
            raise RuntimeError(f"{method} belongs to train_epoch, which train() calls.")

    @property
    def overrides_train_epoch(self) -> bool:
        """Whether the loop over the batches is a subclass's own."""
        return type(self).train_epoch is not ClassificationTrainer.train_epoch

    def _renew_loaders(self) -> None:
        self._read_losses()
        self._init_dataloaders()
        self._init_history()
        self._settle_saving()

    # -------------------------------------------------------------------- checkpoints

    def get_trainer_params(self) -> dict[str, Any]:
        """Return the parameters that a checkpoint holds, as plain values."""
        params = {name: getattr(self, name) for name in PARAMETERS}
        for name in ("loss_function", "optim_function"):
            params[name] = name_of(params[name])
        return params

    def set_trainer_params(self, params: Mapping[str, Any]) -> None:
        """Take over what `get_trainer_params` returned; device and loaders are made anew.

        A loss or an optimizer that is not torch's is not made from its name: the trainer keeps the
        one that it was given.

        Raises:
            ValueError: A parameter is missing or unknown.
        """
        if set(params) != set(PARAMETERS):
            raise ValueError(
                f"These are no trainer parameters: missing {sorted(set(PARAMETERS) - set(params))}"
                f", unknown {sorted(set(params) - set(PARAMETERS))}."
            )
        for name, value in params.items():
            if name not in _PARTS or name_of(getattr(self, name)) != value:
                setattr(self, name, value)
        self._init_device()
        self.criterion = make_loss(self)
        self._renew_loaders()

    def save_checkpoint(self, fname: str | os.PathLike[str]) -> Path:
        """Write all that a run needs to go on, and return the folder: a name in `.ckpt`.

        It holds `model` (the weights), `model_source` (what the model is made from), `optimizer`,
        `trainer_params`, the history, and the position and random states of the run. It appears
        whole or not at all.

        Raises:
            ValueError: There is no model.
            CheckpointError: An update is half done.
        """
        if self.trainer is None:
            raise ValueError("There is no model to save.")
        path = checkpoint_path(fname)
        about = describe_model(self.model, self.model_type, self._arguments_of_model())
        extra = {"model_source": about, "trainer_params": self.get_trainer_params()}
        saved.write_state(path, {**extra, **self._state_now()})
        self.print(f"Saved {path} (epoch {self.cur_epoch})")
        return path

    def _arguments_of_model(self) -> Mapping[str, Any]:
        get_arguments = getattr(self.model, "get_model_args", None)
        return dict(self.model_arguments if get_arguments is None else get_arguments())

    def load_checkpoint(
        self, fname: str | os.PathLike[str], model_class: ModelClass | None = None
    ) -> None:
        """Restore a checkpoint onto this trainer's device; `train` goes on from it.

        Args:
            fname: What `save_checkpoint` was given.
            model_class: What the model is made with. Without it a trainer that has a model keeps
                it and takes the weights, and one that has none makes a registered model by name.

        Raises:
            CheckpointError: It is missing, damaged, or does not fit; or its model cannot be made.
        """
        path = checkpoint_path(fname)
        state = _read_checkpoint(path)
        model = self._model_for(state, model_class, path)
        self.set_trainer_params(state["trainer_params"])
        self._take_model(model, state, path)
        self._init_optimizer()
        check_fits(self.optimizer, state["optimizer"], f"the optimizer of {path}")
        self._init_trainer()
        self.optimizer.load_state_dict(state["optimizer"])  # moves to where the parameters are
        self.trainer.recorder.load_state_dict(state["callbacks"]["Recorder"])
        self._last_saved = self.loss_iter
        self._resumes_from = state

    def load_model_checkpoint(
        self, fname: str | os.PathLike[str], model_class: ModelClass | None = None
    ) -> None:
        """Restore the model of a checkpoint alone, with an optimizer that begins anew.

        Args:
            fname: What `save_checkpoint` was given.
            model_class: As in `load_checkpoint`.

        Raises:
            CheckpointError: As in `load_checkpoint`.
        """
        path = checkpoint_path(fname)
        state = _read_checkpoint(path)
        self._take_model(self._model_for(state, model_class, path), state, path)
        self._init_optimizer()
        self._init_trainer()

    def _model_for(
        self, state: Mapping[str, Any], model_class: ModelClass | None, path: Path
    ) -> nn.Module:
        if self.model is not None and model_class is None:
            kept: nn.Module = self.model
            return kept
        return rebuild_model(state["model_source"], model_class, path)

    def _take_model(self, model: nn.Module, state: Mapping[str, Any], path: Path) -> None:
        check_fits(model, state["model"], f"the model of {path}")
        model.load_state_dict(state["model"])
        self.model = model
        self.model_type = self.model_type or state["model_source"]["name"]
        self.model_arguments = self.model_arguments or state["model_source"]["arguments"]


def count_correct(batch: Any, output: Mapping[str, Any]) -> torch.Tensor | None:
    """Return how many samples of a batch are right; None where classes are not whole numbers."""
    scores, targets = output["model_outputs"], batch[1]
    if targets.is_floating_point() or scores.ndim != targets.ndim + 1:
        return None
    correct: torch.Tensor = (scores.argmax(dim=1) == targets).sum()
    return correct


_PARTS = ("loss_function", "optim_function")


def _read_checkpoint(path: Path) -> dict[str, Any]:
    state = saved.read_state(path)
    if missing := {"model_source", "trainer_params"} - set(state):
        raise CheckpointError(
            f"{path} lacks {', '.join(sorted(missing))}: it is no checkpoint of a "
            "ClassificationTrainer."
        )
    return state
