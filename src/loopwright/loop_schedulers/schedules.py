"""Factors of the learning rate as functions of the optimizer's updates so far.

All rise linearly from 0 to 1 over `num_warmup_steps` updates; the others then fall to 0 at
`num_training_steps`.
"""

import math


def constant_with_warmup(step: int, *, num_warmup_steps: int) -> float:
    """Return the factor that stays at 1 after the warm-up."""
    return min(1.0, step / max(1, num_warmup_steps))


def linear_with_warmup(step: int, *, num_warmup_steps: int, num_training_steps: int) -> float:
    """Return the factor that falls in a line after the warm-up."""
    if step < num_warmup_steps:
        return constant_with_warmup(step, num_warmup_steps=num_warmup_steps)
    return max(0.0, 1.0 - _share_done(step, num_warmup_steps, num_training_steps))


def cosine_with_warmup(
    step: int, *, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5
) -> float:
    """Return the factor that follows `num_cycles` waves of a cosine after the warm-up."""
    if step < num_warmup_steps:
        return constant_with_warmup(step, num_warmup_steps=num_warmup_steps)
    done = _share_done(step, num_warmup_steps, num_training_steps)
    return max(0.0, 0.5 * (1.0 + math.cos(2.0 * math.pi * num_cycles * done)))


def cosine_with_hard_restarts(
    step: int, *, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5
) -> float:
    """Return the factor that falls along half a cosine `num_cycles` times after the warm-up."""
    if step < num_warmup_steps:
        return constant_with_warmup(step, num_warmup_steps=num_warmup_steps)
    done = _share_done(step, num_warmup_steps, num_training_steps)
    if done >= 1.0:
        return 0.0
    return 0.5 * (1.0 + math.cos(math.pi * (num_cycles * done % 1.0)))


def _share_done(step: int, num_warmup_steps: int, num_training_steps: int) -> float:
    return (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)
