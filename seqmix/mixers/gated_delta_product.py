"""Gated DeltaProduct: several delta rules at each position (Siems et al., 2025)."""

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
)
from seqmix.mixers.mixer import register
from seqmix.ops import delta_product, delta_product_matrix


@register(
    paper="arXiv:2502.10297",
    cost="L",
    variants=({"n_householder": 3, "negative": False, "forget": False, "gate": False, "d_conv": 1},),
    n_heads=2,
    headdim=4,
)
class GatedDeltaProduct(LinearAttention):
    """Gated delta product: at each position the state decays once, then several delta rules are applied.

    The transition is ``a[t] (I - beta_1 k_1 k_1^T) ... (I - beta_n k_n k_n^T)``, a product of generalized Householder
    matrices: with n = 2 and strengths up to 2 it can rotate, and track permutations of three things. Otherwise as
    ``GatedDeltaNet``.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(n L D (D + K)) time, O(n L D) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        n_householder: delta rules n of a position.
        n_heads: number of heads. Default: as many as make keys 3/4 as wide as the model.
        headdim: width of a key. Default: 256, or 3/4 of ``d_model`` where that is less.
        expand_v: width of a value over that of a key.
        d_conv: positions seen by the short convolutions.
        forget: let the state decay.
        gate: multiply the normalized result by a projection of the input, after SiLU.
        negative: let the strength of a write go up to 2: transitions have negative eigenvalues.

    Raises:
        ConfigError: if sizes do not fit together.

    Source: Siems et al., 2025, arXiv:2502.10297; weights of fla-org/flash-linear-attention load under their own keys.
    Differs from the original code in: as many heads of values as of keys; convolutions have no bias; masks are exact on
    both sides.
    """

    state_space = ("A_log", "dt_bias")

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        n_householder: int = 2,
        n_heads: int | None = None,
        headdim: int | None = None,
        expand_v: float = 2.0,
        d_conv: int = 4,
        forget: bool = True,
        gate: bool = True,
        negative: bool = True,
    ):
        check_at_least(1, d_model=d_model, n_householder=n_householder, d_conv=d_conv)
        H, K = head_sizes(d_model, 0.75, headdim, n_heads, published=256)
        V = divide("expand_v * headdim", expand_v * K, 1)
        super().__init__(d_model, max_len, (H, K, V), writes=n_householder, d_conv=d_conv, gate=gate)
        self.n_householder, self.negative = n_householder, negative
        self.b_proj = nn.Linear(d_model, n_householder * H, bias=False)
        self.a_proj = nn.Linear(d_model, H, bias=False) if forget else None
        if forget:
            self.A_log, self.dt_bias = draw_rates(H, 0.0), draw_steps(H)

    def matrix(self, x: Tensor) -> Tensor:
        """Mixing matrix of each head and delta rule: ``(B, n H, L, L)``, rule by rule."""
        operands, _ = self._operands(x, [0, x.shape[1]], None, None)
        return delta_product_matrix(**{name: t for name, t in operands.items() if name != "v"}).flatten(1, 2)

    def _operands(
        self, x: Tensor, bounds: list[int], past: Tensor | None, kept: Tensor | None
    ) -> tuple[dict[str, Any], Tensor | None]:
        (q, k, v), past = self._project(x, bounds, past, kept)
        H, n = self.heads[0], self.n_householder
        k, v, beta = (t.unflatten(-1, (n, H, -1)) for t in (k, v, strengths(self.b_proj(x), self.negative)))
        decay = None if self.a_proj is None else log_decay(self.a_proj(x), self.dt_bias, self.A_log)
        q = unit(q.unflatten(-1, (H, -1)))
        return {"q": q, "k": unit(k), "v": v, "decay": decay, "beta": beta.squeeze(-1)}, past

    def _advance_heads(self, **options: Any) -> Any:
        return delta_product(**options)
