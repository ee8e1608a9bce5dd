"""The callbacks of a TrainLoop, called in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from loopwright.loop_callbacks.base import AbstractCallback

_METHODS = tuple(name for name in vars(AbstractCallback) if name.startswith("on_"))


class CallbacksHandler:
    """Calls the methods that callbacks implement, by `execution_order`.

    Which callback implements what is worked out when one is registered.

    Args:
        train_loop_obj: The loop, whose `callbacks` lists those that are registered.
    """

    def __init__(self, train_loop_obj: Any) -> None:
        self.train_loop_obj = train_loop_obj
        self.callbacks_cache: list[AbstractCallback] = []
        """Callbacks that are registered with the next ones."""
        self._methods: dict[str, tuple[Callable[..., None], ...]] = dict.fromkeys(_METHODS, ())

    def register_callbacks(
        self,
        callbacks: Iterable[AbstractCallback] | None,
        cache_callbacks: bool = False,
        print_callbacks: bool = False,
    ) -> None:
        """Introduce callbacks to the loop.

        Args:
            callbacks: In the order in which those of equal `execution_order` run.
            cache_callbacks: Keep them until the next call without it.
            print_callbacks: Print all that are registered then.

        Raises:
            TypeError: One is no callback of a TrainLoop.
        """
        given = list(callbacks or ())
        for callback in given:
            _check(callback)
        self.callbacks_cache += given
        if cache_callbacks:
            return
        loop, fresh = self.train_loop_obj, self.callbacks_cache
        self.callbacks_cache = []
        loop.callbacks += [callback.register_train_loop_object(loop) for callback in fresh]
        loop.callbacks.sort(key=lambda callback: callback.execution_order)
        self._methods = {name: self._implementing(name) for name in _METHODS}
        if print_callbacks:
            self.print_registered_callback_names()

    def _implementing(self, name: str) -> tuple[Callable[..., None], ...]:
        base = getattr(AbstractCallback, name)
        methods = (getattr(callback, name) for callback in self.train_loop_obj.callbacks)
        return tuple(m for m in methods if getattr(m, "__func__", m) is not base)

    def methods(self, name: str) -> tuple[Callable[..., None], ...]:
        """Return the method of every callback that implements it, in order."""
        return self._methods[name]

    def execute(self, method: str, *args: Any) -> None:
        """Call a method of every callback that implements it."""
        for each in self._methods[method]:
            each(*args)

    def execute_train_begin(self) -> None:
        """Call `on_train_begin`."""
        self.execute("on_train_begin")

    def execute_train_end(self) -> None:
        """Call `on_train_end`."""
        self.execute("on_train_end")

    def execute_epoch_begin(self) -> None:
        """Call `on_epoch_begin`."""
        self.execute("on_epoch_begin")

    def execute_epoch_end(self) -> None:
        """Call `on_epoch_end`."""
        self.execute("on_epoch_end")

    def execute_batch_begin(self) -> None:
        """Call `on_batch_begin`."""
        self.execute("on_batch_begin")

    def execute_batch_end(self) -> None:
        """Call `on_batch_end`."""
        self.execute("on_batch_end")

    def execute_optimizer_step(self) -> None:
        """Call `on_after_optimizer_step`."""
        self.execute("on_after_optimizer_step")

    def execute_multiprocess_start(self) -> None:
        """Call `on_multiprocess_start`."""
        self.execute("on_multiprocess_start")

    def execute_gradient_update(self, optimizer_idx: int = 0) -> None:
        """Call `on_after_gradient_update`."""
        self.execute("on_after_gradient_update", optimizer_idx)

    def execute_after_batch_prediction(
        self, y_pred_batch: Any, y_test_batch: Any, metadata_batch: Any, dataset_info: Any
    ) -> None:
        """Call `on_after_batch_prediction`."""
        batch = y_pred_batch, y_test_batch, metadata_batch
        self.execute("on_after_batch_prediction", *batch, dataset_info)

    def print_registered_callback_names(self) -> None:
        """Print the callbacks, in order."""
        print("Callbacks:")
        for callback in self.train_loop_obj.callbacks:
            print(f"    {callback.callback_name}, order {callback.execution_order}")


def _check(callback: Any) -> None:
    if not isinstance(callback, AbstractCallback):
        name = callback.__name__ if isinstance(callback, type) else type(callback).__name__
        raise TypeError(
            f"{name} is no callback of a TrainLoop; expected instances of subclasses of "
            "loopwright.loop_callbacks.AbstractCallback."
        )
