"""Callbacks that list, run functions, train on a few batches, or look at predictions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from loopwright.loop_callbacks.base import AbstractCallback
from loopwright.results.arrays import to_array


class ListRegisteredCallbacks(AbstractCallback):
    """Prints the callbacks of the loop before training."""

    def __init__(self) -> None:
        super().__init__("List of callbacks")

    def on_train_begin(self) -> None:
        self.train_loop_obj.callbacks_handler.print_registered_callback_names()


class DataSubsetTestRun(AbstractCallback):
    """Trains on the first batches only, to try a script out.

    The batches are read once, when `fit` begins, and stay in memory.

    Args:
        num_train_batches: Batches of training.
        num_val_batches: Batches of validation; 0 leaves the loader as it is.
        num_test_batches: Likewise for the test loader.

    Raises:
        ValueError: A number is negative, or no batch is left to train on.
    """

    def __init__(
        self, num_train_batches: int = 1, num_val_batches: int = 0, num_test_batches: int = 0
    ) -> None:
        super().__init__("Training on the first batches", execution_order=-1000)
        numbers = num_train_batches, num_val_batches, num_test_batches
        if num_train_batches < 1 or min(numbers) < 0:
            raise ValueError(
                f"The numbers of batches are {numbers}; expected 1 or more for training, and 0 or "
                "more for validation and test."
            )
        self.num_batches = dict(
            zip(("train_loader", "validation_loader", "test_loader"), numbers, strict=True)
        )

    def on_train_loop_registration(self) -> None:
        wanted = {name: number for name, number in self.num_batches.items() if number}
        for name in wanted:
            if getattr(self.train_loop_obj, name) is None:
                raise ValueError(f"The loop has no {name} to take {wanted[name]} batches from.")
        for name, number in wanted.items():
            batches = list(islice(getattr(self.train_loop_obj, name), number))
            setattr(self.train_loop_obj, name, batches)


class FunctionOnTrainLoop(AbstractCallback):
    """Calls a function with the loop at chosen moments.

    Args:
        fn_to_execute: Called with the loop.
        tl_registration: When the loop takes the callback.
        epoch_begin: Before an epoch.
        epoch_end: After it.
        train_begin: Before the first epoch.
        train_end: After the last.
        batch_begin: Before a batch.
        batch_end: After it.
        after_gradient_update: Before the optimizer's step.
        after_optimizer_step: After it.
        execution_order: As in `AbstractCallback`.
        device_idx_execution: As in `AbstractCallback`.
    """

    def __init__(
        self,
        fn_to_execute: Callable[[Any], Any],
        tl_registration: bool = False,
        epoch_begin: bool = False,
        epoch_end: bool = False,
        train_begin: bool = False,
        train_end: bool = False,
        batch_begin: bool = False,
        batch_end: bool = False,
        after_gradient_update: bool = False,
        after_optimizer_step: bool = False,
        execution_order: int = 0,
        device_idx_execution: int | None = None,
    ) -> None:
        super().__init__("Function on the loop", execution_order, device_idx_execution)
        self.fn_to_execute = fn_to_execute
        self.tl_registration = tl_registration
        self.epoch_begin = epoch_begin
        self.epoch_end = epoch_end
        self.train_begin = train_begin
        self.train_end = train_end
        self.batch_begin = batch_begin
        self.batch_end = batch_end
        self.after_gradient_update = after_gradient_update
        self.after_optimizer_step = after_optimizer_step

    def execute_callback(self) -> None:
        """Call the function."""
        self.fn_to_execute(self.train_loop_obj)

    def on_train_loop_registration(self) -> None:
        if self.after_gradient_update or self.after_optimizer_step:
            self.train_loop_obj.grad_cb_used = True
        if self.tl_registration:
            self.execute_callback()

    def on_train_begin(self) -> None:
        if self.train_begin:
            self.execute_callback()

    def on_epoch_begin(self) -> None:
        if self.epoch_begin:
            self.execute_callback()

    def on_batch_begin(self) -> None:
        if self.batch_begin:
            self.execute_callback()

    def on_after_gradient_update(self, optimizer_idx: int) -> None:
        if self.after_gradient_update:
            self.execute_callback()

    def on_after_optimizer_step(self) -> None:
        if self.after_optimizer_step:
            self.execute_callback()

    def on_batch_end(self) -> None:
        if self.batch_end:
            self.execute_callback()

    def on_epoch_end(self) -> None:
        if self.epoch_end:
            self.execute_callback()

    def on_train_end(self) -> None:
        if self.train_end:
            self.execute_callback()


class AllPredictionsSame(AbstractCallback):
    """Tells when every prediction for the validation data is one value.

    Args:
        value: The value.
        stop_training: Whether training ends then.
        verbose: Whether it is printed.
    """

    def __init__(
        self, value: float = 0.0, stop_training: bool = False, verbose: bool = True
    ) -> None:
        super().__init__("All predictions the same")
        self.value = value
        self.stop_training = stop_training
        self.verbose = verbose

    def on_epoch_end(self) -> None:
        predictions, _, _ = self.train_loop_obj.predict_on_validation_set()
        if not bool((to_array(predictions) == self.value).all()):
            return
        if self.verbose:
            end = ": training ends" if self.stop_training else ""
            print(f"Every prediction for the validation data is {self.value}{end}")
        if self.stop_training:
            self.train_loop_obj.early_stop = True
