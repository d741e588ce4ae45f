"""Communication between the processes of a run."""

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import lightning.pytorch as pl
import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from torch import Tensor, distributed

T = TypeVar("T")


def add_up(trainer: pl.Trainer, tensors: Sequence[Tensor]) -> None:
    """Add to each tensor, in place, those of the other processes."""
    if trainer.world_size > 1:
        for tensor in tensors:
            # the backend may know the memory of its device only
            total = tensor.to(trainer.strategy.root_device)
            distributed.all_reduce(total)
            tensor.copy_(total)


def largest(trainer: pl.Trainer, number: int) -> int:
    """The largest of the numbers of all processes."""
    if trainer.world_size == 1:
        return number
    found = torch.tensor(number, device=trainer.strategy.root_device)
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return int(found)


def gathered(trainer: pl.Trainer | None, value: T) -> list[T]:
    """The values of all processes, in their order."""
    if trainer is None or trainer.world_size == 1:
        return [value]
    found: list[T] = [value] * trainer.world_size
    distributed.all_gather_object(found, value)
    return found


def announce(message: str) -> None:
    """Have Lightning's watch over child processes, which kills this one when one of them has ended, say so first."""
    for thread in threading.enumerate():
        # a run that is fitted and tested says it once
        if isinstance(thread, _ChildProcessObserver) and not isinstance(thread._terminate_all, partial):
            thread._terminate_all = partial(_announced, thread._terminate_all, message)  # pyright: ignore[reportAttributeAccessIssue]


def _announced(end: Callable[[], None], message: str) -> None:
    # os.write, not print: the main thread may hold the lock of print
    os.write(2, f"{message}\n".encode())
    end()


def weight_of(trainer: pl.Trainer | None, n: int) -> float:
    """Weight of the loss of ``n`` examples, so that every example of all processes has equal weight."""
    if trainer is None or trainer.world_size == 1:
        return 1.0
    total = torch.tensor(float(n), device=trainer.strategy.root_device)
    distributed.all_reduce(total)
    return n * trainer.world_size / float(total)


def from_first(trainer: pl.Trainer, value: T) -> T:
    """The value of the first process."""
    return trainer.strategy.broadcast(value) if trainer.world_size > 1 else value
