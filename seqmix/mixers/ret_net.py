"""Retention: linear attention with rotary positions and a fixed decay for each head (Sun et al., 2023)."""

from typing import Any

import torch
from torch import Tensor

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.attention import rotate
from seqmix.mixers.linear_attention import LinearAttention, divide
from seqmix.mixers.mixer import register
from seqmix.mixers.state import check_sequences
from seqmix.ops.wide import wide


@register(
    paper="arXiv:2307.08621", cost="L", variants=({"gate": False, "expand_k": 0.5, "rope_base": 100.0},), n_heads=2
)
class RetNet(LinearAttention):
    """Multi-scale retention: each head has its own fixed decay rate, from fast to slow.

    ``S[t] = gamma S[t-1] + k[t] v[t]^T``, ``y[t] = S[t]^T q[t] / sqrt(K)`` with ``gamma = 1 - 2^(-5 - h)`` for head h,
    where q and k are turned by their positions; then a norm per head and a SiLU gate.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D (D + K)) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        n_heads: number of heads.
        expand_k: width of all keys over D.
        expand_v: width of all values over D.
        rope_base: base of the wavelengths of the rotary positions.
        gate: multiply the normalized result by a projection of the input, after SiLU.

    Raises:
        ConfigError: if the heads do not divide the keys or the values, or the width of a key is odd.

    Source: Sun et al., 2023, arXiv:2307.08621, sec. 2. Compared with fla-org/flash-linear-attention, whose
    ``g_norm_swish_gate`` is ``o_norm`` here. Differs from the paper in: the norm has a weight and subtracts no mean, as
    there; from that code in: masks are exact on both sides.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        n_heads: int = 8,
        expand_k: float = 1.0,
        expand_v: float = 2.0,
        rope_base: float = 10_000.0,
        gate: bool = True,
    ):
        check_at_least(1, d_model=d_model, n_heads=n_heads)
        K = divide("expand_k * d_model", expand_k * d_model, n_heads)
        V = divide("expand_v * d_model", expand_v * d_model, n_heads)
        if K % 2:
            raise ConfigError(f"expand_k * d_model / n_heads = {K} is odd, and rotary positions are pairs; change it")
        super().__init__(d_model, max_len, (n_heads, K, V), gate=gate)
        self.rope_base = rope_base

    def _operands(
        self, x: Tensor, bounds: list[int], past: Tensor | None, kept: Tensor | None
    ) -> tuple[dict[str, Any], Tensor | None]:
        (B, L, _), H = x.shape, self.heads[0]
        q, k, v = (p(x).unflatten(-1, (H, -1)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if past is not None:
            check_sequences(past, x)
        # only distances matter: packed sequences and padding on the left need no positions of their own
        at = torch.arange(L, device=x.device) + (0 if past is None else past.unsqueeze(1))
        q, k = (rotate(t.transpose(1, 2), at, self.rope_base).transpose(1, 2) for t in (q, k))
        gamma = torch.log1p(-(2.0 ** -(5.0 + torch.arange(H, device=x.device, dtype=wide(x).dtype))))
        if past is not None:
            past = past + (L if kept is None else kept.sum(1))
        return {"q": q, "k": k, "v": v, "decay": gamma.expand(B, L, H)}, past

    def _empty_past(self, batch_size: int) -> Tensor:
        """Positions so far ``(B,)``."""
        return torch.zeros(batch_size, dtype=torch.long, device=self.o_proj.weight.device)
