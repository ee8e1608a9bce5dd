"""The events of a run: the base class of callbacks, and the handler that calls them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


class StopTrainingError(Exception):
    """Ends the run when a callback raises it: cleanly, with the events of a normal end."""

    is_failure = False
    """Whether the run's folder notes that the run failed rather than finished."""


class TrainerCallback:
    """Is the base of callbacks: override the events that matter, the others cost nothing.

    Each method gets the trainer first, and the keywords that its event names; write `**kwargs` at
    the end of the parameters, which takes the keywords that you do not need. Under gradient
    accumulation the `..._step_...` events fire for every micro-batch.
    """

    needs_eager_steps: bool = False
    """Whether the callback has to act in the middle of a step, which then is not captured."""

    def on_init_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Fires once, when the trainer is constructed; nothing is on its device yet."""

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        """Fires when loaders, scheduler and `run_config` are ready, before the first epoch."""

    def on_train_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
        """Fires before the first micro-batch of an epoch, in training mode."""

    def on_train_step_start(self, trainer: Trainer, **kwargs: Any) -> None:
        """Fires when a micro-batch was fetched; updates of earlier ones are complete."""

    def on_train_step_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Fires after the loss is calculated and recorded, before `backward_step`.

        Gradients of this micro-batch do not exist yet. With an overridden `train_step`, and in a
        captured step, it fires after the update.

        Keywords: `batch`, the micro-batch on the device; `batch_output`, what
        `calculate_train_batch_loss` returned; `step`, the index of the micro-batch in the epoch,
        from 0.
        """

    def on_train_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Fires after the last update of an epoch, with `train_loss_epoch` recorded."""

    def on_eval_epoch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Fires before the first batch of an evaluation, in evaluation mode.

        Keyword: `is_intermediate`, whether this evaluation interrupts a training epoch.
        """

    def on_eval_step_start(self, trainer: Trainer, **kwargs: Any) -> None:
        """Fires when a batch of evaluation was fetched."""

    def on_eval_step_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Fires after the loss of a batch of evaluation is calculated and recorded.

        Keywords: `batch` and `batch_output`, as in training.
        """

    def on_eval_epoch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Fires after the last batch of an evaluation, with its loss recorded.

        Keyword: `is_intermediate`, as at the start.
        """

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Fires after an epoch of training and its evaluation; `current_epoch` is still it."""

    def on_training_run_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Fires at the end of a run, also of one that `StopTrainingError` ended."""

    def on_evaluation_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        """Fires when the loader of `Trainer.evaluate` is ready."""

    def on_evaluation_run_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Fires at the end of `Trainer.evaluate`."""

    def on_stop_training_error(self, trainer: Trainer, **kwargs: Any) -> None:
        """Fires when `StopTrainingError` ends a run, before the events of its end."""


EVENTS = tuple(name for name in vars(TrainerCallback) if name.startswith("on_"))
"""The names of the documented events."""

_FOREIGN_NAMES = {
    "on_fit_start": "on_training_run_start",
    "on_fit_end": "on_training_run_end",
    "on_train_begin": "on_training_run_start",
    "on_train_start": "on_training_run_start",
    "on_train_end": "on_training_run_end",
    "on_epoch_begin": "on_train_epoch_start",
    "on_epoch_start": "on_train_epoch_start",
    "on_epoch_end": "on_training_run_epoch_end",
    "on_batch_begin": "on_train_step_start",
    "on_batch_end": "on_train_step_end",
    "on_step_begin": "on_train_step_start",
    "on_step_end": "on_train_step_end",
    "on_train_batch_begin": "on_train_step_start",
    "on_train_batch_start": "on_train_step_start",
    "on_train_batch_end": "on_train_step_end",
    "on_validation_start": "on_eval_epoch_start",
    "on_validation_end": "on_eval_epoch_end",
    "on_validation_epoch_end": "on_eval_epoch_end",
    "on_eval_start": "on_eval_epoch_start",
    "on_eval_end": "on_eval_epoch_end",
    "on_evaluate": "on_eval_epoch_end",
}
"""What events are called in other libraries, where a callback may have been written."""

_EVENT_KEYWORDS: dict[str, tuple[str, ...]] = {
    "on_train_step_end": ("batch", "batch_output", "step"),
    "on_eval_epoch_start": ("is_intermediate",),
    "on_eval_step_end": ("batch", "batch_output"),
    "on_eval_epoch_end": ("is_intermediate",),
}


class CallbackHandler:
    """Calls callbacks in the order given.

    Which callback implements an event is worked out once per event, so that an event nobody
    listens to costs one dictionary look-up.
    """

    def __init__(self, callbacks: Iterable[Any] = ()) -> None:
        self.callbacks: list[Any] = []
        self._listeners: dict[str, tuple[Callable[..., Any], ...]] = {}
        self.add_callbacks(callbacks)

    def add_callbacks(self, callbacks: Iterable[Any]) -> None:
        """Add callbacks, instances or classes, in order."""
        for callback in callbacks:
            self.add_callback(callback)

    def add_callback(self, callback: Any) -> None:
        """Add a callback, an instance or a class that is made without arguments.

        Raises:
            ValueError: One of its class is here already.
            TypeError: A method is named almost like an event, or cannot take its arguments.
        """
        instance = callback() if isinstance(callback, type) else callback
        if any(type(present) is type(instance) for present in self.callbacks):
            raise ValueError(
                f"A {type(instance).__name__} is among the callbacks already, and a trainer takes "
                f"one of each class. Present: {', '.join(self.callback_list)}. Subclass it if a "
                "second one is meant."
            )
        _check_methods(instance)
        self.callbacks.append(instance)
        self._listeners.clear()

    def clear_callbacks(self) -> None:
        """Remove all callbacks."""
        self.callbacks = []
        self._listeners.clear()

    @property
    def callback_list(self) -> list[str]:
        """The class names of the callbacks, in order."""
        return [type(callback).__name__ for callback in self.callbacks]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.callbacks)

    def listeners(self, event: str) -> tuple[Callable[..., Any], ...]:
        """Return the methods that will be called for `event`, in order."""
        methods = self._listeners.get(event)
        if methods is None:
            methods = tuple(
                getattr(callback, event)
                for callback in self.callbacks
                if _implements(callback, event)
            )
            self._listeners[event] = methods
        return methods

    def call_event(self, event: str, *args: Any, **kwargs: Any) -> None:
        """Call the method named `event` of every callback that has one.

        Any name may be used: callbacks without such a method are skipped.
        """
        methods = self._listeners.get(event)
        if methods is None:
            methods = self.listeners(event)
        for method in methods:
            method(*args, **kwargs)


def _implements(callback: Any, event: str) -> bool:
    method = getattr(callback, event, None)
    if method is None:
        return False
    return getattr(method, "__func__", method) is not getattr(TrainerCallback, event, None)


def _check_methods(callback: Any) -> None:
    """Refuse at registration what would otherwise be silent, or fail hours later."""
    owner = type(callback)
    for name in dir(owner):
        if not name.startswith("on_") or not callable(getattr(owner, name)):
            continue
        if name in EVENTS:
            _check_signature(callback, name)
            continue
        close = difflib.get_close_matches(name, EVENTS, n=1, cutoff=0.87)
        meant = _FOREIGN_NAMES.get(name) or (close[0] if close else None)
        if meant is not None:
            raise TypeError(
                f"{owner.__name__}.{name} is no event of a run, so it would never be called. "
                f"Did you mean {meant}? (An event of your own needs a name less alike.)"
            )


def _check_signature(callback: Any, event: str) -> None:
    keywords = _EVENT_KEYWORDS.get(event, ())
    signature = inspect.signature(getattr(callback, event))
    try:
        signature.bind(None, **dict.fromkeys(keywords))
    except TypeError as error:
        expected = ", ".join(("self", "trainer", *keywords, "**kwargs"))
        raise TypeError(
            f"{type(callback).__name__}.{event}{signature} cannot take the arguments of its event "
            f"({error}). Write it as `def {event}({expected})`."
        ) from None
