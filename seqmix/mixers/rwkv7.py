"""RWKV-7: a state whose transition is diagonal plus low rank, with token shift (Peng et al., 2025)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.linear_attention import LinearAttention, divide
from seqmix.mixers.mixer import register
from seqmix.mixers.state import last_inputs, with_last
from seqmix.ops import dplr_delta, dplr_matrix
from seqmix.ops.packed import shift_within
from seqmix.ops.wide import wide

# the largest rate at which a channel decays per position: e^(-1/2)
_FASTEST = 0.6065306597126334


@register(
    paper="arXiv:2503.14456",
    cost="L",
    variants=({"headdim": 8, "gate_rank": 1},),
    headdim=4,
    decay_rank=3,
    rate_rank=2,
    gate_rank=2,
)
class RWKV7(LinearAttention):
    """Time mix of RWKV-7 "Goose": decay and replacement rates for each channel.

    ``S[t] = (Diag(w[t]) - (c[t] o kappa[t]) kappa[t]^T) S[t-1] + k[t] v[t]^T``, ``y[t] = S[t]^T r[t]`` with kappa of
    norm 1, the rates c of replacement from 0 to 1 and the decays w from 0.545 to 1; every projection sees a mean of a
    position and the one before it. Then a norm per head, a bonus for the position itself, and a gate.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D (D + K)) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        headdim: channels of a head K. Default: 64, or ``d_model`` where that is less.
        decay_rank: rank of the projection to the decays. Default: 2.5 sqrt(D), to a multiple of 32.
        rate_rank: rank of the projection to the rates of replacement. Default: that of the decays.
        gate_rank: rank of the projection to the gate. Default: 5 sqrt(D), to a multiple of 32.

    Raises:
        ConfigError: if ``headdim`` does not divide ``d_model``.

    Source: Peng et al., 2025, arXiv:2503.14456, sec. 4. Compared with fla-org/flash-linear-attention, whose ``r_proj``
    and ``g_norm`` are ``q_proj`` and ``o_norm`` here. Differs from the original code in: values are not mixed with
    those of the first layer, as a mixer sees one layer; every layer starts as in a model of one; masks are exact on
    both sides.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        headdim: int | None = None,
        decay_rank: int | None = None,
        rate_rank: int | None = None,
        gate_rank: int | None = None,
    ):
        check_at_least(1, d_model=d_model, headdim=headdim)
        check_at_least(1, decay_rank=decay_rank, rate_rank=rate_rank, gate_rank=gate_rank)
        K = headdim or min(64, d_model)
        H = divide("d_model", d_model, K)
        super().__init__(d_model, max_len, (H, K, K), gate=False)
        decay_rank = decay_rank or _rank(2.5 * d_model**0.5 * max(1.0, K / 64))
        place = torch.arange(d_model) / d_model
        self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g = (
            nn.Parameter((1 - place**power).view(1, 1, -1)) for power in (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)
        )
        # from -1/2 to 1/2 over the channels, and from -1 to 1 over those of a head, slower in the middle
        linear = torch.arange(d_model) / max(1, d_model - 1) - 0.5
        zigzag = (torch.arange(d_model) % K - (K - 1) / 2) / max(0.5, (K - 1) / 2)
        zigzag = zigzag * zigzag.abs()
        self.k_k = nn.Parameter(0.71 - 0.1 * linear)
        self.k_a = nn.Parameter(torch.full((d_model,), 1.02))
        self.r_k = nn.Parameter(torch.full((H, K), -0.04))
        decays = -5.5 + 6 * (linear + 0.5) + 2.5 * zigzag
        self.w_lora = _LowRank(d_model, decay_rank, nn.Tanh(), decays)
        self.a_lora = _LowRank(d_model, rate_rank or decay_rank, nn.Identity(), -0.19 + 0.3 * zigzag + 0.4 * linear)
        self.g_lora = _LowRank(d_model, gate_rank or _rank(5 * d_model**0.5), nn.Sigmoid(), None)
        self.o_norm = nn.GroupNorm(H, d_model, eps=K * 1e-5)
        for projection, gain in ((self.q_proj, 1.0), (self.k_proj, 0.1), (self.v_proj, 1.0)):
            nn.init.orthogonal_(projection.weight, gain=gain)
        nn.init.zeros_(self.o_proj.weight)

    def no_weight_decay(self) -> set[str]:
        """Weights of the token shift and of the bonus, as in the authors' training code."""
        return {"x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "r_k"}

    def matrix(self, x: Tensor) -> Tensor:
        """Mixing matrix of each head before the norm, without the bonus: ``(B, H, L, L)``."""
        operands, _ = self._operands(x, [0, x.shape[1]], None, None)
        return dplr_matrix(**{name: t for name, t in operands.items() if name not in ("v", "gate")})

    def _operands(
        self, x: Tensor, bounds: list[int], past: Tensor | None, kept: Tensor | None
    ) -> tuple[dict[str, Any], Tensor | None]:
        before = shift_within(x, bounds, reverse=False)
        if past is not None:
            inputs = with_last(past, x)
            before, past = inputs[:, :-1], last_inputs(inputs, 1, kept)
        r, w, k, v, a, g = (
            torch.lerp(x, before, mu) for mu in (self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g)
        )
        q, k, v = self.q_proj(r), self.k_proj(k), self.v_proj(v)
        decay = -_FASTEST * wide(self.w_lora(w)).sigmoid()
        rate = self.a_lora(a).sigmoid()
        kappa, k = k * self.k_k, k * (1 + (rate - 1) * self.k_a)
        q, k, v, decay, rate, kappa = (t.unflatten(-1, (self.heads[0], -1)) for t in (q, k, v, decay, rate, kappa))
        kappa = F.normalize(wide(kappa), dim=-1)
        operands = {"q": q, "k": k, "v": v, "decay": decay, "a": -kappa, "b": kappa * rate, "scale": 1.0}
        return operands | {"gate": self.g_lora(g)}, past

    def _advance_heads(self, *, gate: Tensor, **options: Any) -> Any:
        return dplr_delta(**options)

    def _close(self, y: Tensor, x: Tensor, operands: dict[str, Any]) -> Tensor:
        y = self.o_norm(y.flatten(2).flatten(0, 1)).view_as(x)
        bonus = (operands["q"] * operands["k"] * self.r_k).sum(-1, keepdim=True) * operands["v"]
        return (y + bonus.flatten(2)) * operands["gate"]

    def _empty_past(self, batch_size: int) -> Tensor:
        """The position before the first one ``(B, 1, D)``."""
        return self.o_proj.weight.new_zeros(batch_size, 1, self.o_proj.out_features)


class _LowRank(nn.Module):
    """Two linear maps with an activation between them; the first starts at zero."""

    def __init__(self, width: int, rank: int, activation: nn.Module, bias: Tensor | None):
        super().__init__()
        down, up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=bias is not None)
        nn.init.zeros_(down.weight)
        nn.init.orthogonal_(up.weight, gain=0.1 * max(1.0, rank / width) ** 0.5)
        if bias is not None:
            with torch.no_grad():
                up.bias.copy_(bias)
        self.lora = nn.Sequential(down, activation, up)

    def forward(self, x: Tensor) -> Tensor:
        return self.lora(x)


def _rank(size: float) -> int:
    return max(32, 32 * round(size / 32))
