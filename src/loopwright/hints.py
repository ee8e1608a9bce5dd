"""Lines of advice that a run prints: what was measured, and what would pay."""

from typing import Any

import torch


def fused_hint(optimizer: Any, device: torch.device) -> str | None:
    """Return a line when the optimizer has a fused form for this device that is not in use."""
    defaults = getattr(optimizer, "defaults", None)
    if not isinstance(defaults, dict) or "fused" not in defaults:
        return None
    groups = optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    plain = all(p.is_floating_point() and not p.is_sparse for p in parameters)
    usable = not any(group.get(key) for group in groups for key in ("fused", "differentiable"))
    if not (plain and usable and device.type in ("cpu", "cuda", "mps", "xpu")):
        return None
    name = type(optimizer).__name__
    return f"Tip: {name}(..., fused=True) updates all parameters in one call, which is faster here."


def bottleneck_hint(seconds_waiting: float, seconds_total: float, num_workers: int | None) -> str:
    """Return a line that says whether training waited for data or for the model, and how much.

    Args:
        seconds_waiting: Time in which the loop had no batch to work on.
        seconds_total: Time of all training epochs, evaluation not included.
        num_workers: Workers of the loader; None for data that is batched by index in memory.
    """
    share = seconds_waiting / seconds_total if seconds_total else 0.0
    if share < 0.5:
        return f"Bottleneck: the model's step, {1 - share:.0%} of training (data: {share:.0%})."
    line = f"Bottleneck: data, the loop waited {share:.0%} of training for batches."
    if num_workers is None:
        return line
    return (
        f"{line} It had {num_workers} workers: try train_dataloader_kwargs={{'num_workers': ...}}."
    )
