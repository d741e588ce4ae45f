"""Identity mapping."""

import torch
from torch import Tensor

from seqmix.mixers.mixer import Mixer, register, zero_masked


@register(paper="arXiv:2210.13452", cost="L")
class Identity(Mixer):
    """Identity mapping, the mixer of IdentityFormer.

    ``y = x``.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: nothing.

    Args:
        d_model: width D, any.
        max_len: unused, every length works.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 2.2. Differs from the original code in: nothing.
    """

    causal = True
    pure = True
    pointwise = True

    def __init__(self, d_model: int, max_len: int | None = None):
        super().__init__(d_model, max_len)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, state: None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, None]:
        """Return ``x: (B, L, D)``, zero where masked; with ``return_state`` the state too, which is None."""
        y = zero_masked(x, mask)
        return (y, None) if return_state else y

    def matrix(self, x: Tensor) -> Tensor:
        """Identity matrix as ``(B, 1, L, L)``."""
        B, L, _ = x.shape
        return torch.eye(L, dtype=x.dtype, device=x.device).expand(B, 1, L, L)
