"""Stages of image models: blocks one after another, computed again in the backward pass where memory is short."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Stage(nn.Sequential):
    """Blocks one after another on a map; its output is a feature map of the model, which hooks can read.

    Shapes: ``(B, C, H, W) -> (B, C', H', W')``.

    Args:
        *blocks: the blocks.
        channels_last: the blocks take and give ``(B, H, W, C)``.
    """

    def __init__(self, *blocks: nn.Module, channels_last: bool):
        super().__init__(*blocks)
        self.channels_last, self.grad_checkpointing = channels_last, False

    def forward(self, input: Tensor) -> Tensor:
        """Apply the blocks to ``input: (B, C, H, W)``."""
        x = input.permute(0, 2, 3, 1) if self.channels_last else input
        for block in self:
            x = recomputed(block, x, self.grad_checkpointing)
        return x.permute(0, 3, 1, 2) if self.channels_last else x


def recomputed(block: nn.Module, x: Tensor, enable: bool) -> Tensor:
    """Apply a block; where ``enable`` is true it is computed again in the backward pass, which keeps less memory."""
    if enable and torch.is_grad_enabled():
        return checkpoint(block, x, use_reentrant=False, context_fn=partial(_contexts, block))
    return block(x)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), _counted_already(block)


@contextmanager
def _counted_already(block: nn.Module) -> Iterator[None]:
    """Keep running statistics of batch norms as they are: the first pass has counted the batch."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
