"""How the steps of a `LightningModule` become programs, or run compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from loopwright.adapters.lightning.results import LoggedAgain
from loopwright.adapters.lightning.unreadable import Unreadable, UnreadableTrainer, refuse
from loopwright.adapters.lightning.upstream import LightningModule, from_compiled, to_uncompiled
from loopwright.errors import NotSupportedError
from loopwright.execution.obstacles import NotCapturableError
from loopwright.execution.torch_internals import COMPILE_OPTIONS

if TYPE_CHECKING:
    from loopwright.adapters.lightning.engine import Engine

_INSIDE_A_STEP = (
    "on_before_zero_grad",
    "optimizer_zero_grad",
    "on_before_backward",
    "backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "configure_gradient_clipping",
    "optimizer_step",
)


def obstacles(engine: Engine) -> Iterator[str]:
    """Give the reasons, in half a sentence each, why a step cannot be one program."""
    if not engine.model.automatic_optimization:
        yield "manual optimization runs backward and optimizers where it likes"
    if not engine.optimizer:
        yield "there is no optimizer"
    if not engine._is_plain:
        yield f"precision {engine.owner.precision!r} is a plugin's, and has to run inside a step"
    if engine.model._compiler_ctx is not None:
        yield "the module is compiled already; give the module itself"
    for name in filter(engine.hooks.is_used, _INSIDE_A_STEP):
        yield f"the hook {name} has to run in the middle of a step"


@contextmanager
def compiled(module: Any) -> Iterator[None]:
    """Let a module's steps run compiled, as Lightning compiles them.

    Raises:
        NotSupportedError: The module is compiled already.
    """
    if module._compiler_ctx is not None:
        raise NotSupportedError(
            "step_mode='compile' compiles the steps of a module, and this one is compiled already. "
            "Give it as it was before, or keep your way of compiling it with step_mode='eager'."
        )
    attributes = set(vars(module))
    from_compiled(torch.compile(module, options=COMPILE_OPTIONS))
    try:
        # Compiled, the checks in `log` fail.
        with _logging_by(_modules_of(module), lambda each: torch.compiler.disable(each.log)):
            yield
    finally:
        to_uncompiled(module)
        for name in vars(module).keys() - attributes:
            del vars(module)[name]


@contextmanager
def recorded(engine: Engine) -> Iterator[None]:
    """Let a step be recorded: what it logs is logged after each program of it too.

    Raises:
        NotCapturableError: It used what a program would not see change, and went on.
    """
    refused: list[str] = []
    modules = _modules_of(engine.model)
    trainers = [vars(each)["_trainer"] for each in modules]
    for each in modules:
        vars(each)["_trainer"] = UnreadableTrainer(refused)
    engine._stand_in = Unreadable("batch_idx", refused)
    try:
        with _logging_by(modules, lambda each: partial(_log_later, engine, each, refused)):
            yield
    finally:
        engine._stand_in = None
        for each, trainer in zip(modules, trainers, strict=True):
            vars(each)["_trainer"] = trainer
    if refused:
        raise NotCapturableError(refused[0])


def _modules_of(module: Any) -> list[Any]:
    return [each for each in module.modules() if isinstance(each, LightningModule)]


@contextmanager
def _logging_by(modules: list[Any], log_of: Callable[[Any], Any]) -> Iterator[None]:
    """Put something in the place of `log` of modules; one may have its own there."""
    before = [{name: log for name, log in vars(each).items() if name == "log"} for each in modules]
    for each in modules:
        vars(each)["log"] = log_of(each)
    try:
        yield
    finally:
        for each, own in zip(modules, before, strict=True):
            del vars(each)["log"]
            vars(each).update(own)


def _log_later(
    engine: Engine,
    module: Any,
    refused: list[str],
    /,
    name: str,
    value: Any,
    *given: Any,
    **options: Any,
) -> None:
    if not isinstance(value, torch.Tensor) or options.get("enable_graph"):
        refuse(
            f"the step logs {name!r}, of which a program would not see the next value; log it "
            "in on_train_batch_end, or as a tensor",
            refused,
        )
    if any(isinstance(each, torch.Tensor) for each in (*given, *options.values())):
        refuse(
            f"the step logs {name!r} with a tensor as an option, of which a program would not see "
            "the next value; log it in on_train_batch_end",
            refused,
        )
    again = LoggedAgain(module, engine.hooks, name, *given, **options)
    engine._note(again, value.detach().clone().squeeze())  # before an update of a parameter
