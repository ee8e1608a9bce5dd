"""Checks of what a trainer is given, before anything is done with it."""

import inspect
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.data import worker_init_fn
from loopwright.errors import NotSupportedError

PRECISIONS = ("fp32", "bf16", "fp16")
STEP_MODES = ("eager", "compile", "capture", "auto")


def check_modes(precision: str, step_mode: str) -> None:
    """Refuse settings that are unknown or come with a later version."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}.")
    if step_mode not in STEP_MODES:
        raise ValueError(f"step_mode is {step_mode!r}; expected one of {', '.join(STEP_MODES)}.")


def check_on_out_of_memory(answer: str) -> None:
    """Refuse what is no answer to running out of memory."""
    if answer not in ("stop", "split"):
        raise ValueError(f"on_out_of_memory is {answer!r}; expected 'stop' or 'split'.")


def check_checkpoint(checkpoint: object, run_dir: object) -> None:
    """Refuse what is no policy, and a policy for a run without a folder."""
    if checkpoint is None:
        return
    if not isinstance(checkpoint, CheckpointPolicy):
        raise TypeError(f"checkpoint is {checkpoint!r}; expected a CheckpointPolicy or None.")
    if run_dir is None:
        raise ValueError("A CheckpointPolicy needs a folder: give run_dir.")


def check_numbers(**counts: int | None) -> None:
    """Refuse counts below 1; None passes."""
    for name, value in counts.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} is {value!r}; expected a whole number.")
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more.")


def check_limits(num_epochs: int | None, max_num_train_steps: int | None) -> None:
    """Refuse a run without end."""
    if num_epochs is None and max_num_train_steps is None:
        raise ValueError("num_epochs and max_num_train_steps are both None; give one of them.")
    check_numbers(num_epochs=num_epochs, max_num_train_steps=max_num_train_steps)


def check_clipping(**limits: float | None) -> None:
    """Refuse limits for gradients that are not positive; None passes."""
    for name, value in limits.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}; expected a positive number, or None not to clip.")


def check_scheduler_fn(create_scheduler_fn: Any) -> None:
    """Refuse a scheduler where a function that makes one is expected."""
    functions = create_scheduler_fn
    if not isinstance(functions, Mapping):
        functions = {} if functions is None else {None: functions}
    for name, function in functions.items():
        if callable(function) and not hasattr(function, "optimizer"):
            continue
        where = "create_scheduler_fn" if name is None else f"create_scheduler_fn[{name!r}]"
        raise TypeError(
            f"{where} is a {type(function).__name__}; expected a function that takes the optimizer "
            "and returns a scheduler, such as functools.partial(StepLR, step_size=7), because the "
            "scheduler is made when the run starts."
        )


def check_optimizer(optimizer: Any) -> None:
    """Refuse optimizers that call the loss themselves."""
    for each in optimizers_in(optimizer):
        if not isinstance(each, torch.optim.Optimizer):
            continue
        closure = inspect.signature(type(each).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise NotSupportedError(
                f"{type(each).__name__}.step needs a closure that computes the loss again, which "
                "the loop does not offer. Use another optimizer, or override optimizer_step."
            )


def check_shared_parameters(
    optimizer: Any, gradient_accumulation_steps: int, on_out_of_memory: str
) -> None:
    """Refuse to add up gradients over micro-batches for a parameter that two optimizers train.

    Raises:
        ValueError: Its gradients for one would reach the other.
    """
    if gradient_accumulation_steps == 1 and on_out_of_memory == "stop":
        return
    owner: dict[int, str | None] = {}
    for name, each in zip(names_of(optimizer), optimizers_in(optimizer), strict=True):
        for group in getattr(each, "param_groups", ()):
            for parameter in group["params"]:
                other = owner.setdefault(id(parameter), name)
                if other != name:
                    raise ValueError(
                        f"The optimizers {other!r} and {name!r} share parameters, whose gradients "
                        "of several micro-batches would mix. Use gradient_accumulation_steps=1 and "
                        "on_out_of_memory='stop'."
                    )


def optimizers_in(optimizer: Any) -> Iterator[Any]:
    """Give the optimizer, or each one of a dict."""
    yield from optimizer.values() if isinstance(optimizer, Mapping) else (optimizer,)


def torch_optimizers_in(optimizer: Any) -> Iterator[torch.optim.Optimizer]:
    """Give those of them that are torch's; a hook of the user's may step another object."""
    return (each for each in optimizers_in(optimizer) if isinstance(each, torch.optim.Optimizer))


def names_of(optimizer: Any) -> tuple[str | None, ...]:
    """Return the names of the optimizers in a dict; one None for a single optimizer."""
    return tuple(optimizer) if isinstance(optimizer, Mapping) else (None,)


def require_dataset(name: str, dataset: Any, hook: str) -> None:
    """Refuse to make a loader of nothing."""
    if dataset is None:
        raise ValueError(f"There is no {name}. Give one, or override {hook}.")


def default_loader_options(
    batch_size: int, device: torch.device, *, shuffle: bool
) -> dict[str, Any]:
    """Return the arguments of a loader where the caller chose none.

    Workers are for datasets that make samples one by one; others do without.
    """
    num_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    return {
        "shuffle": shuffle,
        "batch_size": batch_size,
        "pin_memory": device.type == "cuda",
        "num_workers": max(1, (os.cpu_count() or 1) // max(1, num_devices)),
        "worker_init_fn": worker_init_fn,
    }


def loader_options(
    defaults: dict[str, Any], chosen: dict[str, Any] | None
) -> tuple[dict[str, Any], set[str]]:
    """Return the defaults updated by what the caller chose, and the names of that."""
    none_is_none = ("sampler", "batch_sampler")
    chosen = {k: v for k, v in (chosen or {}).items() if v is not None or k not in none_is_none}
    options = {**defaults, **chosen}
    if {"sampler", "batch_sampler"} & set(chosen) and "shuffle" not in chosen:
        options.pop("shuffle", None)
    if "batch_sampler" in chosen and "batch_size" not in chosen:
        options.pop("batch_size", None)
    return options, set(chosen)


def changed(options: dict[str, Any], defaults: dict[str, Any]) -> set[str]:
    """Return the names whose values a subclass changed from the defaults."""
    missing = object()
    return {name for name, value in options.items() if defaults.get(name, missing) != value}


def smaller_limit(
    num_epochs: int | None, max_steps: int | None, steps_per_epoch: int | None
) -> tuple[int | None, int | None]:
    """Return the epochs and the steps of a run, of which the smaller limit holds (P-54).

    None means unknown, or that the other one decides.
    """
    if not steps_per_epoch:
        return num_epochs, max_steps
    if num_epochs is not None:
        planned = num_epochs * steps_per_epoch
        max_steps = planned if max_steps is None else min(planned, max_steps)
    assert max_steps is not None
    return -(-max_steps // steps_per_epoch), max_steps
