"""The Trainer inside: runs the batches of a `LightningModule`, with hooks in Lightning's order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch

from loopwright.accumulation import Accumulation
from loopwright.adapters.lightning.hooks import Hooks, has_own
from loopwright.adapters.lightning.loops import EvaluationLoop, FitLoop, PredictionLoop
from loopwright.adapters.lightning.programs import compiled, obstacles, recorded
from loopwright.adapters.lightning.state import LightningState
from loopwright.adapters.lightning.unreadable import Unreadable
from loopwright.adapters.lightning.upstream import (
    ClosureResult,
    ManualResult,
    MixedPrecision,
    MockOptimizer,
    Precision,
    is_param_in_hook_signature,
)
from loopwright.batches import num_samples_in
from loopwright.device import move_to_device
from loopwright.ends import StopRequested
from loopwright.execution.eager import EagerStepping
from loopwright.execution.obstacles import NotCapturableError
from loopwright.feed import Feed
from loopwright.history import LossTracker
from loopwright.out_of_memory import explaining_out_of_memory
from loopwright.seed import random_states, restore_random_states
from loopwright.trainer import Trainer

_END = object()
_NO_LIMIT = 10**9
_UNKNOWN = float("inf")
_AUTOMATIC = "0"
"""The name of the optimizer of automatic optimization."""
_BETWEEN_STEPS = (
    "on_train_batch_start",
    "lr_scheduler_step",
    "on_train_batch_end",
    "on_save_checkpoint",
)
"""Hooks that may change the model between two steps, beside transfers and validations."""
_TRANSFER_HOOKS = (
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
)


class HostFeed(Feed):
    """Gives batches as loaders made them; hooks of the user's may move them to the device."""

    def moved(self, trainer: Trainer, inner: Any, batches: Iterator[Any]) -> Iterator[Any]:
        """Return the batches as they are."""
        return batches


class Engine(Trainer):
    """Runs what one call of `fit`, `validate`, `test` or `predict` runs.

    Args:
        owner: The trainer that the user made.
        callbacks: Those of loopwright.
        options: Further arguments of `Trainer`.
    """

    def __init__(self, owner: Any, callbacks: Iterable[Any], **options: Any) -> None:
        self.owner = owner
        module = owner.lightning_module
        optimizers = {
            str(index): each
            for index, each in enumerate(owner.optimizers)
            if not isinstance(each, MockOptimizer)
        }
        device = owner.strategy.root_device
        callbacks = [*callbacks, LightningState(self)]
        plugin = owner.precision_plugin
        is_mixed = type(plugin) is MixedPrecision and plugin.scaler is None
        options["precision"] = "bf16" if is_mixed else "fp32"  # others are a matter of the plugin
        super().__init__(module, None, optimizers, callbacks, device=device, **options)
        self._feed = HostFeed()
        self.hooks = Hooks(owner)
        self._fit_loop: FitLoop = owner.fit_loop
        self._epoch_loop = owner.fit_loop.epoch_loop
        self._num_eval_batches: float = 0
        self.goes_on_inside_epoch = False
        """Whether the next epoch was begun before the run was resumed."""
        self.validation_is_due = False
        """Whether a run was left in a validation, which is then done anew."""
        self._skips_rest_of_epoch = False
        self._has_transfer_hooks = False
        self._takes_index = True
        self._is_plain = is_mixed or type(plugin) is Precision
        """Whether a plugin has nothing to do but to give the context of `training_step`."""
        self._stand_in: Unreadable | None = None
        """What a step gets for the index of its batch while it is recorded."""
        self._closure: Callable[[], Any] | None = None
        self._batch_output: Any = None

    # ----------------------------------------------------------------- a run of training

    def fit(self) -> None:
        """Train what is left of the planned epochs."""
        owner, loop = self.owner, self._fit_loop
        loader, limit = loop.batches, owner.gradient_clip_val or None
        by_value = owner.gradient_clip_algorithm == "value"
        self.run_history._set_epoch(owner.current_epoch + 1)
        self.train(
            loader,
            num_epochs=loop.max_epochs if loop.max_epochs > 0 else _NO_LIMIT,
            per_device_batch_size=getattr(loader, "batch_size", None) or 1,
            gradient_accumulation_steps=owner.accumulate_grad_batches,
            gradient_clip_value=limit if by_value else None,
            gradient_clip_norm=None if by_value else limit,
            reset_run_history=False,
            resume=owner.resume,
        )
        if self._keeper.resumed is not None:  # the run was finished, and has not begun again
            self._keeper.finish_resuming(self)

    def create_train_dataloader(
        self, batch_size: int, train_dl_kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the user's loader."""
        self._train_dl_kwargs = {"batch_size": batch_size}
        return self.train_dataset

    def create_scheduler(self) -> Any:
        """Return the schedulers of `configure_optimizers`."""
        configs = self.owner.lr_scheduler_configs
        return {str(index): config.scheduler for index, config in enumerate(configs)}

    def _begin_run(self, num_epochs: int | None, max_num_train_steps: int | None) -> None:
        super()._begin_run(num_epochs, max_num_train_steps)
        self._feed = HostFeed()
        if self.step_mode == "auto":  # which weighs the steps that are left
            total = self.owner.estimated_stepping_batches
            is_known = 0 <= total < _UNKNOWN
            self.progress.total_steps = int(total) - self.owner.global_step if is_known else None

    def training_run_start(self) -> None:
        """Let Lightning's hooks know."""
        if not self.model.automatic_optimization:
            progress = self._epoch_loop.manual_optimization.optim_step_progress
            for optimizer in self.owner.strategy._lightning_optimizers:
                optimizer._on_before_step = progress.increment_ready
                optimizer._on_after_step = progress.increment_completed
        self._fit_loop.on_run_start()

    def _should_train_an_epoch(self) -> bool:
        return not self._fit_loop.done

    def _reached_max_steps(self) -> bool:
        return False  # Lightning counts the steps of each optimizer; its loop is asked for it

    def train_epoch_start(self) -> None:
        """Ask for new data where that is due, and tell that an epoch starts."""
        self.hooks.forget()
        if not self.goes_on_inside_epoch:
            self._fit_loop.on_advance_start()
            self._epoch_loop.reset()
            self.progress.micro_batch = self._epoch_loop.batch_progress.current.ready
        self.goes_on_inside_epoch = False
        # A hook at the start of the epoch may have changed it.
        self._accumulation = Accumulation(self.owner.accumulate_grad_batches, None)
        self._train_dataloader = self._fit_loop.batches
        self._has_transfer_hooks = self._overrides_transfer()
        step = self.model.training_step
        self._takes_index = is_param_in_hook_signature(step, "batch_idx", min_args=2)
        self._skips_rest_of_epoch = False

    def _overrides_transfer(self) -> bool:
        owners = [each for each in (self.model, self.owner.datamodule) if each is not None]
        return any(has_own(owner, name) for owner in owners for name in _TRANSFER_HOOKS)

    def _run_train_batches(self, train_dl: Any) -> None:
        """Run the batches that are left, and validation where it is due."""
        loop = self._epoch_loop
        if self.validation_is_due or (loop.restarting and self._ends_with_validation()):
            self._end_batch()
        loop.val_loop.restarting = False
        loop.on_iteration_done()
        batches = self._feed.train_batches(self, self._train_dataloader)
        while not loop.done and (batch := next(batches, _END)) is not _END:
            loop.batch_progress.is_last_batch = self._fit_loop.is_last(loop.batch_idx + 1)
            self._run_train_step(batch)
            if self._skips_rest_of_epoch:
                return
            self._end_batch()
            self._keeper.save_if_due(self)

    def _end_batch(self) -> None:
        """Validate where that is due; a validation that a signal cuts short is done anew."""
        before = random_states() if self._keeper.store is not None else None
        self.validation_is_due = False
        try:
            self._epoch_loop.on_advance_end(None)
        except StopRequested:
            assert before is not None
            restore_random_states(before)
            self.owner.training = self.validation_is_due = True
            raise

    def _ends_with_validation(self) -> bool:
        """Whether a checkpoint of Lightning's was written when an epoch's batches were done."""
        loop = self._epoch_loop
        if not loop._should_check_val_fx(None):
            return False
        if loop.val_loop.restarted_mid_evaluation:
            return True
        if loop.restarted_on_last:
            loop._skip_next_val = True
            return True
        loop.val_loop.increment_progress_to_evaluation_end()
        return False

    def train_epoch_end(self) -> None:
        """Let Lightning's hooks, schedules by epoch and loggers know."""
        self._fit_loop.on_advance_end()

    def _record_train_losses(self) -> None:
        """Record what was logged, and the mean loss of an epoch that had losses."""
        metrics = {name: float(value) for name, value in self.owner.callback_metrics.items()}
        if self._loss_tracker.running_count:
            metrics.setdefault("train_loss_epoch", self._loss_tracker.average)
        for name, value in metrics.items():
            self.run_history.update_metric(name, value)

    def training_run_epoch_end(self) -> None:
        """Leave the state of a restart, if there was one."""
        self._fit_loop.on_iteration_done()

    def training_run_end(self) -> None:
        """Let Lightning's hooks know."""
        super().training_run_end()
        self._fit_loop._restarting = False
        self._fit_loop.on_run_end()

    # --------------------------------------------------------------------------- a batch

    def _take_step(self, batch: Any) -> Any:
        """Run a batch from its first hook to its last, and return what its step returned."""
        hooks, loop, owner = self.hooks, self._epoch_loop, self.owner
        progress, logged = loop.batch_progress, owner._logger_connector
        index = loop.batch_idx + 1
        batch = self._moved(batch)
        progress.increment_ready()
        self._accumulation.completes_update = not loop._should_accumulate()
        logged.on_batch_start(batch)
        output: Any = {}
        if batch is not None:
            self._skips_rest_of_epoch = hooks("on_train_batch_start", batch, index) == -1
            if self._skips_rest_of_epoch:
                progress.increment_by(0, is_last_batch=True)
            else:
                progress.increment_started()
                output = self._run_module_step(batch)
        progress.increment_processed()
        if owner.lr_scheduler_configs:
            loop.update_lr_schedulers("step", update_plateau_schedulers=False)
            if loop._num_ready_batches_reached():
                loop.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if not self._skips_rest_of_epoch:
            hooks("on_train_batch_end", output, batch, index)
            logged.on_batch_end()
            progress.increment_completed()
            logged.update_train_step_metrics()
        self._updated.add(None)
        return output

    def _moved(self, batch: Any, loader_index: int = 0) -> Any:
        """Return a batch on the device, as the user's hooks put it there."""
        owner = self.owner
        if self._has_transfer_hooks:
            batch = owner.precision_plugin.convert_input(batch)
            batch = self.model._on_before_batch_transfer(batch, dataloader_idx=loader_index)
            move = partial(owner.strategy.batch_to_device, dataloader_idx=loader_index)
            return self.hooks.under("batch_to_device", move, batch)
        if self.device.type != "cpu":
            batch = move_to_device(batch, self.device)
        return batch if self._is_plain else owner.precision_plugin.convert_input(batch)

    def _run_module_step(self, batch: Any) -> Any:
        if self._epoch_loop.automatic_optimization._skip_backward:  # as a callback may ask for
            return self.train_step(batch)
        return self._stepping.step(batch)

    def train_step(self, batch: Any) -> Any:
        """Run what a program may stand for: from the module's step to that of the optimizer."""
        if not self.model.automatic_optimization:
            return self._run_manual_step(batch)
        self._closure = partial(self._run_closure, batch)
        self._batch_output, self._turn = None, _AUTOMATIC
        if self._accumulation.completes_update:
            self.optimizer_step()
            self.scheduler_step()
        else:
            self._closure()
        output, self._batch_output, self._closure = self._batch_output, None, None
        if output is None:
            raise RuntimeError(
                f"{type(self.model).__name__}.optimizer_step did not run its closure, so the step "
                "has no loss and no gradients. Pass it on: optimizer.step(closure=...)."
            )
        return output

    def _run_training_step(self, batch: Any) -> Any:
        index = self._epoch_loop.batch_idx if self._stand_in is None else self._stand_in
        arguments = (batch, index) if self._takes_index else (batch,)
        with self._precision_context():
            return self.hooks.of_module("training_step", *arguments)

    def _run_manual_step(self, batch: Any) -> Any:
        output = ManualResult.from_training_step_output(self._run_training_step(batch)).asdict()
        self._updated.add(None)
        self._report(batch, output.get("loss"))
        return output

    @torch.enable_grad()  # which some optimizers step without
    def _run_closure(self, batch: Any) -> Any:
        """Run the training step and backward; optimizers may call this several times."""
        size = self.owner.accumulate_grad_batches
        output = self._run_training_step(batch)
        if type(output) is torch.Tensor and size == 1:
            loss: torch.Tensor | None = output
            self._batch_output = {"loss": output.detach()}
        else:
            parsed = ClosureResult.from_training_step_output(output, size)
            loss = parsed.closure_loss
            self._batch_output = {} if loss is None else parsed.asdict()
        if loss is None and self._stand_in is not None:
            raise NotCapturableError("training_step returned no loss for this batch")
        self._report(batch, output["loss"] if isinstance(output, Mapping) else output)
        if self._epoch_loop.automatic_optimization._skip_backward:
            return loss
        optimizer = self.owner.optimizers[0]
        if not self._accumulation.num_waiting:
            self._zero_gradients(optimizer)
        if loss is not None:
            self.backward_step(loss)
        if self._guard is not None and self._guard.latch is not None:
            self._guard.check_update(self, optimizer)
        return loss

    def _report(self, batch: Any, loss: Any) -> None:
        """Record the loss of a batch once, before its gradients exist."""
        if not self._reported:
            self._report_train_step(batch, {"loss": loss})

    def _report_train_step(self, batch: Any, output: Any) -> None:
        _report_counted(super()._report_train_step, batch, output)

    def _zero_gradients(self, optimizer: Any) -> None:
        progress = self._epoch_loop.automatic_optimization.optim_progress.optimizer.zero_grad
        self._note(progress.increment_ready)
        self.hooks("on_before_zero_grad", optimizer)
        self._note(progress.increment_started)
        if self.hooks.overrides("optimizer_zero_grad"):
            index = self._epoch_loop.batch_idx
            self.hooks("optimizer_zero_grad", self.owner.current_epoch, index, optimizer)
        else:
            optimizer.zero_grad()
        self._note(progress.increment_completed)

    def backward_step(self, loss: torch.Tensor) -> None:
        """Run backward, and the hooks around it."""
        if not self._is_plain:
            optimizer = self.owner.optimizers[0]
            self.hooks.under("backward", self.owner.strategy.backward, loss, optimizer)
            return
        self.hooks("on_before_backward", loss)
        if self.hooks.overrides("backward"):
            self.hooks("backward", loss)
        else:
            loss.backward()
        self.hooks("on_after_backward")

    def optimizer_step(self) -> None:
        """Run the closure of the batch and update the parameters."""
        progress = self._epoch_loop.automatic_optimization.optim_progress.optimizer.step
        self._note(progress.increment_ready)
        if self._is_plain and not self.hooks.overrides("optimizer_step"):
            self.owner.optimizers[0].step(closure=self._run_closure_and_clip)
        else:
            self.hooks.of_module(
                "optimizer_step",
                self.owner.current_epoch,
                self._epoch_loop.batch_idx,
                self.owner.strategy._lightning_optimizers[0],
                self._closure,
            )
        self._updated.add(None)
        self._note(progress.increment_completed)

    def scheduler_step(self) -> None:
        """Leave schedules to the end of the batch, where Lightning's order has them."""

    def _run_closure_and_clip(self) -> Any:
        assert self._closure is not None
        loss = self._closure()
        owner, optimizer = self.owner, self.owner.optimizers[0]
        self.hooks("on_before_optimizer_step", optimizer)
        plugin, limit = owner.precision_plugin, owner.gradient_clip_val
        algorithm = owner.gradient_clip_algorithm
        if self.hooks.overrides("configure_gradient_clipping"):
            plugin._clip_gradients(self.model, optimizer, limit, gradient_clip_algorithm=algorithm)
        elif limit is not None:
            plugin.clip_gradients(optimizer, limit, algorithm or "norm")
        return loss

    def autocast(self) -> AbstractContextManager[Any]:
        """Return no context: the module's step alone runs in that of its precision."""
        return nullcontext()

    def _precision_context(self) -> AbstractContextManager[Any]:
        if self._is_plain and self.precision == "fp32":
            return nullcontext()
        context: AbstractContextManager[Any] = self.owner.precision_plugin.train_step_context()
        return context

    # ---------------------------------------------------------- a batch as one program

    def _make_stepping(self, base: type | None = None) -> EagerStepping:
        return super()._make_stepping(base or Engine)

    def _step_obstacles(self) -> Iterator[str]:
        return obstacles(self)

    @property
    def _has_other_listeners(self) -> bool:
        return self._has_transfer_hooks or any(map(self.hooks.is_used_by_others, _BETWEEN_STEPS))

    def _compiled(self) -> AbstractContextManager[None]:
        return compiled(self.model)

    def _recording(self) -> AbstractContextManager[None]:
        report = vars(self)["_report_train_step"]
        vars(self)["_report_train_step"] = partial(_report_counted, report)
        return recorded(self)

    # -------------------------------------------------------------- evaluation, prediction

    def evaluate_loop(self, loop: EvaluationLoop) -> list[dict[str, Any]]:
        """Evaluate on the loaders of a loop, and return what was logged for each."""
        call_event = self.callback_handler.call_event
        if self._guard is not None and self._is_running:
            self._guard.settle(self)
        self._num_eval_batches = sum(loop.max_batches)
        running = nullcontext() if self._is_running else self._running()
        with running, self._phase("eval"), explaining_out_of_memory(self):
            loop.reset()
            loop.on_run_start()
            call_event("on_eval_epoch_start", self, is_intermediate=False)
            for batch, index, loader_index in self._feed.batches(self, loop):
                if not self._accumulation.is_open:
                    self._keeper.leave_if_asked()
                call_event("on_eval_step_start", self)
                loop._evaluation_step(batch, index, loader_index, None)
                output = {"batch_size": num_samples_in(batch)}
                call_event("on_eval_step_end", self, batch=batch, batch_output=output)
            logged: list[dict[str, Any]] = loop.on_run_end()
            call_event("on_eval_epoch_end", self, is_intermediate=False)
        if self._is_running:  # inside an epoch, where it may have changed the model
            self._stepping.begin_epoch()
        return logged

    @property
    def num_eval_batches(self) -> int | None:
        """Batches in the evaluation that goes on; None when unknown."""
        return None if self._num_eval_batches == _UNKNOWN else int(self._num_eval_batches)

    def predict_loop(self, loop: PredictionLoop) -> Any:
        """Predict for the loaders of a loop, and return the outputs."""
        with self._running(), self._phase("predict"):
            loop.reset()
            loop.on_run_start()
            for batch in self._feed.batches(self, loop):
                loop._predict_step(*batch, None)
            return loop.on_run_end()

    @contextmanager
    def _phase(self, phase: Literal["eval", "predict"], loader: Any = None) -> Iterator[None]:
        """Leave the loss tracker as it was; what an evaluation draws stays drawn, as there."""
        before, self.progress.phase = self.progress.phase, phase
        tracker, self._loss_tracker = self._loss_tracker, LossTracker()
        try:
            yield
        finally:
            self.progress.phase, self._loss_tracker = before, tracker


def _report_counted(report: Callable[..., None], batch: Any, output: Mapping[str, Any]) -> None:
    """Report the loss of a batch, where there is one, with the number of its samples."""
    counted: dict[str, Any] = {"batch_size": num_samples_in(batch) or 1}
    if isinstance(output.get("loss"), torch.Tensor):
        counted["loss"] = output["loss"].detach()
    report(batch, counted)
