"""Mixing by free matrices along the sequence: one linear map (JustDense)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.mask import mix_aligned
from seqmix.mixers.mixer import Mixer, check_length, register, require_max_len


@register(
    paper="arXiv:2508.09153",
    cost="L^2",
    variants=({"n_heads": 2, "residual": True, "scale": 1.0}, {"n_heads": 4, "bias": True, "hidden": True}),
)
class Dense(Mixer):
    """Dense layer along the sequence in place of a sequence mixer.

    ``y = scale M_h x`` with one free matrix per head, shared by the channels of the head and by the batch. With
    ``hidden``, one head and ``scale=1`` it is the mixer of the Linear encoder, ``y = M x W`` (arXiv:2105.03824).

    Shapes: ``(B, L, D) -> (B, L, D)``, ``L <= max_len``; shorter sequences use the top-left block. Cost: O(L^2 D) time,
    O(L D) memory.

    Args:
        d_model: width D.
        max_len: longest sequence, and size of the matrices.
        n_heads: number of matrices; head h mixes the h-th of ``n_heads`` equal groups of channels.
        residual: add the input inside the mixer, as the original does.
        scale: factor on M. Default: 1 / sqrt(max_len).
        bias: add a learned number per head and position.
        hidden: multiply by a free D x D matrix W too.

    Raises:
        ConfigError: if ``max_len`` is missing or ``d_model`` is not a multiple of ``n_heads``.

    Source: Park et al., 2025, arXiv:2508.09153, after the dense mixer of arXiv:2407.09941, app. E. Differs from the
    original code in: no residual by default, since the block adds one; no projections without effect; sequences
    shorter than ``max_len`` are accepted.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        n_heads: int = 1,
        residual: bool = False,
        scale: float | None = None,
        bias: bool = False,
        hidden: bool = False,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, n_heads=n_heads)
        self.max_len = require_max_len(self, max_len, "an L x L matrix")
        if d_model % n_heads:
            raise ConfigError(f"d_model = {d_model} is not a multiple of n_heads = {n_heads}; change one of them")
        self.scale = self.max_len**-0.5 if scale is None else scale
        self.residual, self.pure = residual, not bias and not hidden
        weight = torch.empty(n_heads, self.max_len, self.max_len)
        self.weight = nn.Parameter(nn.init.xavier_normal_(weight))  # (G, L, L)
        self.bias = nn.Parameter(torch.zeros(n_heads, self.max_len)) if bias else None  # (G, L)
        self.hidden = nn.Linear(d_model, d_model, bias=False) if hidden else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_length(self, x, self.max_len)
        return mix_aligned(self._mix, x, mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Scaled matrix, plus the identity if ``residual``, as ``(B, n_heads, L, L)``."""
        B, L, _ = x.shape
        M = self.scale * self.weight[:, :L, :L]
        if self.residual:
            M = M + torch.eye(L, dtype=M.dtype, device=M.device)
        return M.expand(B, -1, L, L)

    def _mix(self, x: Tensor) -> Tensor:
        L = x.shape[1]
        u = x if self.hidden is None else self.hidden(x)
        heads = rearrange(u, "b l (g p) -> b g l p", g=self.weight.shape[0])
        y = self.scale * (self.weight[:, :L, :L] @ heads)  # (B, G, L, P)
        if self.bias is not None:
            y = y + self.bias[:, :L, None]
        y = rearrange(y, "b g l p -> b l (g p)")
        return x + y if self.residual else y
