"""FNet: Fourier transforms as mixer, without parameters."""

import math

import torch
from torch import Tensor

from seqmix.mixers.mask import mix_by_length
from seqmix.mixers.mixer import Mixer, register
from seqmix.ops.wide import wide


@register(paper="arXiv:2105.03824", cost="L log L", variants=({"hidden": False},))
class FNet(Mixer):
    """Fourier transforms along the sequence and the width, without parameters.

    ``y = Re(F_seq(F_hidden(x)))``, unnormalized (eq. 3), that is ``C_L x C_D - S_L x S_D`` with the cosine and sine
    matrices of both axes. The transform sees the length: with a mask each sequence is transformed at its own length,
    rows of equal length together.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D (log L + log D)) time, O(L D) memory.

    Args:
        d_model: width D, any.
        max_len: unused, every length works; lengths with small prime factors are fastest.
        hidden: transform the width too, as in the paper; without it ``y = C_L x`` is a matrix mixer.

    Source: Lee-Thorp et al., 2021, arXiv:2105.03824, sec. 3.2. Differs from the original code in: nothing without a
    mask; the original mixes padding into every token. Half types are transformed in float32.
    """

    def __init__(self, d_model: int, max_len: int | None = None, *, hidden: bool = True):
        super().__init__(d_model, max_len)
        self.hidden, self.pure = hidden, not hidden

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform ``x: (B, L, D)`` along L, and along D if ``hidden``."""
        return mix_by_length(self._transform, x, mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Cosine matrix ``cos(2 pi i j / L)`` as ``(B, 1, L, L)``; for ``hidden=False`` only."""
        if self.hidden:
            raise TypeError("FNet mixes the width too, so no L x L matrix does it; build it with hidden=False")
        B, L, _ = x.shape
        i = torch.arange(L, device=x.device)
        # the product is taken modulo L in integers: the angle stays exact for every length
        angle = torch.outer(i, i).remainder(L).to(wide(x).dtype) * (2 * math.pi / L)
        return angle.cos().to(x.dtype).expand(B, 1, L, L)

    def _transform(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(wide(x)) if self.hidden else torch.fft.fft(wide(x), dim=1)
        return spectrum.real.to(x.dtype)
