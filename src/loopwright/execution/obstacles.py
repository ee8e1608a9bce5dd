"""What keeps a step from being captured, found before anything is traced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from loopwright.execution.trees import PLAIN, others_in
from loopwright.train_arguments import optimizers_in

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

_INSIDE_A_STEP = ("update", "backward_step", "optimizer_step", "optimizer_zero_grad")


class NotCapturableError(Exception):
    """Tells in half a sentence why a step cannot be one program."""


def check_capturable(trainer: Trainer, base: type, batch: Any) -> None:
    """Refuse what would have to run in the middle of a step, or what no program could be given.

    Args:
        trainer: The trainer, prepared for its run.
        base: `Trainer`, whose own methods are known.
        batch: The first micro-batch.

    Raises:
        NotCapturableError: There is such a thing.
    """
    reason = next(_reasons(trainer, base, batch), None)
    if reason is not None:
        raise NotCapturableError(reason)


def _reasons(trainer: Trainer, base: type, batch: Any) -> Iterator[str]:
    if trainer.device.type not in ("cpu", "cuda"):
        yield f"the device {trainer.device.type} has no form of capture"
    if trainer.precision == "fp16":
        yield "fp16 reads the scale of the gradients from the device in every step; use bf16"
    yield from trainer._step_obstacles()
    if trainer.get_model(keep_torch_compile=False) is not trainer.model:
        yield "the model is wrapped by torch.compile already; give the model itself"
    if trainer._splitter is not None:
        yield "on_out_of_memory='split' may have to run a step in parts"
    for name in _INSIDE_A_STEP:
        if getattr(type(trainer), name) is not getattr(base, name) or name in vars(trainer):
            yield f"{type(trainer).__name__}.{name} has to run in the middle of a step"
    users = (*trainer._step_users, trainer.model, trainer.loss_func, *trainer.callback_handler)
    for each in users:
        if getattr(each, "needs_eager_steps", False):
            yield f"{type(each).__name__} has to run in the middle of a step"
    for module in modules_of(trainer):
        for name, part in module.named_modules():
            if _has_hooks(part):
                yield (
                    f"a hook on the module {name or type(part).__name__!r} has to run in the "
                    "middle of a step"
                )
    for optimizer in optimizers_in(trainer.optimizer):
        if not isinstance(optimizer, torch.optim.Optimizer):
            yield f"{type(optimizer).__name__} is no torch.optim.Optimizer"
        elif any(getattr(optimizer, name, None) for name in _OPTIMIZER_HOOKS):
            yield f"a hook on {type(optimizer).__name__} has to run in the middle of a step"
        elif any(map(_has_tensor_hooks, parameters_of(optimizer))):
            yield "a hook on a parameter has to run in the middle of a step"
    for each in others_in(batch):
        if not isinstance(each, PLAIN):
            yield (
                f"a batch holds a {type(each).__name__}, where a program would keep the values of "
                "the first; give tensors in tuples, lists or dicts"
            )


_MODULE_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_OPTIMIZER_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def _has_hooks(module: torch.nn.Module) -> bool:
    return any(getattr(module, name, None) for name in _MODULE_HOOKS)


def _has_tensor_hooks(tensor: torch.Tensor) -> bool:
    return any(getattr(tensor, name, None) for name in _TENSOR_HOOKS)


def modules_of(trainer: Trainer) -> list[torch.nn.Module]:
    """Return the modules that are attributes of a trainer: model, loss, others; each once."""
    values = (value for user in trainer._step_users for value in vars(user).values())
    return list(dict.fromkeys(each for each in values if isinstance(each, torch.nn.Module)))


def parameters_of(optimizer: Any) -> Iterator[torch.Tensor]:
    """Give the parameters of an optimizer."""
    for group in optimizer.param_groups:
        yield from group["params"]
