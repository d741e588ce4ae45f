"""AdamW with no decay where decay hurts, and the warm-up schedules."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from seqmix.errors import ConfigError
from seqmix.mixers import spared_parameters

Schedule = Literal["cosine", "constant"]


def adamw(module: nn.Module, lr: float, weight_decay: float, *, fused: bool) -> torch.optim.AdamW:
    """AdamW on the trainable parameters of ``module``, one update kernel for all of them where ``fused``."""
    return torch.optim.AdamW(param_groups(module, weight_decay), lr=lr, fused=fused)


def param_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Split the trainable parameters of ``module`` into those with and those without weight decay.

    Without: everything 1-D (norms, biases), and what a module inside names in ``no_weight_decay()``.
    """
    decay, rest, spared = [], [], spared_parameters(module)
    for name, p in module.named_parameters():
        if p.requires_grad:
            (rest if p.ndim < 2 or name in spared else decay).append(p)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def lr_factor(schedule: Schedule, warmup: float, total_steps: float) -> Callable[[int], float]:
    """Learning rate as a fraction of its peak: linear warm-up, then a half cosine to zero, or constant.

    Args:
        schedule: what follows the warm-up.
        warmup: length of the warm-up, as a fraction of all steps.
        total_steps: optimizer steps of the whole training; may be infinite for ``constant`` without warm-up.

    Raises:
        ConfigError: if the schedule needs an end and training has none.
    """
    if math.isinf(total_steps):
        if schedule == "cosine" or warmup > 0:
            raise ConfigError(
                f"schedule = {schedule!r} with warmup = {warmup} needs the end of training, max_epochs is -1; "
                "set trainer.max_epochs or trainer.max_steps, or use schedule = 'constant' with warmup = 0"
            )
        return lambda step: 1.0
    rise = math.ceil(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        if schedule == "constant":
            return 1.0
        done = (step - rise) / max(1, total_steps - rise)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    return factor
