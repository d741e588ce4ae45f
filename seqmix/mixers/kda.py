"""Kimi Delta Attention: the gated delta rule with a decay for each channel of a key (Kimi Team, 2025)."""

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
    paper="arXiv:2510.26692",
    cost="L",
    variants=({"n_heads": 1, "n_v_heads": 2, "expand_v": 1.5, "d_conv": 1, "negative": True},),
    n_heads=2,
    headdim=4,
)
class KDA(LinearAttention):
    """Kimi Delta Attention: the gated delta rule with a decay for each channel of a key.

    ``S[t] = (I - beta[t] k[t] k[t]^T) Diag(a[t]) S[t-1] + beta[t] k[t] v[t]^T``, ``y[t] = S[t]^T q[t] / sqrt(K)`` with
    ``a[t] = exp(-exp(A_log) softplus(f(x[t]) + dt_bias))``, where q, k and v come from a short causal convolution with
    SiLU, and q and k have norm 1; then a norm per head and a sigmoid gate.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D (D + K)) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        n_heads: heads of queries and keys. Default: as many as make keys as wide as the model.
        headdim: width of a key. Default: 128, or ``d_model`` where that is less.
        n_v_heads: heads of values, a multiple of ``n_heads``: several share a key. Default: ``n_heads``.
        expand_v: width of a value over that of a key.
        d_conv: positions seen by the short convolutions.
        negative: let the strength of a write go up to 2: transitions with negative eigenvalues can track parity.

    Raises:
        ConfigError: if sizes do not fit together.

    Source: Kimi Team, 2025, arXiv:2510.26692, sec. 3; weights of fla-org/flash-linear-attention load under their own
    keys. Differs from the original code in: decays have no lower bound; masks are exact on both sides.
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
        expand_v: float = 1.0,
        d_conv: int = 4,
        negative: bool = False,
    ):
        check_at_least(1, d_model=d_model, d_conv=d_conv)
        G, K = head_sizes(d_model, 1.0, headdim, n_heads, published=128)
        H, V = value_heads(G, n_v_heads), divide("expand_v * headdim", expand_v * K, 1)
        super().__init__(d_model, max_len, (H, K, V), key_heads=G, d_conv=d_conv, gate=False)
        self.negative = negative
        self.f_proj = nn.Sequential(nn.Linear(d_model, V, bias=False), nn.Linear(V, H * K, bias=False))
        self.b_proj = nn.Linear(d_model, H, bias=False)
        self.A_log, self.dt_bias = draw_rates(H, 1.0), draw_steps(H * K)
        self.g_proj = nn.Sequential(nn.Linear(d_model, V, bias=False), nn.Linear(V, H * V))

    def _operands(
        self, x: Tensor, bounds: list[int], past: Tensor | None, kept: Tensor | None
    ) -> tuple[dict[str, Any], Tensor | None]:
        (q, k, v), past = self._project(x, bounds, past, kept)
        H, K, _ = self.heads
        q, k = (unit(t.unflatten(-1, (-1, K))) for t in (q, k))
        decay = log_decay(self.f_proj(x).unflatten(-1, (H, K)), self.dt_bias.view(H, K), self.A_log.unsqueeze(-1))
        beta = strengths(self.b_proj(x), self.negative)
        return {"q": q, "k": k, "v": v.unflatten(-1, (H, -1)), "decay": decay, "beta": beta}, past

    def _close(self, y: Tensor, x: Tensor, operands: dict[str, Any]) -> Tensor:
        return self.o_norm(y).flatten(2) * self.g_proj(x).sigmoid()
