"""Optimizers with learning-rate schedule, weight-decay groups and layer-wise decay."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

import torch
from jsonargparse import lazy_instance  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

from seqmix.errors import ConfigError, check_choice
from seqmix.mixers import spared_parameters
from seqmix.tasks._lamb import Lamb

Schedule = Literal["cosine", "constant"]
Groups = list[dict[str, Any]]


class Optim(ABC):
    """Optimizer and learning-rate schedule.

    Args:
        lr: peak learning rate.
        weight_decay: decay of matrices; norms, biases and state-space rates are never decayed.
        warmup: length of the linear warm-up, as a fraction of all optimizer steps.
        schedule: ``cosine`` falls to zero over all optimizer steps, ``constant`` stays.
        layer_decay: ratio of the learning rate of each block to that of the next, 1 for equal rates. Only for models
            with ordered blocks.

    Raises:
        ConfigError: if an option is out of range.
    """

    def __init__(
        self,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup: float = 0.0,
        schedule: Schedule = "cosine",
        layer_decay: float = 1.0,
    ):
        check_choice("schedule", schedule, ("cosine", "constant"))
        if not 0 <= warmup < 1:
            raise ConfigError(f"warmup is a fraction of all steps, 0 <= warmup < 1, got {warmup}; use for example 0.1")
        if not 0 < lr < math.inf:
            raise ConfigError(f"lr must be positive, got {lr}; use for example 5e-4")
        if not 0 <= weight_decay < math.inf:
            raise ConfigError(f"weight_decay must not be negative, got {weight_decay}; use for example 0.01")
        if not 0 < layer_decay <= 1:
            raise ConfigError(f"layer_decay is a factor, 0 < layer_decay <= 1, got {layer_decay}; use 0.8, or 1")
        self.lr, self.weight_decay, self.warmup, self.layer_decay = lr, weight_decay, warmup, layer_decay
        self.schedule: Schedule = schedule

    @abstractmethod
    def make(self, groups: Groups, *, fused: bool) -> torch.optim.Optimizer:
        """Make the optimizer of groups of parameters; ``fused`` allows one update kernel for all of them."""

    def groups(self, module: nn.Module, depths: Mapping[str, int] | None = None) -> Groups:
        """Groups of the trainable parameters of ``module``; ``depths`` is the number of the block of each name."""
        groups = param_groups(module, self.weight_decay)
        if self.layer_decay == 1 or depths is None:
            return groups
        depth_of, head = {p: depths.get(name) for name, p in module.named_parameters()}, max(depths.values())
        split = []
        for group in groups:
            for depth in range(head + 1):
                members = [p for p in group["params"] if (head if depth_of[p] is None else depth_of[p]) == depth]
                if members:
                    split.append({**group, "params": members, "lr": self.lr * self.layer_decay ** (head - depth)})
        return split

    def factor(self, total_steps: float) -> Callable[[int], float]:
        """Learning rate of each step as a fraction of its peak, in a training of ``total_steps``."""
        return lr_factor(self.schedule, self.warmup, total_steps)


class AdamW(Optim):
    """AdamW (Loshchilov and Hutter, 2017, arXiv:1711.05101). Options are those of ``Optim``."""

    def make(self, groups: Groups, *, fused: bool) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=self.lr, fused=fused)


class LAMB(Optim):
    """LAMB (You et al., 2019, arXiv:1904.00962), for large batches. Options are those of ``Optim``."""

    def make(self, groups: Groups, *, fused: bool) -> torch.optim.Optimizer:
        return Lamb(groups, lr=self.lr)


def default_optim(kind: type[Optim], **options: Any) -> Optim:
    """Make the default of a task, of which the command line can change one option and keep the others."""
    optim = _lazy(kind)(kind, options)
    # it is complete after the first call of a method
    optim.factor(1)
    return optim


@cache
def _lazy(kind: type[Optim]) -> Any:
    """The class of jsonargparse's lazy instances of ``kind``: making one looks through every loaded module."""
    return type(lazy_instance(kind))


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
