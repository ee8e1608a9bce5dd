"""Events: who is called, in which order, and what is refused at registration."""

from typing import Any

import pytest
from tiny import tiny_trainer

from loopwright.events import EVENTS, CallbackHandler, TrainerCallback


def test_the_documented_events() -> None:
    """P-23, P-87."""
    assert set(EVENTS) == {
        "on_init_end",
        "on_training_run_start",
        "on_train_epoch_start",
        "on_train_step_start",
        "on_train_step_end",
        "on_train_epoch_end",
        "on_eval_epoch_start",
        "on_eval_step_start",
        "on_eval_step_end",
        "on_eval_epoch_end",
        "on_training_run_epoch_end",
        "on_training_run_end",
        "on_evaluation_run_start",
        "on_evaluation_run_end",
        "on_stop_training_error",
    }


class First(TrainerCallback):
    """Hears one event."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
        trainer.append(type(self).__name__)


class Second(First):
    """Hears the same one."""


def test_callbacks_run_in_the_order_given() -> None:
    """P-41, P-89: classes or instances."""
    calls: list[str] = []
    CallbackHandler([Second, First()]).call_event("on_train_epoch_start", calls)
    assert calls == ["Second", "First"]


def test_two_of_one_class_are_refused() -> None:
    """P-42: a subclass is another class."""
    with pytest.raises(ValueError, match="A First is among the callbacks already"):
        CallbackHandler([First, Second, First()])


def test_the_end_of_construction_is_heard() -> None:
    """P-43."""

    class Hearing(TrainerCallback):
        def on_init_end(self, trainer: Any, **kwargs: Any) -> None:
            self.trainer, self.progress = trainer, trainer.progress

    callback = Hearing()
    assert tiny_trainer(callbacks=[callback]) is callback.trainer


def test_custom_events() -> None:
    """P-90: any name, with any arguments; those without the method are skipped."""

    class Custom(TrainerCallback):
        def on_verse_end(self, *args: Any, **kwargs: Any) -> None:
            self.got = args, kwargs

        def after_all(self) -> None:
            self.done = True

    custom = Custom()
    handler = CallbackHandler([First, custom])
    handler.call_event("on_verse_end", 1, word="a")
    handler.call_event("after_all")
    handler.call_event("on_nobody_listens")
    assert custom.got == ((1,), {"word": "a"})
    assert custom.done


def test_the_handler() -> None:
    """P-91."""
    handler = CallbackHandler([First])
    handler.add_callback(Second)
    assert handler.callback_list == ["First", "Second"]
    assert [type(callback) for callback in handler] == [First, Second]
    assert len(handler.listeners("on_train_epoch_start")) == 2
    assert handler.listeners("on_train_step_end") == ()
    handler.clear_callbacks()
    assert list(handler) == []
    assert handler.listeners("on_train_epoch_start") == ()
    handler.add_callbacks([First, Second])
    assert len(handler.listeners("on_train_epoch_start")) == 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_train_epoch_ends", "on_train_epoch_end"),
        ("on_training_epoch_end", "on_train_epoch_end"),
        ("on_training_start", "on_training_run_start"),
        ("on_evaluation_start", "on_evaluation_run_start"),
        ("on_eval_step_begin", "on_eval_step"),
        ("on_train_batch_end", "on_train_step_end"),
        ("on_train_end", "on_train"),
        ("on_epoch_end", "epoch_end"),
    ],
)
def test_a_name_that_is_almost_an_event_is_refused(name: str, meant: str) -> None:
    callback = type("Mistaken", (TrainerCallback,), {name: lambda self, trainer, **kwargs: None})
    with pytest.raises(TypeError, match=f"Mistaken.{name} .*{meant}"):
        CallbackHandler([callback])


@pytest.mark.parametrize("name", ["on_verse_end", "on_checkpoint_uploaded", "on_generate"])
def test_other_names_are_events_of_ones_own(name: str) -> None:
    CallbackHandler([type("Own", (TrainerCallback,), {name: lambda self: None})])


def test_a_method_that_cannot_take_its_event_is_refused() -> None:
    """P-88: at registration rather than an hour into the run."""

    class TooFew(TrainerCallback):
        def on_train_step_end(self, trainer: Any) -> None:  # type: ignore[override]
            ...

    with pytest.raises(TypeError, match="TooFew.on_train_step_end.*batch, batch_output, step"):
        CallbackHandler([TooFew])


def test_a_callback_needs_no_base() -> None:
    class Duck:
        def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
            trainer.append("duck")

    calls: list[str] = []
    CallbackHandler([Duck]).call_event("on_train_epoch_start", calls)
    assert calls == ["duck"]
