"""Gated linear attention: data-dependent decay of each key channel (Yang et al., 2023)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.linear_attention import LinearAttention, divide
from seqmix.mixers.mixer import register
from seqmix.ops.wide import wide


@register(
    paper="arXiv:2312.06635",
    cost="L",
    variants=({"gate": False, "expand_k": 1.0, "expand_v": 0.5, "gate_rank": 3, "temperature": 2.0},),
    n_heads=2,
)
class GLA(LinearAttention):
    """Gated linear attention: the state decays per channel at data-dependent rates.

    ``S[t] = Diag(a[t]) S[t-1] + k[t] v[t]^T``, ``y[t] = S[t]^T q[t] / sqrt(K)`` with
    ``a[t] = sigmoid(W x[t] + b)^(1 / temperature)``, W of low rank; then a norm per head and a SiLU gate.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D (D + K)) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        n_heads: number of heads.
        expand_k: width of all keys over D.
        expand_v: width of all values over D.
        gate_rank: rank of the projection to the decays.
        temperature: root of the decays, which keeps them close to 1 at initialization.
        gate: multiply the normalized result by a projection of the input, after SiLU.

    Raises:
        ConfigError: if the heads do not divide the keys or the values, or ``temperature`` is not positive.

    Source: Yang et al., 2023, arXiv:2312.06635, sec. 4; weights of fla-org/flash-linear-attention load under their own
    keys, but for the norm, ``g_norm_swish_gate`` there. Differs from the paper in: the norm subtracts no mean and the
    gate has no bias, as there; from that code in: no feature map and no convolution; masks are exact on both sides.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        n_heads: int = 4,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        gate_rank: int = 16,
        temperature: float = 16.0,
        gate: bool = True,
    ):
        check_at_least(1, d_model=d_model, n_heads=n_heads, gate_rank=gate_rank)
        if not temperature > 0:
            raise ConfigError(f"temperature = {temperature} is not positive; use temperature=16")
        K = divide("expand_k * d_model", expand_k * d_model, n_heads)
        V = divide("expand_v * d_model", expand_v * d_model, n_heads)
        super().__init__(d_model, max_len, (n_heads, K, V), gate=gate)
        self.temperature = temperature
        self.gk_proj = nn.Sequential(nn.Linear(d_model, gate_rank, bias=False), nn.Linear(gate_rank, n_heads * K))

    def _operands(self, x: Tensor, bounds: list[int], past: None, kept: Tensor | None) -> tuple[dict[str, Any], None]:
        decay = F.logsigmoid(wide(self.gk_proj(x))) / self.temperature
        projected = self.q_proj(x), self.k_proj(x), self.v_proj(x), decay
        q, k, v, decay = (t.unflatten(-1, (self.heads[0], -1)) for t in projected)
        return {"q": q, "k": k, "v": v, "decay": decay}, None
