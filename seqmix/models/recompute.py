"""Activation checkpointing: exact recomputation of a module in the backward pass."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, *args: Any, enable: bool = True, **kwargs: Any) -> Any:
    """Call ``module``, to be recomputed in the backward pass: less memory, more time.

    Buffers that it updates in training (running statistics, codebooks) are updated once, and the second pass sees them
    as the first one did.

    Args:
        module: the module.
        *args: its arguments.
        enable: False calls it as usual.
        **kwargs: its arguments by name.
    """
    if not enable or not torch.is_grad_enabled():
        return module(*args, **kwargs)
    options: dict[str, Any] = {"use_reentrant": False}
    # compiled code recomputes functions of the old buffers anyway
    if module.training and not torch.compiler.is_compiling() and next(module.buffers(), None) is not None:
        options["context_fn"] = partial(_contexts, module)
    return checkpoint(module, *args, **kwargs, **options)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    updated: list[tuple[nn.Module, str, Tensor]] = []
    return _first(module, updated), _again(updated)


@contextmanager
def _first(module: nn.Module, updated: list[tuple[nn.Module, str, Tensor]]) -> Iterator[None]:
    """Add the buffers that change, with a copy from before."""
    buffers = [(m, name, b) for m in module.modules() for name, b in m.named_buffers(recurse=False)]
    before = [(b.clone(), b._version) for _, _, b in buffers]
    yield
    for (owner, name, buffer), (copy, version) in zip(buffers, before, strict=True):
        # the kernel of batch norms does not count its updates
        changed = isinstance(owner, _BatchNorm) or buffer._version != version
        if changed or owner._buffers[name] is not buffer:
            updated.append((owner, name, copy))


@contextmanager
def _again(updated: list[tuple[nn.Module, str, Tensor]]) -> Iterator[None]:
    """Put copies in the place of the buffers."""
    now = [owner._buffers[name] for owner, name, _ in updated]
    for owner, name, copy in updated:
        owner._buffers[name] = copy.clone()
    try:
        yield
    finally:
        for (owner, name, _), buffer in zip(updated, now, strict=True):
            owner._buffers[name] = buffer
