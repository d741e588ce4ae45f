"""DeltaNet: linear attention with the delta rule (Yang et al., 2024)."""

from typing import Any

from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.linear_attention import LinearAttention, divide, strengths, unit
from seqmix.mixers.mixer import register


@register(
    paper="arXiv:2406.06484",
    cost="L",
    variants=({"gate": True, "negative": True, "expand_k": 0.5, "expand_v": 2.0, "d_conv": 1},),
    n_heads=2,
)
class DeltaNet(LinearAttention):
    """Delta rule: each position replaces a fraction of the value stored under its key.

    ``S[t] = S[t-1] + beta[t] k[t] (v[t] - S[t-1]^T k[t])^T``, ``y[t] = S[t]^T q[t] / sqrt(K)``, where q, k and v come
    from a short causal convolution with SiLU, and q and k have norm 1; then a norm per head.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D (D + K)) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        n_heads: number of heads.
        expand_k: width of all keys over D.
        expand_v: width of all values over D.
        d_conv: positions seen by the short convolutions.
        gate: multiply the normalized result by a projection of the input, after SiLU.
        negative: let the strength of a write go up to 2: transitions with negative eigenvalues can track parity.

    Raises:
        ConfigError: if the heads do not divide the keys or the values.

    Source: Yang et al., 2024, arXiv:2406.06484; ``negative``: Grazzi et al., 2024, arXiv:2411.12537; weights of
    fla-org/flash-linear-attention load under their own keys. Differs from the original code in: SiLU and norm 1 are the
    only feature map of q and k; convolutions have no bias; masks are exact on both sides.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        n_heads: int = 4,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        d_conv: int = 4,
        gate: bool = False,
        negative: bool = False,
    ):
        check_at_least(1, d_model=d_model, n_heads=n_heads, d_conv=d_conv)
        K = divide("expand_k * d_model", expand_k * d_model, n_heads)
        V = divide("expand_v * d_model", expand_v * d_model, n_heads)
        super().__init__(d_model, max_len, (n_heads, K, V), d_conv=d_conv, gate=gate)
        self.negative = negative
        self.b_proj = nn.Linear(d_model, n_heads, bias=False)

    def _operands(
        self, x: Tensor, bounds: list[int], past: Tensor | None, kept: Tensor | None
    ) -> tuple[dict[str, Any], Tensor | None]:
        projected, past = self._project(x, bounds, past, kept)
        q, k, v = (t.unflatten(-1, (self.heads[0], -1)) for t in projected)
        return {"q": unit(q), "k": unit(k), "v": v, "beta": strengths(self.b_proj(x), self.negative)}, past
