"""The TrainLoop: takes what a plain PyTorch script already has, and trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import torch

from loopwright.device import pick_device
from loopwright.errors import NotSupportedError
from loopwright.execution.report import StepMode, StepReport
from loopwright.loaders import length_of
from loopwright.loop_callbacks.base import AbstractCallback
from loopwright.loop_callbacks.messages import MessageService
from loopwright.loop_schedulers.base import AbstractScheduler
from loopwright.states import check_fits
from loopwright.tracking.training_history import TrainingHistory
from loopwright.tracking.uploads import finish_uploads
from loopwright.train_arguments import check_numbers, check_optimizer
from loopwright.trainloop.callbacks_handler import CallbacksHandler
from loopwright.trainloop.checkpoints import (
    checkpoint_of,
    exact_state,
    load_schedulers,
    load_weights,
)
from loopwright.trainloop.evaluating import Evaluating
from loopwright.trainloop.loop_trainer import LoopTrainer, Losses
from loopwright.trainloop.model import ModelWrap, TTModel
from loopwright.trainloop.multi_loss import MultiLoss, by_index
from loopwright.trainloop.parallel import TTDataParallel
from loopwright.trainloop.predictions import (
    ModelPredictionStore,
    append_predictions,
    torch_cat_transf,
)

GPU_MODES = ("single", "dp", "ddp")


class TrainLoop(Evaluating):
    """Trains a model over the loaders, with the optimizer and the criterion of a plain script.

    They are used as they are. It writes no files.

    Args:
        model: A `TTModel`, or a `ModelWrap` of a plain module.
        train_loader: Gives the batches of training.
        validation_loader: Gives those of the evaluation after each epoch; None does without.
        test_loader: Gives those of the evaluation at the end; None does without.
        optimizer: The optimizer of the model's parameters, or a `MultiOptimizer`.
        criterion: Handed to the model's `get_loss`; None where the model computes its own loss.
        collate_batch_pred_fn: Called with the predictions of a batch and a list; returns the list
            with them.
        pred_transform_fn: Makes the predictions for a loader of that list.
        end_auto_eval: Whether the losses of all loaders are evaluated after an epoch and at the
            end; an int evaluates every that many epochs, the first one included.
        lazy_experiment_save: Whether a folder is made only when there is something to save.
        print_callbacks: Whether `fit` lists the callbacks.
        gpu_mode: "single", or "dp" to split batches over the GPUs of this process.
        cuda_device_idx: Which GPU; without one in this machine it has no effect.
        use_amp: Mixed precision in fp16, or a dict of arguments of `torch.amp.GradScaler`; on a
            CPU it has no effect.
        step_mode: How a step is executed: "eager", "compile", "capture" or "auto", as in
            `loopwright.Trainer`.

    Raises:
        TypeError: The model is no `TTModel` and not wrapped.
        ValueError: `gpu_mode` or `step_mode` is not known, or there is no such GPU.
        NotSupportedError: `gpu_mode` is "ddp".
    """

    def __init__(
        self,
        model: TTModel | ModelWrap | TTDataParallel,
        train_loader: Any,
        validation_loader: Any,
        test_loader: Any,
        optimizer: Any,
        criterion: Any,
        collate_batch_pred_fn: Callable[..., Any] = append_predictions,
        pred_transform_fn: Callable[..., Any] = torch_cat_transf,
        end_auto_eval: bool | int = True,
        lazy_experiment_save: bool = False,
        print_callbacks: bool = False,
        gpu_mode: str = "single",
        cuda_device_idx: int | None = None,
        use_amp: bool | dict[str, Any] = False,
        *,
        step_mode: StepMode = "eager",
    ) -> None:
        _check_mode(gpu_mode)
        if isinstance(end_auto_eval, int) and not isinstance(end_auto_eval, bool):
            check_numbers(end_auto_eval=end_auto_eval)
        self.model, self.batch_model_feed_def = _model_and_feed(model)
        self.train_loader = train_loader
        self.validation_loader = validation_loader
        self.test_loader = test_loader
        self.optimizer = optimizer
        self.criterion = criterion
        self.collate_batch_pred_fn = collate_batch_pred_fn
        self.pred_transform_fn = pred_transform_fn
        self.end_auto_eval = end_auto_eval
        self.lazy_experiment_save = lazy_experiment_save
        self.print_callbacks = print_callbacks
        self.gpu_mode = gpu_mode
        self.use_amp = bool(use_amp) or isinstance(use_amp, dict)
        self.device = _device(cuda_device_idx)
        self.experiment_timestamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        """When the loop was made, which names its experiment."""
        self.epoch = 0
        """The epoch in work or trained last, from 0."""
        self.iteration = 0
        """The batch of the epoch in work, from 0."""
        self.total_iteration_idx = -1
        """The batch in work over all epochs, from 0."""
        self.num_epochs, self.num_iterations, self.grad_accumulation = 0, 0, 1
        self.loss_batch_accum: list[Any] = []
        """The losses of this epoch's batches, on the device."""
        self.early_stop = False
        """Set by a callback, it ends training after the epoch."""
        self.grad_cb_used = False
        """Set by a callback, the methods around the optimizer's step are called."""
        self.continues_from: dict[str, Any] | None = None
        """The state of a Trainer that `fit` goes on from."""
        self.train_history = TrainingHistory(has_validation=validation_loader is not None)
        self.prediction_store = ModelPredictionStore()
        self.message_service = MessageService()
        self.callbacks: list[AbstractCallback] = []
        self.callbacks_handler = CallbacksHandler(self)
        self.disabled_scaler = torch.amp.GradScaler(enabled=False)
        scaler_options = use_amp if isinstance(use_amp, dict) else {}
        uses_scaler = self.use_amp and self.device.type != "cpu"
        self.trainer = LoopTrainer(
            self, self.device, scaler_options if uses_scaler else None, step_mode
        )

    # ------------------------------------------------------------------------- training

    def fit(
        self,
        num_epochs: int = 0,
        num_iterations: int = 0,
        callbacks: list[AbstractCallback] | None = None,
        grad_accumulation: int = 1,
        *,
        dp_model_args: dict[str, Any] | None = None,
    ) -> Any:
        """Train, and return the trained model.

        Args:
            num_epochs: Epochs of this loop in all, those of an earlier `fit` included.
            num_iterations: In place of epochs: batches in all, over epochs if need be.
            callbacks: Join those that are registered already.
            grad_accumulation: Batches in an update of the optimizer; each weighs its share of the
                update's samples. The last update of an epoch takes what is left.
            dp_model_args: Arguments of `torch.nn.DataParallel` for `gpu_mode="dp"`.

        Raises:
            ValueError: Both or none of `num_epochs` and `num_iterations` are given, or they are
                reached already; there is no train_loader.
            RunInterrupted: SIGTERM, SIGHUP or SIGUSR1 ended a loop that saves models, after saving;
                for SIGINT it is KeyboardInterrupt.
        """
        self._check_fit(num_epochs, num_iterations, grad_accumulation)
        if dp_model_args is not None and self.gpu_mode != "dp":
            raise ValueError(f"dp_model_args is for gpu_mode='dp', and this is {self.gpu_mode!r}.")
        length = length_of(self.train_loader)
        if num_iterations and length:
            num_epochs = -(-num_iterations // length)
        self.num_epochs, self.num_iterations = num_epochs, num_iterations
        self.grad_accumulation = grad_accumulation
        self.early_stop = False
        if self.gpu_mode == "dp" and not isinstance(self.model, torch.nn.DataParallel):
            self.model = _data_parallel(self.model, dp_model_args or {})
        if self.use_amp and self.device.type == "cpu":
            self.trainer.print("use_amp has no effect on a CPU: training in the model's own type")
        self.callbacks_handler.register_callbacks(callbacks, print_callbacks=self.print_callbacks)
        self._check_not_reached()
        continues = self.continues_from is not None
        is_complete = False
        try:
            self.trainer.train(
                self.train_loader,
                num_epochs or None,
                max_num_train_steps=num_iterations or None,
                gradient_accumulation_steps=grad_accumulation,
                reset_run_history=False,
                resume="the state that continue_from was given" if continues else None,
            )
            is_complete = True
        finally:
            finish_uploads(self.trainer.print, is_stopping=not is_complete)
        self.continues_from = None
        return self.model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fit(*args, **kwargs)

    def _check_fit(self, num_epochs: int, num_iterations: int, grad_accumulation: int) -> None:
        if bool(num_epochs) == bool(num_iterations):
            raise ValueError(
                f"num_epochs is {num_epochs} and num_iterations is {num_iterations}; expected one "
                "of them, and the other left out."
            )
        check_numbers(num_epochs=num_epochs or None, num_iterations=num_iterations or None)
        check_numbers(grad_accumulation=grad_accumulation)
        if self.train_loader is None:
            raise ValueError("There is no train_loader, so there is nothing to train on.")
        check_optimizer(by_index(self.optimizer))

    def _check_not_reached(self) -> None:
        if self.continues_from is not None or self.trainer._should_train_an_epoch():
            return
        done, asked = self.total_iteration_idx + 1, f"num_iterations={self.num_iterations}"
        if not self.num_iterations:
            done, asked = self.epoch + 1, f"num_epochs={self.num_epochs}"
        raise ValueError(
            f"{asked} is reached: this loop has trained {done} already. Ask for more in all, or "
            "make a new TrainLoop."
        )

    def begin_epoch(self, epoch: int) -> None:
        """Count an epoch and tell the callbacks; the trainer calls it."""
        self.epoch, self.loss_batch_accum = epoch, []
        self.trainer.print(f"\nEpoch: {epoch}")
        self.callbacks_handler.execute("on_epoch_begin")

    def end_epoch(self, train_losses: Losses) -> None:
        """Record the losses of an epoch and tell the callbacks; the trainer calls it."""
        self._record("accumulated_loss", train_losses)
        every = self.end_auto_eval
        if every is True or (every and self.epoch % every == 0):
            self._record("loss", self.evaluate_loss_on_train_set())
            if self.validation_loader is not None:
                self._record("val_loss", self.evaluate_loss_on_validation_set())
        self.callbacks_handler.execute("on_epoch_end")
        self.message_service.end_of_epoch_trigger()

    def end_training(self) -> None:
        """Record the loss on the test data and tell the callbacks; the trainer calls it."""
        if self.test_loader is not None and self.end_auto_eval:
            self._record("train_end_test_loss", self.evaluate_loss_on_test_set())
        self.callbacks_handler.execute("on_train_end")

    def _record(self, name: str, losses: Losses) -> None:
        named = {name: losses}
        if isinstance(losses, MultiLoss):
            named = {f"{name}_{each}": loss for each, loss in losses.items()}
        for metric, loss in named.items():
            self.trainer.print(f"{metric}: {loss.item():.6g}")
            self.insert_metric_result_into_history(metric, loss.item())

    # ------------------------------------------------------------------- what callbacks use

    def insert_metric_result_into_history(self, metric_name: str, metric_result: Any) -> None:
        """Append a value to the list of a metric in the history."""
        self.train_history.insert_single_result_into_history(metric_name, metric_result)

    def get_schedulers(self) -> list[Any]:
        """Return the callbacks that are schedulers, in the order in which they run."""
        return [each for each in self.callbacks if isinstance(each, AbstractScheduler)]

    def get_num_training_steps(self) -> int:
        """Return how many updates of the optimizer `fit` was asked for.

        Raises:
            ValueError: `fit` was not called, or the length of the train loader is unknown.
        """
        length = length_of(self.train_loader)
        if not self.num_epochs or not length:
            raise ValueError(
                "The number of updates is known inside fit, for a train_loader that has a length."
            )
        updates_per_epoch = -(-length // self.grad_accumulation)
        if not self.num_iterations:
            return self.num_epochs * updates_per_epoch
        epochs, rest = divmod(self.num_iterations, length)
        return epochs * updates_per_epoch + -(-rest // self.grad_accumulation)

    def should_execute_optimizer_update(self) -> bool:
        """Tell whether the batch in work completes an update of the optimizer.

        That is every `grad_accumulation` batches, and at the last batch of an epoch of known
        length and of training.
        """
        done = self.iteration + 1
        is_last = done == length_of(self.train_loader)
        is_last |= bool(self.num_iterations) and self.total_iteration_idx + 1 == self.num_iterations
        return is_last or done % self.grad_accumulation == 0

    @property
    def is_inside_epoch(self) -> bool:
        """Whether a checkpoint of now goes on in the middle of an epoch."""
        return self.trainer.is_inside_epoch

    @property
    def step_report(self) -> StepReport | None:
        """How the steps of the last `fit` were executed, and why; None before its first batch."""
        return self.trainer.step_report

    def is_main_process(self) -> bool:
        """Tell whether this process is the one that writes: on one device it is."""
        return True

    @property
    def amp_scaler(self) -> torch.amp.GradScaler:
        """The gradient scaler, disabled without mixed precision; the first of several."""
        return next(iter(self.trainer._scalers.values()), self.disabled_scaler)

    # ----------------------------------------------------------------- saving, continuing

    def checkpoint_content(self, hyperparams: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what a saved model holds: plain values and tensors, loaded with `weights_only`.

        Args:
            hyperparams: An entry of it; what is no plain value is described in words, and secrets
                are masked.

        Raises:
            CheckpointError: Gradients wait for the rest of their update.
        """
        return checkpoint_of(self, hyperparams or {})

    def continue_from(self, content: dict[str, Any], *, allow_changes: bool = False) -> None:
        """Load a saved model, and let the next `fit` go on from it, to the same bits.

        A file that another program saved has weights, optimizer and counters alone: training goes
        on with the next epoch, in another order of samples.

        Args:
            content: What `checkpoint_content` returned.
            allow_changes: Go on with another `grad_accumulation`, precision or optimizer.

        Raises:
            CheckpointError: It does not fit.
        """
        self.continues_from = exact_state(content)
        if self.continues_from is None:
            load_weights(self, content)
            self.trainer.print("The saved model has no training state: its random states are new")
            return
        model = self.trainer.get_model(keep_torch_compile=False)
        check_fits(model, content["model_state_dict"], "the saved model")
        model.load_state_dict(content["model_state_dict"])
        if allow_changes:
            self.continues_from["settings"] = {}

    def load_schedulers(
        self, saved: list[Any], *, ignore_saved: bool = False, ignore_missing: bool = False
    ) -> None:
        """Load the states of the loop's schedulers; see `ModelLoadContinueTraining`."""
        load_schedulers(
            self.get_schedulers(), saved, ignore_saved=ignore_saved, ignore_missing=ignore_missing
        )

    def callbacks_with_state(self) -> Iterator[tuple[str, Any]]:
        """Give the callbacks that keep a state, but for schedulers, with their class names."""
        for callback in self.callbacks:
            if hasattr(callback, "state_dict") and not isinstance(callback, AbstractScheduler):
                yield type(callback).__name__, callback

    @property
    def loaders(self) -> tuple[Any, Any, Any]:
        """The loaders of training, validation and test data."""
        return self.train_loader, self.validation_loader, self.test_loader

    # ------------------------------------------------------------------- what models are asked

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method of the model, or of the feed definition with the model."""
        if self.batch_model_feed_def is None:
            return getattr(self.model, method)(*args)
        return getattr(self.batch_model_feed_def, method)(self.model, *args)

    def batch_size(self, batch: Any) -> int:
        """Return how many samples a batch holds."""
        size: int = (self.batch_model_feed_def or self.model).get_batch_size(batch)
        return size


def _check_mode(gpu_mode: str) -> None:
    if gpu_mode not in GPU_MODES:
        raise ValueError(f"gpu_mode is {gpu_mode!r}; expected one of {', '.join(GPU_MODES)}.")
    if gpu_mode == "ddp":
        raise NotSupportedError(
            "gpu_mode='ddp', a process for each GPU, is not available in this version. Use "
            "'single', or 'dp' for the GPUs of one process."
        )


def _model_and_feed(model: Any) -> tuple[Any, Any]:
    if isinstance(model, ModelWrap):
        return model.model, model.batch_model_feed_def
    if isinstance(model, (TTModel, TTDataParallel)):
        return model, None
    raise TypeError(
        f"The model is a {type(model).__name__}; expected a TTModel, or a ModelWrap of a plain "
        "module. Derive it from TTModel or TTBasicModel, which say how a batch becomes a loss."
    )


def _device(cuda_device_idx: int | None) -> torch.device:
    if cuda_device_idx is None or not torch.cuda.is_available():
        return pick_device(None)
    count = torch.cuda.device_count()
    if cuda_device_idx not in range(count):
        raise ValueError(f"cuda_device_idx is {cuda_device_idx}; expected 0 to {count - 1}.")
    return torch.device("cuda", cuda_device_idx)


def _data_parallel(model: Any, options: dict[str, Any]) -> Any:
    if isinstance(model, TTModel):
        return TTDataParallel(model, **options)
    return torch.nn.DataParallel(model, **options)
