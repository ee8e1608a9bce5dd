"""Stand-ins for numbers that are known only once a run starts, and their replacement."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Literal, NoReturn

_OPERAND_HINT = "a number, a TrainerPlaceholderValues or an expression of these"


class _Arithmetic:
    """Gives placeholders and expressions `*` and `+`, from both sides."""

    def __mul__(self, other: Any) -> PlaceholderExpression:
        return _combine("*", self, other)

    def __rmul__(self, other: Any) -> PlaceholderExpression:
        return _combine("*", other, self)

    def __add__(self, other: Any) -> PlaceholderExpression:
        return _combine("+", self, other)

    def __radd__(self, other: Any) -> PlaceholderExpression:
        return _combine("+", other, self)

    def __sub__(self, other: Any) -> NoReturn:
        raise NotImplementedError(_no_subtraction(self, other))

    def __rsub__(self, other: Any) -> NoReturn:
        raise NotImplementedError(_no_subtraction(other, self))


class TrainerPlaceholderValues(_Arithmetic, Enum):
    """Names numbers of a run that a scheduler may need before they are known.

    Given as an argument of a `functools.partial`, a placeholder is replaced by its number when
    the run starts:

    ```python
    create_scheduler_fn = partial(
        OneCycleLR,
        max_lr=0.1,
        epochs=TrainerPlaceholderValues.NUM_EPOCHS,
        steps_per_epoch=TrainerPlaceholderValues.NUM_UPDATE_STEPS_PER_EPOCH,
    )
    ```

    Placeholders can be multiplied and added, with numbers and with each other.
    """

    NUM_EPOCHS = "epochs that the run trains"
    NUM_UPDATE_STEPS_PER_EPOCH = "optimizer updates in an epoch"
    PER_PROCESS_NUM_UPDATE_STEPS_PER_EPOCH = "optimizer updates in an epoch that a process counts"
    TRAIN_DATALOADER_LEN = "micro-batches in an epoch of training"
    EVAL_DATALOADER_LEN = "batches in an epoch of evaluation"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class PlaceholderExpression(_Arithmetic):
    """Holds a product or a sum with placeholders in it until their numbers are known."""

    operation: Literal["*", "+"]
    left: Operand
    right: Operand

    def __str__(self) -> str:
        return f"({self.left} {self.operation} {self.right})"


class RunHistoryPlaceholder(Enum):
    """Stands for the history of the run that a scheduler is made for."""

    RUN_HISTORY = "the trainer's run history"


RUN_HISTORY: Any = RunHistoryPlaceholder.RUN_HISTORY
"""Replaced, like a number's placeholder, by the `run_history` of the trainer."""

Operand = float | TrainerPlaceholderValues | PlaceholderExpression
"""A number, or what will be one when the run starts (`float` stands for integers too)."""


def replace_trainer_placeholder_values(trainer: Any, instance: Any) -> Any:
    """Return `instance` with the numbers of the trainer's run in the place of placeholders.

    Looks into the positional and keyword arguments of a `functools.partial`, and into partials,
    lists and tuples among them. Everything else is passed on unchanged.

    Args:
        trainer: A trainer with its run configuration and loaders in place.
        instance: What may hold placeholders; anything but a partial is returned as it is.

    Raises:
        ValueError: A number is not known, such as the length of iterable data.
    """
    # `trainer` is Any because the file of the trainer imports this one.
    return _replace(trainer, instance) if isinstance(instance, partial) else instance


def _replace(trainer: Any, value: Any) -> Any:
    if isinstance(value, TrainerPlaceholderValues | PlaceholderExpression):
        return _evaluate(trainer, value)
    if value is RUN_HISTORY:
        return trainer.run_history
    if isinstance(value, partial):
        args = [_replace(trainer, item) for item in value.args]
        keywords = {name: _replace(trainer, item) for name, item in value.keywords.items()}
        return partial(value.func, *args, **keywords)
    if type(value) in (list, tuple):
        items = [_replace(trainer, item) for item in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return type(value)(items) if changed else value
    return value


def _evaluate(trainer: Any, operand: Operand) -> float:
    if isinstance(operand, TrainerPlaceholderValues):
        return _look_up(trainer, operand)
    if isinstance(operand, PlaceholderExpression):
        left, right = _evaluate(trainer, operand.left), _evaluate(trainer, operand.right)
        return left * right if operand.operation == "*" else left + right
    return operand


_RUN_CONFIG_FIELDS = {
    TrainerPlaceholderValues.NUM_EPOCHS: "num_epochs",
    TrainerPlaceholderValues.NUM_UPDATE_STEPS_PER_EPOCH: "num_update_steps_per_epoch",
    TrainerPlaceholderValues.PER_PROCESS_NUM_UPDATE_STEPS_PER_EPOCH: (
        "num_local_update_steps_per_epoch"
    ),
}


def _look_up(trainer: Any, placeholder: TrainerPlaceholderValues) -> float:
    if placeholder is TrainerPlaceholderValues.TRAIN_DATALOADER_LEN:
        return _length(trainer._train_dataloader, placeholder, "train_dataset")
    if placeholder is TrainerPlaceholderValues.EVAL_DATALOADER_LEN:
        return _length(trainer._eval_dataloader, placeholder, "eval_dataset")
    if trainer.run_config is None:
        raise _unknown(placeholder, "no run has been configured", "Use it in a call of train")
    number: float | None = getattr(trainer.run_config, _RUN_CONFIG_FIELDS[placeholder])
    if number is None:
        raise _unknown(
            placeholder,
            "the length of the training data is not known",
            "Give train(..., max_num_train_steps=...) or data with a length",
        )
    return number


def _length(loader: Any, placeholder: TrainerPlaceholderValues, dataset: str) -> int:
    if loader is None:
        raise _unknown(placeholder, f"there is no {dataset}", f"Give train(..., {dataset}=...)")
    try:
        return len(loader)
    except TypeError as error:
        raise _unknown(
            placeholder, f"the loader has no length ({error})", f"Give a {dataset} with a length"
        ) from error


def _unknown(placeholder: TrainerPlaceholderValues, reason: str, remedy: str) -> ValueError:
    return ValueError(
        f"The placeholder {placeholder} ({placeholder.value}) cannot be replaced: {reason}. "
        f"{remedy}, or put a number in the place of the placeholder."
    )


def _combine(operation: Literal["*", "+"], left: Any, right: Any) -> PlaceholderExpression:
    for operand in (left, right):
        if isinstance(operand, bool) or not isinstance(
            operand, int | float | TrainerPlaceholderValues | PlaceholderExpression
        ):
            raise TypeError(
                f"Cannot write {left} {operation} {right}: {operand!r} is a "
                f"{type(operand).__name__}, expected {_OPERAND_HINT}."
            )
    return PlaceholderExpression(operation, left, right)


def _no_subtraction(left: Any, right: Any) -> str:
    return (
        f"Placeholders cannot be subtracted ({left} - {right}). Rewrite it as an addition: "
        f"{left} + -1 * {right}."
    )
