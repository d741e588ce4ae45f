"""Adaptive frequency filter of AFFNet in one dimension."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.mask import mix_by_length
from seqmix.mixers.mixer import Mixer, register
from seqmix.ops.spectral import adaptive_filter


@register(paper="arXiv:2307.14008", cost="L log L", variants=({"activation": nn.ReLU, "residual": False},), n_blocks=2)
class AFF(Mixer):
    """Adaptive frequency filter: a convolution over the whole sequence with a data-dependent kernel.

    ``y = x + irfft(M(U) U)`` with ``U = rfft(x)``, orthonormal, and ``M = shrink(W2 act(W1 U + b1) + b2)`` at each
    frequency. With a mask each sequence is transformed at its own length, rows of equal length together.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D (log L + D / n_blocks)) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works; lengths with small prime factors are fastest.
        n_blocks: diagonal blocks of the layers, 8 in the paper.
        activation: class of the nonlinearity; SiLU in the released models, ReLU in some descriptions.
        threshold: soft-shrinkage of M, in units of its entries.
        residual: add the input inside the mixer, as the original does.

    Raises:
        ConfigError: if ``d_model`` is not a multiple of ``n_blocks``.

    Source: Huang et al., 2023, arXiv:2307.14008, sec. 3.2. Differs from the original code in: one axis instead of two;
    float64 stays float64, other types are transformed in float32 as there.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        n_blocks: int = 8,
        activation: Callable[[], nn.Module] = nn.SiLU,
        threshold: float = 0.01,
        residual: bool = True,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, n_blocks=n_blocks)
        check_at_least(0, threshold=threshold)
        if d_model % n_blocks:
            raise ConfigError(f"d_model = {d_model} is not a multiple of n_blocks = {n_blocks}; change one of them")
        self.act, self.threshold, self.residual = activation(), threshold, residual
        width = d_model // n_blocks
        self.w1, self.w2 = (nn.Parameter(0.02 * torch.randn(2, n_blocks, width, width)) for _ in range(2))
        self.b1, self.b2 = (nn.Parameter(0.02 * torch.randn(2, n_blocks, width)) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return mix_by_length(self._filter, x, mask)

    def _filter(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            U = torch.fft.rfft(x.to(wide), dim=1, norm="ortho")  # (B, F, D)
            layers = (p.to(wide) for p in (self.w1, self.b1, self.w2, self.b2))
            U = adaptive_filter(U, *layers, activation=self.act, threshold=self.threshold)
            y = torch.fft.irfft(U, n=x.shape[1], dim=1, norm="ortho").to(x.dtype)
        return x + y if self.residual else y
