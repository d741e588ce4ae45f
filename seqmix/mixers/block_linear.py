"""Block-diagonal linear layers, of mixers whose heads have maps of their own."""

import torch
from torch import Tensor, nn


class BlockLinear(nn.Module):
    """A linear layer with a block-diagonal matrix.

    Args:
        width: channels E, in and out.
        blocks: number of blocks.
        bias: add a bias.
    """

    def __init__(self, width: int, blocks: int, *, bias: bool = True):
        super().__init__()
        size = width // blocks
        self.weight = nn.Parameter(torch.randn(blocks, size, size) * size**-0.5)  # (block, out, in)
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x: (..., E)``."""
        blocks = x.unflatten(-1, (len(self.weight), -1))
        y = torch.einsum("...hi,hoi->...ho", blocks, self.weight).flatten(-2)
        return y if self.bias is None else y + self.bias
