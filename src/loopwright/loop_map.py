"""The map of the loop: every hook and event of a run, in the order in which they happen.

`Trainer.explain` prints it with what will really run, the documentation shows it, and a test
compares it with a run.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Line:
    """Is one line of the map."""

    depth: int
    kind: Literal["control", "hook", "event"]
    """A statement of the loop, a method of the trainer, or an event that callbacks hear."""
    name: str
    arguments: str = ""
    note: str = ""


def _hook(depth: int, name: str, arguments: str = "", note: str = "") -> Line:
    return Line(depth, "hook", name, arguments, note)


def _event(depth: int, name: str, arguments: str = "", note: str = "") -> Line:
    return Line(depth, "event", name, arguments, note)


def _control(depth: int, text: str) -> Line:
    return Line(depth, "control", text)


def _evaluation(depth: int) -> tuple[Line, ...]:
    return (
        _hook(depth, "eval_epoch_start"),
        _event(depth, "on_eval_epoch_start", "is_intermediate"),
        _control(depth, "for batch in eval_dl:"),
        _event(depth + 1, "on_eval_step_start"),
        _hook(depth + 1, "calculate_eval_batch_loss", "batch"),
        _event(depth + 1, "on_eval_step_end", "batch, batch_output"),
        _hook(depth, "eval_epoch_end"),
        _event(depth, "on_eval_epoch_end", "is_intermediate"),
    )


TRAINING = (
    _hook(0, "create_train_dataloader"),
    _hook(0, "create_eval_dataloader", note="with an evaluation dataset"),
    _hook(0, "create_scheduler"),
    _hook(0, "training_run_start"),
    _event(0, "on_training_run_start"),
    _control(0, "for epoch in epochs:"),
    _hook(1, "train_epoch_start"),
    _event(1, "on_train_epoch_start"),
    _control(1, "for batch in train_dl:"),
    _event(2, "on_train_step_start"),
    _hook(2, "train_step", "batch", "the five lines below are its default"),
    _hook(3, "calculate_train_batch_loss", "batch"),
    _event(3, "on_train_step_end", "batch, batch_output, step"),
    _hook(3, "backward_step", "loss"),
    _control(3, "if the update is complete:"),
    _hook(4, "optimizer_step"),
    _hook(4, "scheduler_step"),
    _hook(4, "optimizer_zero_grad"),
    _hook(1, "train_epoch_end"),
    _event(1, "on_train_epoch_end"),
    _control(1, "if there is an evaluation dataset:"),
    *_evaluation(2),
    _hook(1, "training_run_epoch_end"),
    _event(1, "on_training_run_epoch_end"),
    _control(0, "if StopTrainingError was raised:"),
    _event(1, "on_stop_training_error"),
    _hook(0, "training_run_end"),
    _event(0, "on_training_run_end"),
)
"""A training run."""

EVALUATION = (
    _hook(0, "create_eval_dataloader"),
    _hook(0, "evaluation_run_start"),
    _event(0, "on_evaluation_run_start"),
    *_evaluation(0),
    _hook(0, "evaluation_run_end"),
    _event(0, "on_evaluation_run_end"),
)
"""An evaluation run."""


def explain(
    kind: type, base: type, listeners: Callable[[str], Iterable[Any]], lines: Iterable[Line]
) -> str:
    """Return the map with what a kind of trainer does otherwise, and which callbacks listen.

    Args:
        kind: The class of the trainer.
        base: `Trainer`, whose own hooks are not named.
        listeners: Gives the methods that hear an event, in order.
        lines: `TRAINING` or `EVALUATION`.
    """

    def overridden(hook: str) -> str | None:
        owner = next(cls for cls in kind.__mro__ if hook in vars(cls))
        return None if issubclass(base, owner) else owner.__name__

    def names(event: str) -> list[str]:
        return [type(getattr(each, "__self__", each)).__name__ for each in listeners(event)]

    return render(lines, overridden=overridden, listeners=names)


def render(
    lines: Iterable[Line],
    *,
    overridden: Callable[[str], str | None] = lambda hook: None,
    listeners: Callable[[str], list[str]] = lambda event: [],
) -> str:
    """Return the map as text.

    Args:
        lines: `TRAINING` or `EVALUATION`.
        overridden: Gives the class that overrides a hook, or None.
        listeners: Gives the names of the callbacks that hear an event, in order.
    """
    return "\n".join(_render_line(line, overridden, listeners) for line in lines)


def _render_line(
    line: Line, overridden: Callable[[str], str | None], listeners: Callable[[str], list[str]]
) -> str:
    text = "    " * line.depth + line.name
    if line.kind == "control":
        return text
    notes = [line.note] if line.note else []
    if line.kind == "hook":
        owner = overridden(line.name)
        notes += [f"overridden in {owner}"] if owner else []
    else:
        notes += [" → ".join(names)] if (names := listeners(line.name)) else []
    comment = f"  # {'; '.join(notes)}" if notes else ""
    return f"{text}({line.arguments}){comment}"
