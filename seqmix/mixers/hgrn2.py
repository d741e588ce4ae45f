"""HGRN2: gated linear attention with keys ``1 - forget gate`` (Qin et al., 2024)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from seqmix.errors import check_at_least, check_fraction
from seqmix.mixers.linear_attention import LinearAttention, divide
from seqmix.mixers.mixer import register
from seqmix.mixers.norm import RMSNorm
from seqmix.ops.wide import wide


@register(paper="arXiv:2404.07904", cost="L", variants=({"lower_bound": 0.5},), headdim=4)
class HGRN2(LinearAttention):
    """Hierarchically gated linear recurrence with an expanded state; keys are one minus the forget gates.

    ``S[t] = Diag(f[t]) S[t-1] + (1 - f[t]) i[t]^T``, ``y[t] = S[t]^T q[t] / sqrt(K)`` with
    ``f = lower_bound + (1 - lower_bound) sigmoid(W x)`` and ``q = SiLU(W x)``; then a norm over all channels.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D (D + K)) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        headdim: channels of a head, by which the state is larger than D. Default: 128, or ``d_model`` where that is
            less.
        lower_bound: smallest forget gate, 0 in the first layer and rising with the layers in the paper.

    Raises:
        ConfigError: if ``headdim`` does not divide ``d_model``, or ``lower_bound`` is not a fraction.

    Source: Qin et al., 2024, arXiv:2404.07904, sec. 3. Compared with fla-org/flash-linear-attention, whose ``f_proj``,
    ``i_proj`` and ``g_norm`` are ``k_proj``, ``v_proj`` and ``o_norm`` here. Differs from the original code in: the
    lower bound is an option of a layer, there it is learned for all layers together; masks are exact on both sides.
    """

    def __init__(
        self, d_model: int, max_len: int | None = None, *, headdim: int | None = None, lower_bound: float = 0.0
    ):
        check_at_least(1, d_model=d_model, headdim=headdim)
        check_fraction(lower_bound=lower_bound)
        K = headdim or min(128, d_model)
        H = divide("d_model", d_model, K)
        super().__init__(d_model, max_len, (H, K, K), gate=False)
        self.lower_bound = lower_bound
        self.o_norm = RMSNorm(d_model)

    def _operands(self, x: Tensor, bounds: list[int], past: None, kept: Tensor | None) -> tuple[dict[str, Any], None]:
        logits = wide(self.k_proj(x))
        forget = self.lower_bound + (1 - self.lower_bound) * logits.sigmoid()
        # 1 - forget without cancellation, and the logarithm of forget without a logarithm of 0
        key = (1 - self.lower_bound) * (-logits).sigmoid()
        decay = forget.log() if self.lower_bound else F.logsigmoid(logits)
        operands = {"q": F.silu(self.q_proj(x)), "k": key, "v": self.v_proj(x), "decay": decay}
        return {name: t.unflatten(-1, (self.heads[0], -1)) for name, t in operands.items()}, None

    def _close(self, y: Tensor, x: Tensor, operands: dict[str, Any]) -> Tensor:
        return self.o_norm(y.flatten(2))
