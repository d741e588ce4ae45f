"""Random mixing of RandFormer: tokens are averaged with weights that are drawn once and never learned."""

import torch
from torch import Tensor

from seqmix.mixers.mask import mix_aligned
from seqmix.mixers.mixer import Mixer, check_length, register, require_max_len


@register(paper="arXiv:2210.13452", cost="L^2")
class Rand(Mixer):
    """Random mixing: a frozen matrix whose rows sum to one.

    ``y = R x`` with ``R = softmax(U)``, U uniform in (0, 1) (eq. 5), the same for all channels.

    Shapes: ``(B, L, D) -> (B, L, D)``, ``L <= max_len``; shorter sequences use the top-left block, its rows scaled to
    the sum they had. Cost: O(L^2 D) time, O(L D) memory.

    Args:
        d_model: width D, any.
        max_len: longest sequence, and size of R.

    Raises:
        ConfigError: if ``max_len`` is missing.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 2.2. Differs from the original code in: R is a buffer, there a
    frozen parameter, under the same key; shorter sequences are accepted.
    """

    pure = True

    def __init__(self, d_model: int, max_len: int | None = None):
        super().__init__(d_model, max_len)
        self.max_len = require_max_len(self, max_len, "an L x L matrix")
        self.random_matrix: Tensor
        self.register_buffer("random_matrix", torch.rand(self.max_len, self.max_len).softmax(-1))  # (L, L)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_length(self, x, self.max_len)
        # an extra channel of ones collects the weight that each row has on kept positions
        marked = torch.cat([x, torch.ones_like(x[..., :1])], -1)
        return mix_aligned(self._mix, marked, mask)

    def matrix(self, x: Tensor) -> Tensor:
        """R as ``(B, 1, L, L)``."""
        B, L, _ = x.shape
        R = self.random_matrix[:L, :L]
        return (R * self.random_matrix[:L].sum(1, keepdim=True) / R.sum(1, keepdim=True)).expand(B, 1, L, L)

    def _mix(self, marked: Tensor) -> Tensor:
        R = self.random_matrix[: marked.shape[1]]
        y = R[:, : marked.shape[1]] @ marked
        # a row of the batch may have no weight left
        left = y[..., -1:].clamp(min=torch.finfo(y.dtype).tiny)
        return y[..., :-1] * (R.sum(1, keepdim=True) / left)
