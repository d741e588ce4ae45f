"""Root mean square norms as modules, for gated mixers and for blocks."""

import torch
from torch import Tensor, nn

from seqmix.ops import rms_norm


class RMSNorm(nn.RMSNorm):
    """``nn.RMSNorm`` over the last axis with an optional gate, compiled where it runs on a CPU.

    Shapes: ``(..., D) -> (..., D)``. Cost: O(D) per position.

    Args:
        d_model: channels D.
        gate_first: multiply by ``SiLU(z)`` before the norm, not after it.
        groups: number of groups of channels that are normalized separately.

    Source: Zhang and Sennrich, 2019, arXiv:1910.07467. Differs from the original code in: none.
    """

    eps: float

    def __init__(self, d_model: int, *, gate_first: bool = False, groups: int = 1):
        super().__init__(d_model, eps=1e-5)
        self.gate_first, self.groups = gate_first, groups

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Norm each position of ``x``; ``z`` is the gate, of the same shape."""
        return rms_norm(x, self.weight, z, eps=self.eps, gate_first=self.gate_first, groups=self.groups)


class ScaleNorm(nn.Module):
    """Root mean square norm with one learned scale (arXiv:1910.05895).

    Args:
        d_model: width D.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.rms = nn.RMSNorm(d_model, eps=1e-6, elementwise_affine=False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last axis of ``x: (..., D)``."""
        return self.scale * self.rms(x)


class HeadNorm(nn.Module):
    """Layer norm of each head by itself, with a weight per channel and no bias.

    Args:
        width: channels E of all heads.
        heads: number of heads, which divides E.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last axis of ``x: (..., E)``."""
        heads = x.unflatten(-1, (self.heads, -1))
        return nn.functional.layer_norm(heads, heads.shape[-1:], eps=1e-5).flatten(-2) * self.weight
