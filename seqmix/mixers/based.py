"""Based: linear attention with the Taylor series of the exponential."""

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.ops import delta_matrix, gated_delta
from seqmix.ops.wide import wide

# as in the original code
_EPS = 1e-12


@register(paper="arXiv:2402.18668", cost="L", variants=({"n_heads": 1, "feature_dim": 3},), n_heads=2, feature_dim=2)
class Based(Mixer):
    """Linear attention whose weights are ``1 + s + s^2 / 2``, the first terms of ``exp(s)``, ``s = q k / sqrt(d)``.

    Features ``(1, x, x x^T / sqrt(2))`` of queries and keys of ``feature_dim`` channels make it a recurrence. The paper
    alternates it with ``SlidingWindow`` and short convolutions from layer to layer.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D F) time and O(L H F) memory, F = 1 + d + d^2 for d = feature_dim.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        n_heads: heads H, which divide D.
        feature_dim: channels of a query or key, before the series.

    Raises:
        ConfigError: if the heads do not divide the width.

    Source: Arora et al., 2024, arXiv:2402.18668, as in HazyResearch/zoology. Differs from the original code in: 4 heads
    by default, not 12; no rotary positions; masks and packed sequences.
    """

    causal = True

    def __init__(self, d_model: int, max_len: int | None = None, *, n_heads: int = 4, feature_dim: int = 16):
        super().__init__(d_model, max_len)
        check_at_least(1, n_heads=n_heads, feature_dim=feature_dim)
        if d_model % n_heads:
            raise ConfigError(f"n_heads = {n_heads} does not divide d_model = {d_model}; use a divisor of it")
        self.n_heads = n_heads
        self.proj_q, self.proj_k = (nn.Linear(d_model, feature_dim * n_heads, bias=False) for _ in range(2))
        self.proj_v = nn.Linear(d_model, d_model, bias=False)
        self.proj_o = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        state: Tensor | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        x = zero_masked(x, mask)
        # the denominator is the memory of a value of ones
        v = nn.functional.pad(wide(self.proj_v(x)).unflatten(-1, (self.n_heads, -1)), (0, 1), value=1.0)
        q, k = self._features(x)
        y, state = gated_delta(
            q, k, v, scale=1.0, initial_state=state, return_state=True, mask=mask, cu_seqlens=cu_seqlens
        )
        y = y[..., :-1] / (y[..., -1:] + _EPS)
        y = zero_masked(self.proj_o(y.flatten(2).to(self.proj_o.weight.dtype)).to(x.dtype), mask)
        return (y, state) if return_state else y

    def matrix(self, x: Tensor) -> Tensor:
        """Attention weights, which sum to 1: ``(B, H, L, L)``."""
        M = delta_matrix(*self._features(x), scale=1.0)
        return (M / (M.sum(-1, keepdim=True) + _EPS)).to(x.dtype)

    def init_state(self, batch_size: int) -> Tensor:
        """Zeros ``(B, H, F, P + 1)``."""
        d, P = self.proj_q.weight.shape[0] // self.n_heads, self.proj_v.weight.shape[0] // self.n_heads
        return wide(self.proj_v.weight).new_zeros(batch_size, self.n_heads, 1 + d + d * d, P + 1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self(x.unsqueeze(1), state=state, return_state=True)
        return y.squeeze(1), state

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features of queries and keys, each ``(B, L, H, F)``."""
        q, k = (_series(wide(proj(x)).unflatten(-1, (self.n_heads, -1))) for proj in (self.proj_q, self.proj_k))
        return q, k


def _series(x: Tensor) -> Tensor:
    """``(1, x / d^(1/4), x x^T / sqrt(2 d))`` of ``x: (..., d)``, whose products are ``1 + s + s^2 / 2``."""
    x = x * x.shape[-1] ** -0.25
    squares = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2) * 0.5**0.5
    return torch.cat([torch.ones_like(x[..., :1]), x, squares], -1)
