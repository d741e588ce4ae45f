"""Separable convolution of ConvFormer in one dimension."""

import torch
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.conv import convolve, require_odd
from seqmix.mixers.mixer import Mixer, register, zero_masked


@register(paper="arXiv:2210.13452", cost="L", variants=({"expand": 1, "kernel_size": 3},))
class SepConv(Mixer):
    """Separable convolution of ConvFormer: pointwise, StarReLU, depthwise, pointwise.

    ``y = W2 conv(s relu(W1 x)^2 + b)``, with learned scalars s and b and no other bias.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D^2) time, O(L E) memory, E = expand D.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        expand: inner width over D, 2 in the paper.
        kernel_size: positions seen by the depthwise convolution, odd, 7 in the paper.
        star_scale: s at initialization; 0.8944 gives unit variance for normal input.
        star_bias: b at initialization; -0.4472 gives zero mean for normal input.

    Raises:
        ConfigError: if ``kernel_size`` is not odd and positive.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 2.2 and 2.3. Differs from the original code in: one axis instead of
    two; s and b start at the paper's constants, in the code at 1 and 0.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        expand: int = 2,
        kernel_size: int = 7,
        star_scale: float = 0.8944,
        star_bias: float = -0.4472,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, expand=expand)
        require_odd("kernel_size", kernel_size)
        E = expand * d_model
        self.pwconv1 = nn.Linear(d_model, E, bias=False)
        self.scale = nn.Parameter(torch.tensor(star_scale))
        self.bias = nn.Parameter(torch.tensor(star_bias))
        self.dwconv = nn.Conv1d(E, E, kernel_size, groups=E, bias=False)
        self.pwconv2 = nn.Linear(E, d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        u = self.pwconv1(zero_masked(x, mask))
        # StarReLU maps zero to b: mask again before the convolution
        u = zero_masked(self.scale * u.relu().square() + self.bias, mask)  # (B, L, E)
        return zero_masked(self.pwconv2(convolve(self.dwconv, u)), mask)
