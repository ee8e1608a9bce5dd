"""The Trainer inside of a trainer whose epochs can be overridden, and what it records."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from loopwright.callbacks.metrics import MetricsCallback
from loopwright.default_callbacks import MoveModulesToDeviceCallback, TerminateOnNaNCallback
from loopwright.events import TrainerCallback
from loopwright.loaders import EpochLoader
from loopwright.trainer import Trainer
from loopwright.training_state import put_state

if TYPE_CHECKING:
    from loopwright.trainers.classification import ClassificationTrainer


class EpochTrainer(Trainer):
    """Leaves the loops over batches to the methods of its owner.

    Args:
        owner: The trainer that the user made or subclassed.
        optimizer: Of the owner's model.
        callbacks: Those of the user.
        options: Further arguments of `Trainer`.
    """

    def __init__(
        self,
        owner: ClassificationTrainer,
        optimizer: torch.optim.Optimizer,
        callbacks: Iterable[Any],
        **options: Any,
    ) -> None:
        self.owner = owner
        self.recorder = Recorder(owner)
        self.goes_on_from: Mapping[str, Any] | None = None
        """The state that the next run goes on from."""
        self.num_steps_in_epoch = 0
        """Micro-batches that `train_step` got in this epoch."""
        always = [MoveModulesToDeviceCallback, TerminateOnNaNCallback]
        given = list(callbacks)
        first = [each for each in given if isinstance(each, MetricsCallback)]
        rest = [each for each in given if not isinstance(each, MetricsCallback)]
        super().__init__(
            owner.model,
            owner.criterion,
            optimizer,
            [*always, *first, self.recorder, *rest],
            **options,
        )

    @property
    def _step_users(self) -> tuple[Any, ...]:
        return (self, self.owner)

    def create_train_dataloader(
        self, batch_size: int, train_dl_kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the owner's loader."""
        self._train_dl_kwargs = {"batch_size": batch_size}
        return self.owner.train_loader

    def create_eval_dataloader(
        self, batch_size: int, eval_dl_kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the owner's loader of validation data."""
        self._eval_dl_kwargs = {"batch_size": self.owner.val_batch_size}
        return self.owner.val_loader

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        """Return what the owner calculates."""
        return self.owner.calculate_batch_loss(batch)

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        """Return what the owner calculates."""
        return self.owner.calculate_batch_loss(batch)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print, unless the owner is to be silent."""
        if self.owner.verbose:
            super().print(*args, **kwargs)

    def load_training_state(self, input_dir: str | os.PathLike[str]) -> dict[str, Any]:
        """Restore the state to go on from; one in memory goes before one in a folder."""
        if self.goes_on_from is None:
            return super().load_training_state(input_dir)
        state = dict(self.goes_on_from)
        put_state(self, state)
        return state

    def _run_train_batches(self, train_dl: Any) -> None:
        self.num_steps_in_epoch = 0
        if isinstance(train_dl, EpochLoader):  # for an epoch that goes over the loader itself
            train_dl.seed, train_dl.epoch, train_dl.start = self._run_seed, self._epoch_now, 0
        self.owner.train_epoch()
        self.recorder.end_epoch(self)

    @property
    def _epoch_now(self) -> int:
        return self.run_history.current_epoch

    def batches(self) -> Iterator[Any]:
        """Give the micro-batches that are left of this epoch.

        One that its user leaves out counts as done, so that a run goes on behind it.
        """
        for batch in self._feed.train_batches(self, self._train_dataloader):
            position = self.progress.micro_batch
            yield batch
            self.progress.micro_batch = position + 1

    def run_step(self, batch: Any) -> torch.Tensor:
        """Train on a micro-batch, save when that is due, and return its loss."""
        self.num_steps_in_epoch += 1
        run = self._run_train_step if self._splitter is None else self._splitter.run_train_step
        run(batch)
        self._keeper.save_if_due(self)
        self.owner.after_batch()
        return self.recorder.loss

    def _record_train_losses(self) -> None:
        if self.num_steps_in_epoch or not self.recorder.has_own_loop:
            super()._record_train_losses()
            return
        losses = self.owner.get_cur_epoch_loss()
        if losses is not None and len(losses):
            self.run_history.update_metric("train_loss_epoch", float(losses.mean()))

    def _run_eval_epoch(
        self, valid_dl: Any, is_training: bool = True, is_intermediate: bool = False
    ) -> None:
        if is_intermediate:
            super()._run_eval_epoch(valid_dl, is_training, is_intermediate)
            return
        with self._phase("eval"):  # an epoch of the user's own leaves modes and states alone, too
            self.owner.val_epoch()

    def evaluate_epoch(self, loader: Any, *, is_test: bool = False) -> None:
        """Evaluate on every batch of a loader, and record loss and accuracy."""
        self.recorder.is_test = is_test
        super()._run_eval_epoch(loader, is_training=not is_test)

    def evaluate_alone(self, loader: Any) -> None:
        """Evaluate outside of a run."""
        self._prepare_model_and_optimizer()
        self._run_seed = self.seed
        with self._running():
            self.evaluate_epoch(loader)

    def training_run_epoch_end(self) -> None:
        """Let the owner test, save and stop."""
        super().training_run_epoch_end()
        self.owner.end_epoch()


class Recorder(TrainerCallback):
    """Fills the owner's arrays, prints its lines, and writes to its tensorboard.

    Args:
        owner: Whose.
    """

    def __init__(self, owner: ClassificationTrainer) -> None:
        self.owner = owner
        self.is_test = False
        self.is_intermediate = False
        """Whether the evaluation that goes on interrupts an epoch; it leaves no history here."""
        self.has_own_loop = False
        """Whether the owner's last epoch of training did not use `train_step`."""
        self.loss = torch.zeros(())
        self._correct: Any = None
        self._num_samples = 0
        self._num_batches = 0
        self._written = 0

    def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
        if trainer.progress.micro_batch == 0:
            self.owner.begin_series("loss_history")

    def on_train_step_end(self, trainer: Any, batch_output: Any, step: int, **kwargs: Any) -> None:
        self.loss = batch_output["loss"].detach()
        self.owner.add_value("loss_history", self.loss)
        if step > 0 and step % self.owner.print_every == 0:
            self._tell(trainer, step)

    def _tell(self, trainer: Any, step: int) -> None:
        owner = self.owner
        loss = owner.get_cur_loss()
        owner.print(
            f"[TRAIN] epoch {owner.cur_epoch + 1}/{owner.num_epochs}, "
            f"batch {step}/{owner.iter_per_epoch}: loss {loss:.6f}"
        )
        self._write(trainer)

    def _write(self, trainer: Any) -> None:
        """Write to the tensorboard what came since the last time."""
        owner, writer = self.owner, self.owner.tb_writer
        losses = owner.get_loss_history()
        if writer is None or losses is None:
            return
        for iteration in range(self._written, len(losses)):
            writer.add_scalar("loss/train", losses[iteration], iteration + 1)
        self._written = len(losses)
        if owner.lr_scheduler is not None:
            writer.add_scalar("schedule/lr", owner.get_learning_rate(), len(losses))
        if owner.mtm_scheduler is not None:
            writer.add_scalar("schedule/momentum", owner.get_momentum(), len(losses))

    def end_epoch(self, trainer: EpochTrainer) -> None:
        """Note whether the epoch that ends was trained by `train_step`, and say so once."""
        no_batch_was_used = trainer.num_steps_in_epoch == 0 and trainer.progress.micro_batch == 0
        has_own_loop = no_batch_was_used and self.owner.overrides_train_epoch
        if has_own_loop and not self.has_own_loop:
            trainer.print(
                f"{type(self.owner).__name__}.train_epoch runs a loop of its own: accumulation, "
                "precision, clipping, schedules and step_mode are left to it, and checkpoints are "
                "written at the ends of epochs. Iterate self.batches() and call "
                "self.train_step(batch) to have them."
            )
        self.has_own_loop = has_own_loop
        self._write(trainer)

    def on_eval_epoch_start(
        self, trainer: Any, is_intermediate: bool = False, **kwargs: Any
    ) -> None:
        self._correct, self._num_samples, self._num_batches = None, 0, 0
        self.is_intermediate = is_intermediate
        if not self.is_test and not is_intermediate:
            self.owner.begin_series("val_loss_history")

    def on_eval_step_end(self, trainer: Any, batch: Any, batch_output: Any, **kwargs: Any) -> None:
        if self.is_intermediate:
            return
        if not self.is_test:
            self.owner.add_value("val_loss_history", batch_output["loss"].detach())
        correct = self.owner.count_correct(batch, batch_output)
        if correct is not None:
            self._correct = correct if self._correct is None else self._correct + correct
        self._num_samples += batch_output["batch_size"]
        if self._num_batches % self.owner.print_every == 0:
            owner = self.owner
            owner.print(
                f"[{'TEST' if self.is_test else 'VAL'}]   epoch {owner.cur_epoch + 1}/"
                f"{owner.num_epochs}, batch {self._num_batches}: loss {batch_output['loss']:.6f}"
            )
        self._num_batches += 1

    def on_eval_epoch_end(self, trainer: Any, **kwargs: Any) -> None:
        if self.is_intermediate:
            return
        owner, history = self.owner, trainer.run_history
        name = "evaluation_loss" if self.is_test else "eval_loss_epoch"
        loss = history.get_latest_metric(name)
        line = f"average loss {loss:.4f}"
        if self._correct is not None:
            accuracy = int(self._correct) / self._num_samples
            line += f", accuracy {int(self._correct)}/{self._num_samples} ({100 * accuracy:.4f} %)"
            if not self.is_test:
                owner.add_value("acc_history", accuracy)
            history.update_metric("test_accuracy" if self.is_test else "accuracy", accuracy)
        owner.print(f"[{'TEST' if self.is_test else 'VAL'}]   {line}")
        if owner.tb_writer is not None and not self.is_test:
            owner.tb_writer.add_scalar("loss/val", loss, owner.loss_iter)
            if self._correct is not None:
                owner.tb_writer.add_scalar("acc/val", owner.get_cur_acc(), owner.loss_iter)

    def state_dict(self) -> dict[str, Any]:
        """Return the owner's history, for checkpoints."""
        return {"history": self.owner.history_values(), "best_acc": self.owner.best_acc}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.owner.set_history_values(state["history"])
        self.owner.best_acc = state["best_acc"]
        self._written = self.owner.loss_iter
