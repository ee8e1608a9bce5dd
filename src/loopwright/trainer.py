"""The trainer: one loop, whose every step can be overridden.

Read `Trainer._run_training` for what a run does, and `Trainer._run_train_step` and
`Trainer.train_step` for what a step does; the hooks that they call stand in `loopwright.hooks`.
`Trainer.explain` prints all of it with what is plugged in.
"""

import os
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from math import isfinite
from typing import Any, Literal

import torch

from loopwright.accumulation import Accumulation, Count
from loopwright.batches import batch_size_of, count_of, num_samples_in
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.data import remove_padding
from loopwright.default_callbacks import DEFAULT_CALLBACKS
from loopwright.device import AUTOCAST_DTYPES, Precision, deterministic_algorithms, pick_device
from loopwright.ends import StopRequested, explain_lost_worker
from loopwright.events import StopTrainingError, TrainerCallback
from loopwright.execution.eager import EagerStepping
from loopwright.execution.report import StepMode, StepReport
from loopwright.feed import Feed, place
from loopwright.finite import StepGuard
from loopwright.history import (
    InMemoryRunHistory,
    LossTracker,
    RunHistory,
    history_state,
    restore_history,
)
from loopwright.hooks import TrainerHooks
from loopwright.keeper import Keeper
from loopwright.limits import make_handler
from loopwright.loaders import close_loader, innermost, length_of, make_loader
from loopwright.memory import kept_buffers
from loopwright.modes import preserved_modes
from loopwright.out_of_memory import Splitter, explaining_out_of_memory
from loopwright.outputs import collect_outputs, stream_outputs
from loopwright.placeholders import TrainerPlaceholderValues, replace_trainer_placeholder_values
from loopwright.processes import (
    local_process_index,
    num_processes,
    process_index,
    refuse_several_processes,
)
from loopwright.progress import Progress
from loopwright.run_config import TrainerRunConfig
from loopwright.seed import preserved_random_states
from loopwright.train_arguments import (
    check_checkpoint,
    check_clipping,
    check_limits,
    check_modes,
    check_numbers,
    check_on_out_of_memory,
    check_optimizer,
    check_scheduler_fn,
    check_shared_parameters,
    names_of,
    optimizers_in,
    smaller_limit,
    torch_optimizers_in,
)
from loopwright.training_state import restore_state, save_state

__all__ = [
    "DEFAULT_CALLBACKS",
    "Trainer",
    "TrainerPlaceholderValues",
    "TrainerWithTimmScheduler",
    "replace_trainer_placeholder_values",
]


class Trainer(TrainerHooks):
    """Trains and evaluates a model, and lets every part of that be changed.

    Override a method to change what it does, `train_step` or one of `TrainerHooks`, or give
    callbacks for what goes beside it. Methods named `create_` or `calculate_` return a value; the
    others change state. A batch is `(inputs, targets)` unless `calculate_train_batch_loss` is
    overridden.

    Args:
        model: The module to train; it is moved to the device when a run starts.
        loss_func: Called with (model outputs, targets); returns the mean loss over samples.
        optimizer: The optimizer of the model's parameters, used as it is; or a dict of several by
            name, for a subclass whose `train_step` calls `update(loss, name)` for each.
        callbacks: Callback classes or instances, in the order in which they run.
        run_history: Where metric values are kept; in memory by default.
        device: Such as "cuda:1"; by default the accelerator of this machine, else the CPU.
        precision: "fp32", or "bf16" or "fp16" for autocast in that type.
        step_mode: How a step is executed: "eager", line by line; "compile", with forward and
            backward compiled; "capture", the whole of it as one program; or "auto", which captures
            where that is checked and pays (see `loopwright.execution`).
        seed: Decides the order of data and what datasets draw; by default the seed that torch was
            seeded with, read without drawing. Nothing seeds the global generators.
        run_dir: A folder for the run to own; None writes nothing. A run with a folder that SIGTERM,
            SIGINT, SIGHUP or SIGUSR1 ends saves first, and can be resumed. A URL, or a
            `loopwright.storage.Mirror`, is a local folder of which a copy is kept there.
        checkpoint: When such a run saves besides, and what it keeps.
        deterministic: Use deterministic algorithms during runs; they can be slower, and torch
            raises where it has none.
        on_out_of_memory: "stop" raises an error that tells what to lower; "split" goes on with
            micro-batches in parts, whose gradients are those of the whole batch.

    Raises:
        ValueError: The device, precision or step mode is not usable.
        NotSupportedError: Several processes were started, or a later feature is asked for.
    """

    keep_freed_memory: bool = True
    """Whether freed buffers stay in the process during runs on a CPU (see `loopwright.memory`)."""

    device_memory_share: float = 0.25
    """The part of an accelerator's free memory below which data is copied to it whole."""

    def __init__(
        self,
        model: Any,
        loss_func: Callable[..., Any] | None,
        optimizer: Any,
        callbacks: Iterable[TrainerCallback | type[TrainerCallback]] = DEFAULT_CALLBACKS,
        run_history: RunHistory | None = None,
        *,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        step_mode: StepMode = "eager",
        seed: int | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        checkpoint: CheckpointPolicy | None = None,
        deterministic: bool = False,
        on_out_of_memory: Literal["stop", "split"] = "stop",
    ) -> None:
        refuse_several_processes()
        check_modes(precision, step_mode)
        check_on_out_of_memory(on_out_of_memory)
        check_checkpoint(checkpoint, run_dir)
        self.model = model
        self.loss_func = loss_func
        self.optimizer = optimizer
        self.run_history = run_history if run_history is not None else InMemoryRunHistory()
        self.device = pick_device(device)
        self.precision = precision
        self.step_mode = step_mode
        self._keeper = Keeper(run_dir, checkpoint)
        self.run_dir = self._keeper.run_dir
        self.checkpoint = checkpoint
        self.deterministic = deterministic
        self.on_out_of_memory = on_out_of_memory
        self.callback_handler = make_handler(callbacks)
        self.progress = Progress()
        self.scheduler: Any = None
        self.run_config: TrainerRunConfig | None = None
        self.create_scheduler_fn: Any = None
        self.collate_fn: Callable[[list[Any]], Any] | None = None
        self.train_dataset: Any = None
        self.eval_dataset: Any = None
        self.max_eval_batches: int | None = None
        """Batches after which an evaluation ends; callbacks may set it when one starts."""
        self.seconds_training = 0.0
        """Time of the training epochs of the last run."""
        self.seconds_waiting = 0.0
        """The part of it in which the loop had no batch to work on."""
        self._seed = seed
        self._train_dataloader: Any = None
        self._eval_dataloader: Any = None
        self._train_dl_kwargs: dict[str, Any] | None = None
        self._eval_dl_kwargs: dict[str, Any] | None = None
        self._scheduler_made: Any = None
        self._loss_tracker = LossTracker()
        self._named_losses: dict[str, LossTracker] = {}
        self._reads_losses_per_step = self.device.type == "cpu"
        self._scalers = self._create_scalers()
        self._accumulation = Accumulation(1, None)
        self._turn: str | None = None
        self._optimizer_names: tuple[str | None, ...] = (None,)
        self._retain_graph = False
        self._micro_batch: Any = None
        self._num_items: Count | None = None
        self._reported = False
        self._updated: set[str | None] = set()
        self._is_running = False
        self._stop: StopTrainingError | None = None
        self._limits: tuple[int | None, int | None] = (None, None)
        self._feed = Feed()
        self._guard: StepGuard | None = None
        self._splitter: Splitter | None = None
        self._stepping = self._make_stepping()
        self._run_seed = 0
        self._first_epoch = 1
        self._resumes_inside_epoch = False
        self.callback_handler.call_event("on_init_end", self)

    def train(
        self,
        train_dataset: Any,
        num_epochs: int | None,
        eval_dataset: Any = None,
        per_device_batch_size: int = 8,
        max_num_train_steps: int | None = None,
        gradient_accumulation_steps: int = 1,
        gradient_clip_value: float | None = None,
        create_scheduler_fn: Callable[[Any], Any] | Mapping[str, Any] | None = None,
        train_dataloader_kwargs: dict[str, Any] | None = None,
        eval_dataloader_kwargs: dict[str, Any] | None = None,
        reset_run_history: bool = True,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        resume_from: str | os.PathLike[str] | None = None,
        *,
        gradient_clip_norm: float | None = None,
        resume: str | os.PathLike[str] | None = None,
        allow_changes: bool = False,
    ) -> None:
        """Train the model, and evaluate it after each epoch when there is an `eval_dataset`.

        Args:
            train_dataset: Tensors, arrays, or a tuple of them; any map-style or iterable dataset.
            num_epochs: Epochs to train; None when `max_num_train_steps` alone decides.
            eval_dataset: Data of the same kinds to evaluate on.
            per_device_batch_size: Samples in a micro-batch.
            max_num_train_steps: Updates after which the run ends, in the middle of an epoch if
                need be. Of two limits the smaller one holds.
            gradient_accumulation_steps: Micro-batches in an update. Each weighs its share of the
                samples; the last update of an epoch takes what is left.
            gradient_clip_value: Clip each entry of the gradient into [-v, v] before an update.
            create_scheduler_fn: Makes a scheduler of an optimizer; a `functools.partial` may hold
                `TrainerPlaceholderValues`. The scheduler steps after every update.
            train_dataloader_kwargs: See `create_train_dataloader`.
            eval_dataloader_kwargs: See `create_eval_dataloader`.
            reset_run_history: False keeps earlier metrics and goes on counting epochs.
            collate_fn: Makes a batch of a list of samples, in both loaders.
            resume_from: The same as `resume`.
            gradient_clip_norm: Clip the norm of the whole gradient before an update.
            resume: A checkpoint of a run, or a folder of `save_training_state`, to go on from; the
                URL of a checkpoint, or of the copy of a run for its newest one; or "latest" for the
                newest checkpoint in the run's own folder that is whole (the run starts anew when
                there is none, and does nothing when it is finished).
            allow_changes: Go on with other settings than those of the checkpoint, which then ends
                with other weights than the run it goes on from would have.

        Raises:
            RunInterrupted: SIGTERM, SIGHUP or SIGUSR1 ended a run with a folder, after saving;
                for SIGINT it is KeyboardInterrupt.
            CheckpointError: What is resumed is damaged, or does not fit.
            OutOfMemoryError: Memory was not enough; the message says what to lower.
            RunFolderError: Another process trains in the run's folder, or it cannot be used.
            TypeError: `create_scheduler_fn` is a scheduler rather than a function that makes one.
            ValueError: A number is out of its range, or there is no data.
        """
        self._refuse_inside_a_run("train")
        check_scheduler_fn(create_scheduler_fn)
        check_limits(num_epochs, max_num_train_steps)
        check_numbers(
            per_device_batch_size=per_device_batch_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
        )
        check_clipping(
            gradient_clip_value=gradient_clip_value, gradient_clip_norm=gradient_clip_norm
        )
        if type(self).optimizer_step is Trainer.optimizer_step:
            check_optimizer(self.optimizer)
        check_shared_parameters(self.optimizer, gradient_accumulation_steps, self.on_out_of_memory)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.create_scheduler_fn, self.collate_fn = create_scheduler_fn, collate_fn
        resume = resume if resume is not None else resume_from
        if reset_run_history and resume is None:
            self.run_history.reset()
        self._prepare_model_and_optimizer()
        self._train_dataloader = self.create_train_dataloader(
            batch_size=per_device_batch_size, train_dl_kwargs=train_dataloader_kwargs
        )
        self._eval_dataloader = self._eval_dl_kwargs = None
        if eval_dataset is not None:
            self._eval_dataloader = self.create_eval_dataloader(
                batch_size=per_device_batch_size, eval_dl_kwargs=eval_dataloader_kwargs
            )
        self._prepare_dataloaders()
        self.run_config = self._create_run_config(
            per_device_batch_size=per_device_batch_size,
            num_epochs=num_epochs,
            gradient_accumulation_steps=gradient_accumulation_steps,
            max_num_train_steps=max_num_train_steps,
            gradient_clip_value=gradient_clip_value,
            gradient_clip_norm=gradient_clip_norm,
        )
        self._begin_run(num_epochs, max_num_train_steps)
        if resume == "latest" and self._keeper.is_finished(self):
            return
        with self._keeper.locked(self):
            if resume is not None:
                self._keeper.resume(self, resume, allow_changes=allow_changes)
            with (
                self._running(),
                self._keeper.keeping(self, resumes=resume is not None),
                explaining_out_of_memory(self),
            ):
                self._run_training()

    def _run_training(self) -> None:
        """Run the planned epochs, from the first event of the run to the last."""
        try:
            self.training_run_start()
            self.callback_handler.call_event("on_training_run_start", self)
            self._keeper.finish_resuming(self)
            while self._should_train_an_epoch():
                if not self.progress.epoch_is_trained:
                    self._run_train_epoch(self._train_dataloader)
                if self._eval_dataloader is not None:
                    self._run_evaluation_of_epoch()
                self._count_epoch()
                self.training_run_epoch_end()
                self.callback_handler.call_event("on_training_run_epoch_end", self)
                self.run_history._increment_epoch()
                self._keeper.save_after_epoch(self)
        except StopTrainingError as stop:
            self._abandon_update()
            self._note_stop(stop)
        self.training_run_end()
        self.callback_handler.call_event("on_training_run_end", self)

    def _note_stop(self, stop: StopTrainingError) -> None:
        """Keep why the run ends, and tell it."""
        self._stop = stop.with_traceback(None)  # which would keep the batch alive
        self.print(stop)
        self.callback_handler.call_event("on_stop_training_error", self)

    def _run_evaluation_of_epoch(self) -> None:
        """Evaluate; an evaluation that a signal cuts short leaves no metrics."""
        before = history_state(self.run_history)
        try:
            self._run_eval_epoch(self._eval_dataloader)
        except StopRequested:
            restore_history(self.run_history, before, epoch=self.run_history.current_epoch)
            raise

    def _run_train_epoch(self, train_dl: Any) -> None:
        """Run the micro-batches of an epoch, and record its loss."""
        self._begin_train_epoch()
        self._stepping.begin_epoch()
        self.train_epoch_start()
        self.callback_handler.call_event("on_train_epoch_start", self)
        began = time.perf_counter()
        self._run_train_batches(train_dl)
        if self._accumulation.is_open:  # data of unknown length ended inside an update
            self._complete_open_update()
        if self._guard is not None:
            self._guard.settle(self)
        self.seconds_training += time.perf_counter() - began
        self.train_epoch_end()
        self._record_train_losses()
        self.callback_handler.call_event("on_train_epoch_end", self)
        self.progress.epoch_is_trained = True

    def _run_train_batches(self, train_dl: Any) -> None:
        """Run the micro-batches that are left of an epoch."""
        splitter = self._splitter
        run_step = self._run_train_step if splitter is None else splitter.run_train_step
        for batch in self._feed.train_batches(self, train_dl):
            run_step(batch)
            if self._reached_max_steps():
                break
            self._keeper.save_if_due(self)

    def _run_train_step(self, batch: Any) -> None:
        """Run one micro-batch, and the update that it completes."""
        progress, accumulation = self.progress, self._accumulation
        accumulation.begin(progress.micro_batch)
        self._micro_batch, self._num_items, self._reported = batch, None, False
        self._updated.clear()
        guard = self._guard if self._guard is not None and self._guard.is_watching else None
        if guard is not None:
            guard.begin(self)
        self.callback_handler.call_event("on_train_step_start", self)
        output = self._take_step(batch)
        if not self._reported:
            self._report_train_step(batch, output)
        if accumulation.completes_update:
            self._count_step()
        accumulation.end()
        progress.micro_batch += 1
        if guard is not None:
            guard.end(self)
        self._micro_batch = None

    def _take_step(self, batch: Any) -> Any:
        """Run `train_step`, in the form that was chosen for it, and what belongs around it."""
        return self._stepping.step(batch)

    def train_step(self, batch: Any) -> Any:
        """Train on one micro-batch: loss, and `update` with it.

        Override it for several optimizers, or several losses. It is called once per micro-batch
        and calls `self.update(loss, name)` for each optimizer; accumulation, precision, clipping,
        schedules and counting are done there. What it returns reaches `on_train_step_end`; a
        dict with `loss` and `batch_size` is recorded as the training loss.
        """
        output = self.calculate_train_batch_loss(batch)
        self._report_train_step(batch, output)
        self.update(output["loss"])
        return output

    def update(
        self,
        loss: torch.Tensor,
        name: str | None = None,
        *,
        num_items: Count | None = None,
        retain_graph: bool = False,
    ) -> None:
        """Run backward, and in the micro-batch that completes an update all that follows.

        That is clipping, the optimizer's step, the scheduler's, and dropping the gradients. Only
        parameters of the named optimizer get gradients, so losses do not leak into one another.

        Args:
            loss: A scalar, the mean over samples or items.
            name: Which of several optimizers; its loss is recorded as `train_<name>_loss_epoch`.
            num_items: The count that `loss` is a mean over; by default the batch's.
            retain_graph: Keep the graph for another `update` from the same outputs.
        """
        if name is None and not self._reported and self._guard is not None:
            self._guard.note(self, loss)
        if self._accumulation.is_needed or name is not None or None not in self._optimizer_names:
            self._check_turn(name)
            count = self._items_in_micro_batch() if num_items is None else num_items
            if name is not None:
                self._track(self._named_losses.setdefault(name, LossTracker()), loss, count)
            loss = self._accumulation.weigh(loss, count, name)
        self._turn, self._retain_graph = name, retain_graph
        self._updated.add(name)
        if self.precision == "fp32":
            self._run_backward(loss)
        else:
            with self._without_autocast():
                self._run_backward(loss)

    def _run_backward(self, loss: torch.Tensor) -> None:
        """Run backward, and complete the update where this is its last micro-batch."""
        self.backward_step(loss)
        if self._accumulation.completes_update:
            self._complete_update()

    def _complete_update(self) -> None:
        """Update the parameters of the optimizer in turn from its gradients."""
        config, scaler = self.run_config, self._scalers.get(self._turn)
        if self._accumulation.is_needed:
            self._accumulation.correct(self._parameters_in_turn(), self._turn)
        if config and (config.gradient_clip_value or config.gradient_clip_norm):
            if scaler is not None:
                scaler.unscale_(self._in_turn(self.optimizer))
            self._clip_gradients()
        if self._guard is not None and self._guard.latch is not None:
            self._guard.check_update(self, self._in_turn(self.optimizer))
        self.optimizer_step()
        if scaler is None or self._fp16_step_was_taken(scaler):
            self.scheduler_step()
        self.optimizer_zero_grad()

    def _complete_open_update(self) -> None:
        for name in self._accumulation.close():
            self._turn = name
            self._complete_update()
        self._count_step()

    def _count_step(self) -> None:
        if not self._updated:
            raise RuntimeError(
                f"{type(self).__name__}.train_step did not call self.update(loss) for a batch, so "
                "nothing was trained. Call it once for each optimizer."
            )
        self.progress.step += 1
        self.progress.epoch_step += 1

    def _count_epoch(self) -> None:
        self.progress.phase = "idle"
        self.progress.epochs_done += 1
        self.progress.epoch_is_trained = False
        self._keeper.log_epoch(self)

    def _items_in_micro_batch(self) -> Count:
        if self._num_items is None:
            self._num_items = num_samples_in(self._micro_batch)
        return self._num_items

    def _fp16_step_was_taken(self, scaler: torch.amp.GradScaler) -> bool:
        before = scaler.get_scale()  # reads the device, as fp16 does anyway in `scaler.step`
        scaler.update()
        return scaler.get_scale() >= before

    def _clip_gradients(self) -> None:
        """Clip the gradients of the optimizer in turn by value, by norm, or both."""
        assert self.run_config is not None
        config, parameters = self.run_config, list(self._parameters_in_turn())
        if config.gradient_clip_value:
            torch.nn.utils.clip_grad_value_(parameters, config.gradient_clip_value)
        if config.gradient_clip_norm:
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip_norm)
            if self._guard is not None and not self._scalers:  # a scaler skips on purpose
                self._guard.note_norm(self, norm)

    def _check_turn(self, name: str | None) -> None:
        if name not in self._optimizer_names:
            known = ", ".join(map(repr, self._optimizer_names))
            raise ValueError(f"update(loss, {name!r}): no such optimizer. There is {known}.")
        if name in self._updated and self._accumulation.size > 1:
            raise ValueError(
                f"update(loss, {name!r}) was called twice for one micro-batch. Under gradient "
                "accumulation that is once for each optimizer."
            )

    def evaluate(
        self,
        dataset: Any = None,
        per_device_batch_size: int = 8,
        dataloader_kwargs: dict[str, Any] | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        """Evaluate the model on a dataset: one epoch, recorded as `evaluation_loss`.

        The run history starts anew. Weights, optimizer, random state and the training mode of
        every module are left as they were.

        Args:
            dataset: Data as `train` takes it; by default the evaluation data given before.
            per_device_batch_size: Samples in a batch.
            dataloader_kwargs: See `create_eval_dataloader`.
            collate_fn: Makes a batch of a list of samples.
        """
        self._refuse_inside_a_run("evaluate")
        check_numbers(per_device_batch_size=per_device_batch_size)
        if dataset is not None:
            self.eval_dataset = dataset
        self.collate_fn = collate_fn
        self.run_history.reset()
        self._train_dataloader = self._train_dl_kwargs = None
        self._prepare_model_and_optimizer()
        self._eval_dataloader = self.create_eval_dataloader(
            batch_size=per_device_batch_size, eval_dl_kwargs=dataloader_kwargs
        )
        self._prepare_dataloaders()
        self.run_config = self._create_run_config(
            per_device_batch_size=per_device_batch_size,
            num_epochs=1,
            gradient_accumulation_steps=1,
            max_num_train_steps=None,
            gradient_clip_value=None,
        )
        self._stop, self._run_seed = None, self.seed
        with self._running():
            self._run_evaluation()
        self._keeper.log_evaluation(self)

    def _run_evaluation(self) -> None:
        try:
            self.evaluation_run_start()
            self.callback_handler.call_event("on_evaluation_run_start", self)
            self._run_eval_epoch(self._eval_dataloader, is_training=False)
        except StopTrainingError as stop:
            self._note_stop(stop)
        self.evaluation_run_end()
        self.callback_handler.call_event("on_evaluation_run_end", self)

    def _run_eval_epoch(
        self, valid_dl: Any, is_training: bool = True, is_intermediate: bool = False
    ) -> None:
        """Evaluate on every batch of a loader, and record the loss.

        Args:
            valid_dl: The loader.
            is_training: Whether this is part of a training run.
            is_intermediate: Whether this interrupts a training epoch.
        """
        if is_intermediate and self._guard is not None:
            self._guard.settle(self)
        call_event = self.callback_handler.call_event
        with self._phase("eval", valid_dl), explaining_out_of_memory(self):
            self.eval_epoch_start()
            call_event("on_eval_epoch_start", self, is_intermediate=is_intermediate)
            with torch.no_grad():
                for batch in islice(self._feed.batches(self, valid_dl), self.max_eval_batches):
                    if self._feed.replayed is None or not is_intermediate:
                        self._keeper.leave_if_asked()
                    call_event("on_eval_step_start", self)
                    output = self._stepping.evaluate(batch)
                    self._track(self._loss_tracker, output["loss"], count_of(output))
                    call_event("on_eval_step_end", self, batch=batch, batch_output=output)
            self.eval_epoch_end()
            name = "eval_loss_epoch" if is_training else "evaluation_loss"
            name = "intermediate_eval_loss" if is_intermediate else name
            self.run_history.update_metric(name, self._loss_tracker.average)
            call_event("on_eval_epoch_end", self, is_intermediate=is_intermediate)

    @contextmanager
    def _phase(self, phase: Literal["eval", "predict"], loader: Any = None) -> Iterator[None]:
        """Leave modes of modules, random states and the loss tracker as they were."""
        phase_before, self.progress.phase = self.progress.phase, phase
        times = 1 if phase_before == "idle" else self.progress.epochs or 1
        self._stepping.begin_phase((length_of(loader) or 0) * times)
        tracker, self._loss_tracker = self._loss_tracker, LossTracker()
        named, self._named_losses = self._named_losses, {}
        try:
            running = nullcontext() if self._is_running else self._stepping.running()
            with running, preserved_random_states(), preserved_modes(self.model):
                yield
        finally:
            self.progress.phase = phase_before
            self._loss_tracker, self._named_losses = tracker, named

    def predict(self, dataset: Any, per_device_batch_size: int = 8, *, stream: bool = False) -> Any:
        """Return the model's outputs for a dataset, in order and on the CPU.

        Args:
            dataset: Data as `train` takes it; of samples with several parts the first is used
                (see `calculate_prediction`).
            per_device_batch_size: Samples in a batch.
            stream: Return an iterator over the outputs of batches instead, in constant memory.
                Between batches the model is as it was before.

        Returns:
            The structure that the model returns (tensors in tuples, lists or mappings), with
            batches concatenated along the first dimension.

        Raises:
            ValueError: Outputs cannot be concatenated; use `stream=True`.
        """
        check_numbers(per_device_batch_size=per_device_batch_size)
        self._prepare_model_and_optimizer()
        options = self.get_default_eval_dl_kwargs(per_device_batch_size)
        loader = make_loader(dataset, options, given=set(), collate_fn=self.collate_fn)
        place(loader, self.device, share=self.device_memory_share)
        if not self._is_running:
            self._run_seed = self.seed
        return stream_outputs(self, loader) if stream else collect_outputs(self, loader)

    def save_checkpoint(
        self,
        save_path: str | os.PathLike[str],
        checkpoint_kwargs: dict[str, Any] | None = None,
        save_optimizer: bool = True,
        save_scheduler: bool = True,
        save_per_node: bool = True,
    ) -> None:
        """Write weights, and by default the states of optimizer and scheduler, to a `.pt` file.

        The file holds `model_state_dict`, `optimizer_state_dict`, `scheduler_state_dict` (when
        there is one) and the entries of `checkpoint_kwargs`, and loads with `weights_only=True`.

        Args:
            save_path: Where to write; the file appears whole or not at all.
            checkpoint_kwargs: Further entries: numbers, strings, tensors, lists and dicts.
            save_optimizer: Whether to include the optimizer.
            save_scheduler: Whether to include the scheduler.
            save_per_node: Write on every machine of a run rather than on the first alone.

        Raises:
            CheckpointError: An entry could not be loaded safely.
        """
        if local_process_index() == 0 if save_per_node else process_index() == 0:
            from loopwright.exports import save_states

            parts = self._exported(optimizer=save_optimizer, scheduler=save_scheduler)
            save_states(parts, save_path, checkpoint_kwargs or {})

    def load_checkpoint(
        self,
        checkpoint_path: str | os.PathLike[str],
        load_optimizer: bool = True,
        load_scheduler: bool = True,
        *,
        trusted: Collection[str] = (),
    ) -> dict[str, Any]:
        """Restore from a file of `save_checkpoint`, and return all that it holds.

        Args:
            checkpoint_path: The file.
            load_optimizer: Whether to restore the optimizer, if it is in the file.
            load_scheduler: Whether to restore the scheduler, if it is in the file.
            trusted: Exact paths such as "package.module:Name" of classes that a file of another
                program may name; nothing else in it is imported or executed.

        Raises:
            ValueError: The file holds an optimizer or a scheduler and the trainer has none.
            CheckpointError: The file does not fit the model or the optimizer, is damaged, or names
                code that is not trusted. Nothing is restored in any case.
        """
        from loopwright.exports import restore_states

        parts = self._exported(optimizer=load_optimizer, scheduler=load_scheduler)
        return restore_states(parts, checkpoint_path, trusted=trusted)

    def _exported(self, *, optimizer: bool, scheduler: bool) -> dict[str, Any]:
        """Return what a `.pt` file keeps the states of; None for what this trainer has not."""
        parts = {"model": self.get_model(keep_torch_compile=False)}
        if optimizer:
            parts["optimizer"] = self.optimizer
        if scheduler:
            parts["scheduler"] = self.scheduler
        return parts

    def save_training_state(
        self,
        output_dir: str | os.PathLike[str],
        checkpoint_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Write all that a run needs to go on to a folder of JSON and safetensors.

        That is weights, optimizer, scheduler, scaler, history, progress and random states. Call it
        between updates: from `on_train_step_start`, `on_training_run_epoch_end` or after a run.

        Args:
            output_dir: The folder; it appears whole or not at all.
            checkpoint_kwargs: Further entries, returned by `load_training_state`.
        """
        save_state(self, output_dir, checkpoint_kwargs or {})

    def load_training_state(self, input_dir: str | os.PathLike[str]) -> dict[str, Any]:
        """Restore what `save_training_state` wrote, and return it whole.

        Inside a run use `train(resume_from=...)`, which calls this when everything is prepared.

        Raises:
            CheckpointError: A file is missing or damaged, and nothing is restored; or the state
                does not fit the trainer.
        """
        return restore_state(self, input_dir)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print once per machine, whatever the number of processes."""
        if local_process_index() == 0:
            print(*args, **kwargs)

    def gather(self, tensor: Any, padding_value: float | None = None) -> Any:
        """Return the rows of a tensor from all processes, joined along the first dimension.

        Args:
            tensor: A tensor with rows of this process.
            padding_value: Rows that consist of it alone are left out of the result.
        """
        return tensor if padding_value is None else remove_padding(tensor, padding_value)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the run's precision; `train_step` runs inside it."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=AUTOCAST_DTYPES[self.precision])

    @contextmanager
    def _without_autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, enabled=False):
            yield
        torch.clear_autocast_cache()  # it holds casts of weights that were just updated

    def explain(self, evaluation: bool = False) -> None:
        """Print the loop with every hook and event in order, what overrides it and who listens.

        Args:
            evaluation: Print the loop of `evaluate` instead of that of `train`.
        """
        from loopwright.loop_map import EVALUATION, TRAINING, explain

        lines = EVALUATION if evaluation else TRAINING
        self.print(explain(type(self), Trainer, self.callback_handler.listeners, lines))

    @property
    def step_report(self) -> StepReport | None:
        """How the steps of the last run were executed, and why; None before its first batch."""
        return self._stepping.report

    @property
    def stop_reason(self) -> str | None:
        """Why `StopTrainingError` ended the last run; None when it did not."""
        return None if self._stop is None else str(self._stop)

    @property
    def seed(self) -> int:
        """The seed that decides the order of data and what datasets draw."""
        return torch.initial_seed() if self._seed is None else self._seed

    @property
    def loss_trackers(self) -> list[LossTracker]:
        """The running losses: the one recorded for the epoch, then one for each named update."""
        return [self._loss_tracker, *self._named_losses.values()]

    @property
    def num_train_batches(self) -> int | None:
        """Micro-batches in a training epoch; None when unknown."""
        return length_of(self._train_dataloader)

    @property
    def num_eval_batches(self) -> int | None:
        """Batches in an evaluation; None when unknown."""
        length = length_of(self._eval_dataloader)
        limits = [n for n in (length, self.max_eval_batches) if n is not None]
        return min(limits, default=None)

    def _create_scalers(self) -> dict[str | None, torch.amp.GradScaler]:
        """Return the scaler of each optimizer, for fp16 alone."""
        if self.precision != "fp16":
            return {}
        names = names_of(self.optimizer)
        return {name: torch.amp.GradScaler(self.device.type) for name in names}

    @property
    def _step_users(self) -> tuple[Any, ...]:
        """The objects whose code and modules a step may run."""
        return (self,)

    def _note(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Do what is no computation of a step; after a program of the step it is done again."""
        function(*arguments)

    @property
    def _has_other_listeners(self) -> bool:
        """Whether others than the callbacks of this trainer see each step and its outputs."""
        return False

    @property
    def _follows_schedules(self) -> bool:
        """Whether something may change the options of optimizers in every step."""
        return self.scheduler is not None

    def _step_obstacles(self) -> Iterator[str]:
        """Give further reasons, in half a sentence each, why a step cannot be one program."""
        return iter(())

    def _recording(self) -> AbstractContextManager[None]:
        """Hold what a step needs while it is recorded, to become a program."""
        return nullcontext()

    def _make_stepping(self, base: type | None = None) -> EagerStepping:
        """Return what takes the steps of a run.

        Args:
            base: The class whose `update` and what runs in it are known; by default this one.
        """
        if self.step_mode == "eager":
            return EagerStepping(self)
        # Not imported with the trainer, which is to cost next to nothing over torch.
        from loopwright.execution.stepping import Stepping

        return Stepping(self, self.step_mode, base or Trainer)

    def _compiled(self) -> AbstractContextManager[None] | None:
        """Return what compiles where that is not the call of the model."""
        return None

    def _prepare_model_and_optimizer(self) -> None:
        """Move the model to the device, and what the optimizer holds for its parameters."""
        if self.device.type == "cpu" or not isinstance(self.model, torch.nn.Module):
            return
        self.model.to(self.device)
        for optimizer in optimizers_in(self.optimizer):
            if optimizer is not None and optimizer.state:
                optimizer.load_state_dict(optimizer.state_dict())  # moves to where parameters are

    def _prepare_dataloaders(self) -> None:
        """Decide where data in memory lives during the run."""
        for loader in (self._train_dataloader, self._eval_dataloader):
            place(innermost(loader), self.device, share=self.device_memory_share)

    def _create_run_config(
        self,
        per_device_batch_size: int,
        num_epochs: int | None,
        gradient_accumulation_steps: int,
        max_num_train_steps: int | None,
        gradient_clip_value: float | None,
        gradient_clip_norm: float | None = None,
    ) -> TrainerRunConfig:
        """Return the record of the run's settings and the counts derived from them."""
        train_size = (self._train_dl_kwargs or {}).get("batch_size") or per_device_batch_size
        eval_size = (self._eval_dl_kwargs or {}).get("batch_size") or train_size
        steps_per_epoch: int | None = 0
        if self._train_dataloader is not None:
            length = self.num_train_batches
            steps_per_epoch = None if length is None else -(-length // gradient_accumulation_steps)
        num_epochs, max_steps = smaller_limit(num_epochs, max_num_train_steps, steps_per_epoch)
        return TrainerRunConfig(
            num_epochs=num_epochs,
            train_per_device_batch_size=train_size,
            train_dl_kwargs=self._train_dl_kwargs,
            eval_per_device_batch_size=eval_size,
            eval_dl_kwargs=self._eval_dl_kwargs,
            gradient_accumulation_steps=gradient_accumulation_steps,
            gradient_clip_value=gradient_clip_value,
            gradient_clip_norm=gradient_clip_norm,
            train_total_batch_size=train_size * gradient_accumulation_steps * num_processes(),
            eval_total_batch_size=eval_size * num_processes(),
            num_update_steps_per_epoch=steps_per_epoch,
            num_local_update_steps_per_epoch=steps_per_epoch,
            max_num_train_steps=max_steps,
            is_local_process_zero=local_process_index() == 0,
            is_world_process_zero=process_index() == 0,
            is_distributed=num_processes() > 1,
            mixed_precision="no" if self.precision == "fp32" else self.precision,
            num_processes=num_processes(),
        )

    def _begin_run(self, num_epochs: int | None, max_num_train_steps: int | None) -> None:
        """Set counters to the start of a run, and make its scheduler."""
        assert self.run_config is not None
        self._stop, self._turn, self._guard = None, None, None
        self._splitter = Splitter(self) if self.on_out_of_memory == "split" else None
        self._keeper.resumed = self._keeper.resumed_from = None
        self._feed = Feed()
        self._stepping = self._make_stepping()
        self._limits = num_epochs, max_num_train_steps
        self._optimizer_names = names_of(self.optimizer)
        self._first_epoch = self.run_history.current_epoch
        self._run_seed = self.seed
        self.progress = Progress(
            epoch=self._first_epoch,
            epochs=self.run_config.num_epochs,
            total_steps=self.run_config.max_num_train_steps,
        )
        self.seconds_training = self.seconds_waiting = 0.0
        scheduler = self.create_scheduler()
        if scheduler is not None or self.scheduler is self._scheduler_made:
            self.scheduler = self._scheduler_made = scheduler

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Hold what a run needs, and leave a usable trainer however it ends."""
        keeps_memory = self.keep_freed_memory and self.device.type == "cpu"
        self._is_running = True
        try:
            with (
                kept_buffers(keeps_memory),
                deterministic_algorithms(self.deterministic),
                self._stepping.running(),
            ):
                yield
        except BaseException as error:
            explain_lost_worker(error)
            self._abandon_update()
            self.callback_handler.call_event("on_run_interrupted", self)
            raise
        finally:
            self._is_running = False
            if self._guard is not None:
                self._guard.release()
            self._guard = None
            if self._splitter is not None:
                self._splitter.release()
            self.progress.phase = "idle"
            self._accumulation = Accumulation(1, None)
            self._micro_batch = self._num_items = None
            close_loader(self._train_dataloader)
            close_loader(self._eval_dataloader)

    def _refuse_inside_a_run(self, method: str) -> None:
        if self._is_running:
            raise RuntimeError(
                f"Trainer.{method} was called while this trainer is running. To evaluate during "
                "training use StepBasedEvaluationCallback, or Trainer.predict."
            )

    def _abandon_update(self) -> None:
        """Leave no gradients of an update that will not be completed, and stand before it."""
        if self.progress.phase != "train":
            return
        self.progress.micro_batch -= self._accumulation.num_waiting
        self._accumulation = Accumulation(1, None)
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        for optimizer in torch_optimizers_in(self.optimizer):
            optimizer.zero_grad()

    def _should_train_an_epoch(self) -> bool:
        num_epochs, _ = self._limits
        if num_epochs is not None and self.progress.epochs_done >= num_epochs:
            return False
        return not self._reached_max_steps()

    def _reached_max_steps(self) -> bool:
        _, max_steps = self._limits
        return max_steps is not None and self.progress.step >= max_steps

    def _begin_train_epoch(self) -> None:
        """Set the counters of an epoch to its start, unless it was resumed in its middle."""
        assert self.run_config is not None
        progress = self.progress
        progress.phase, progress.epoch = "train", self.run_history.current_epoch
        if not self._resumes_inside_epoch:
            progress.epoch_step = progress.micro_batch = 0
            self._loss_tracker, self._named_losses = LossTracker(), {}
        self._resumes_inside_epoch = False
        steps = self.run_config.gradient_accumulation_steps
        self._accumulation = Accumulation(steps, self.num_train_batches)
        for scheduler in optimizers_in(self.scheduler):
            if hasattr(scheduler, "begin_epoch"):
                scheduler.begin_epoch()

    def _report_train_step(self, batch: Any, output: Any) -> None:
        """Record the loss of a micro-batch and tell the callbacks."""
        self._reported = True
        progress = self.progress
        if isinstance(output, dict) and "loss" in output:
            self._num_items = count_of(output)
            self._track(self._loss_tracker, output["loss"], self._num_items)
        progress.samples += batch_size_of(output, batch)
        for listener in self.callback_handler.listeners("on_train_step_end"):
            listener(self, batch=batch, batch_output=output, step=progress.micro_batch)

    def _track(self, tracker: LossTracker, loss: torch.Tensor | float, count: Count) -> None:
        """Add a loss to a mean: on a CPU as a number, elsewhere without reading the device."""
        guard = self._guard
        if isinstance(loss, torch.Tensor):
            if not self._reads_losses_per_step:
                loss = loss.detach().mean() if loss.ndim else loss.detach()
                if guard is not None:
                    guard.note(self, loss)
                tracker.update(loss, count)
                return
            loss, count = loss.item() if loss.ndim == 0 else loss.mean().item(), int(count)
        if guard is not None and not isfinite(loss):
            guard.stop(self, f"the loss became {loss}")
        tracker.add(loss, count)

    def _record_train_losses(self) -> None:
        if self.progress.micro_batch == 0:
            warnings.warn(
                f"The training data gave no batch in epoch {self.progress.epoch}, so nothing was "
                "trained. Is it empty, or smaller than a batch with drop_last=True?",
                stacklevel=2,
            )
            if self._limits[0] is None:
                raise ValueError("The training data gives no batches, so the run would never end.")
        named = self._named_losses
        has_loss = not isinstance(self._loss_tracker.running_count, int)
        if has_loss or self._loss_tracker.running_count or not named:
            self.run_history.update_metric("train_loss_epoch", self._loss_tracker.average)
        for name, tracker in named.items():
            self.run_history.update_metric(f"train_{name}_loss_epoch", tracker.average)


class TrainerWithTimmScheduler(Trainer):
    """Steps a scheduler with the interface of timm's: after each update and after each epoch.

    That is `step_update(num_updates=...)` with the updates of the run so far, and `step(epoch)`
    with the epochs done.
    """

    def scheduler_step(self) -> None:
        """Tell the scheduler how many updates are done."""
        scheduler = self._in_turn(self.scheduler)
        if scheduler is not None:
            scheduler.step_update(num_updates=self.progress.step + 1)

    def training_run_epoch_end(self) -> None:
        """Tell the scheduler how many epochs are done."""
        super().training_run_epoch_end()
        for scheduler in optimizers_in(self.scheduler):
            if scheduler is not None:
                scheduler.step(self.progress.epochs_done)
