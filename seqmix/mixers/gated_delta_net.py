"""Gated DeltaNet: the delta rule on a state that decays (Yang, Kautz and Hatamizadeh, 2024)."""

from typing import Any

from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.linear_attention import (
    LinearAttention,
    divide,
    draw_rates,
    draw_steps,
    head_sizes,
    log_decay,
    strengths,
    unit,
    value_heads,
)
from seqmix.mixers.mixer import register


@register(
    paper="arXiv:2412.06464",
    cost="L",
    variants=({"n_heads": 1, "n_v_heads": 2, "expand_v": 1.5, "d_conv": 1, "gate": False, "negative": True},),
    n_heads=2,
    headdim=4,
)
class GatedDeltaNet(LinearAttention):
    """Gated delta rule: the state decays, then each position replaces the value stored under its key.

    ``S[t] = (I - beta[t] k[t] k[t]^T) a[t] S[t-1] + beta[t] k[t] v[t]^T``, ``y[t] = S[t]^T q[t] / sqrt(K)`` with
    ``a[t] = exp(-exp(A_log) softplus(dt[t]))``, where q, k and v come from a short causal convolution with SiLU, and q
    and k have norm 1; then a norm per head and a SiLU gate.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D (D + K)) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        n_heads: heads of queries and keys. Default: as many as make keys 3/4 as wide as the model.
        headdim: width of a key. Default: 256, or 3/4 of ``d_model`` where that is less.
        n_v_heads: heads of values, a multiple of ``n_heads``: several share a key. Default: ``n_heads``.
        expand_v: width of a value over that of a key.
        d_conv: positions seen by the short convolutions.
        gate: multiply the normalized result by a projection of the input, after SiLU.
        negative: let the strength of a write go up to 2: transitions with negative eigenvalues can track parity.

    Raises:
        ConfigError: if sizes do not fit together.

    Source: Yang, Kautz and Hatamizadeh, 2024, arXiv:2412.06464; weights of fla-org/flash-linear-attention load under
    their own keys. Differs from the original code in: convolutions have no bias; masks are exact on both sides.
    """

    state_space = ("A_log", "dt_bias")

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        n_heads: int | None = None,
        headdim: int | None = None,
        n_v_heads: int | None = None,
        expand_v: float = 2.0,
        d_conv: int = 4,
        gate: bool = True,
        negative: bool = False,
    ):
        check_at_least(1, d_model=d_model, d_conv=d_conv)
        G, K = head_sizes(d_model, 0.75, headdim, n_heads, published=256)
        H, V = value_heads(G, n_v_heads), divide("expand_v * headdim", expand_v * K, 1)
        super().__init__(d_model, max_len, (H, K, V), key_heads=G, d_conv=d_conv, gate=gate)
        self.negative = negative
        self.a_proj = nn.Linear(d_model, H, bias=False)
        self.b_proj = nn.Linear(d_model, H, bias=False)
        self.A_log, self.dt_bias = draw_rates(H, 0.0), draw_steps(H)

    def _operands(
        self, x: Tensor, bounds: list[int], past: Tensor | None, kept: Tensor | None
    ) -> tuple[dict[str, Any], Tensor | None]:
        (q, k, v), past = self._project(x, bounds, past, kept)
        H, K, _ = self.heads
        q, k = (unit(t.unflatten(-1, (-1, K))) for t in (q, k))
        decay = log_decay(self.a_proj(x), self.dt_bias, self.A_log)
        beta = strengths(self.b_proj(x), self.negative)
        return {"q": q, "k": k, "v": v.unflatten(-1, (H, -1)), "decay": decay, "beta": beta}, past
