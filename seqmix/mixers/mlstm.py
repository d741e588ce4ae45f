"""mLSTM: the long short-term memory with a matrix memory, of xLSTM."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least, check_fraction
from seqmix.mixers.block_linear import BlockLinear
from seqmix.mixers.mixer import Mixer, register
from seqmix.mixers.norm import HeadNorm
from seqmix.mixers.state import last_inputs, mix_onward, with_last
from seqmix.ops import delta_matrix, gated_delta
from seqmix.ops.packed import packed_conv1d
from seqmix.ops.slstm.slstm import EMPTY
from seqmix.ops.wide import wide, widest

#: last inputs of the convolution ``(B, K - 1, E)``, memory with normalizer ``(B, H, P, P + 1)``, exponent ``(B, H)``
State = tuple[Tensor, Tensor, Tensor]

# as in the original code
_EPS = 1e-6
# the least exponent that the normalizer can take in float32
_LEAST = -80.0


@register(
    paper="arXiv:2405.04517",
    cost="L",
    variants=({"n_heads": 1, "qkv_block": 16, "bias": True, "d_conv": 1},),
    n_heads=2,
    qkv_block=2,
)
class MLSTM(Mixer):
    """Matrix memory with exponential input gates: the mLSTM layer of xLSTM.

    ``C[t] = f[t] C[t-1] + i[t] v[t] k[t]^T``, ``n[t] = f[t] n[t-1] + i[t] k[t]``,
    ``h[t] = C[t] q[t] / max(|n[t] q[t]|, 1)`` (eq. 19 to 27), ``i = exp(.)``, ``f = sigmoid(.)``, kept in range by the
    largest exponent so far; q and k come from a short causal convolution. A norm per head, a learned skip, and a SiLU
    gate follow.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L E (D + P)) time, O(L E) memory, E = expand D, P = E / n_heads.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        expand: inner width over D.
        n_heads: heads, each with a memory of P x P.
        d_conv: positions seen by the short convolution.
        qkv_block: channels per block of the block-diagonal maps to q, k and v.
        bias: bias on the projections.
        dropout: fraction dropped of the output in training.

    Raises:
        ConfigError: if the heads or the blocks do not divide the inner width.

    Source: Beck et al., 2024, arXiv:2405.04517, and NX-AI/xlstm. Differs from the original code in: the inner width is
    ``expand D``, not rounded up to a multiple of 64; the output projection starts as in a model of one block; chunks
    instead of an L x L matrix; masks and packed sequences.
    """

    causal = True

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        expand: int = 2,
        n_heads: int = 4,
        d_conv: int = 4,
        qkv_block: int = 4,
        bias: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, expand=expand, n_heads=n_heads, d_conv=d_conv, qkv_block=qkv_block)
        check_fraction(dropout=dropout)
        E = expand * d_model
        for name, n in (("n_heads", n_heads), ("qkv_block", qkv_block)):
            if E % n:
                raise ConfigError(f"{name} = {n} does not divide the inner width {E}; use a divisor of it")
        self.n_heads = n_heads
        self.proj_up = nn.Linear(d_model, 2 * E, bias=bias)
        self.conv1d = nn.Conv1d(E, E, d_conv, groups=E)
        self.q_proj, self.k_proj, self.v_proj = (BlockLinear(E, E // qkv_block, bias=bias) for _ in range(3))
        self.igate, self.fgate = nn.Linear(3 * E, n_heads), nn.Linear(3 * E, n_heads)
        self.outnorm = HeadNorm(E, n_heads)
        self.learnable_skip = nn.Parameter(torch.ones(E))
        self.proj_down = nn.Linear(E, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)
        for part in (self.proj_up, self.q_proj, self.k_proj, self.v_proj):
            nn.init.normal_(part.weight, std=math.sqrt(2 / (5 * d_model)))
        nn.init.normal_(self.proj_down.weight, std=2 / math.sqrt(d_model))
        for linear in (self.igate, self.fgate, self.proj_up, self.proj_down):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.igate.weight)
        nn.init.zeros_(self.fgate.weight)
        nn.init.normal_(self.igate.bias, std=0.1)
        with torch.no_grad():
            self.fgate.bias.copy_(torch.linspace(3, 6, n_heads))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        state: State | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, State]:
        return mix_onward(self, self._advance, x, mask, state, return_state, cu_seqlens)

    def matrix(self, x: Tensor) -> Tensor:
        """Normalized mixing matrix of each head: ``(B, H, L, L)``."""
        _, m = self.init_state(x.shape[0])[1:]
        u, _ = self.proj_up(x).chunk(2, -1)
        p = self._parts(u, self._convolve(u), None, m)
        M = delta_matrix(p.q, p.k, p.log_f, scale=1.0)
        return (M / _normalizer(M.sum(-1), p.exponent.mT).unsqueeze(-1)).to(x.dtype)

    def init_state(self, batch_size: int) -> State:
        """Zero window, empty memory, and no exponent yet."""
        E, _, K = self.conv1d.weight.shape
        weight, H = self.conv1d.weight, self.n_heads
        C = wide(weight).new_zeros(batch_size, H, E // H, E // H + 1)
        return weight.new_zeros(batch_size, K - 1, E), C, widest(C.new_full((batch_size, H), EMPTY))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: State) -> tuple[Tensor, State]:
        window, C, m = state
        u, z = self.proj_up(x).chunk(2, -1)
        behind = window.shape[1]
        inputs = with_last(window, u)  # (B, K - 1 + L, E)
        convolved = self._convolve(inputs)[:, behind:]
        p = self._parts(u, convolved, kept, m)
        # the normalizer is the memory of a value of ones
        v = F.pad(p.v, (0, 1), value=1.0)
        y, C = gated_delta(p.q, p.k, v, p.log_f, scale=1.0, initial_state=C, return_state=True)
        y = y[..., :-1] / _normalizer(y[..., -1], p.exponent).unsqueeze(-1)
        y = self.outnorm(y.flatten(2).to(u.dtype)) + self.learnable_skip * convolved
        y = self.dropout(self.proj_down(y * F.silu(z)))
        return y, (last_inputs(inputs, behind, kept), C, p.exponent[:, -1])

    def _convolve(self, u: Tensor) -> Tensor:
        weight, bounds = self.conv1d.weight.squeeze(1), [0, u.shape[1]]
        return packed_conv1d(u, weight, self.conv1d.bias, bounds, padding="causal", activation="silu")

    def _parts(self, u: Tensor, convolved: Tensor, kept: Tensor | None, m: Tensor) -> "_Parts":
        qkv = self.q_proj(convolved), self.k_proj(convolved), self.v_proj(u)
        gates = torch.cat(qkv, -1)
        q, k, v = (wide(t).unflatten(-1, (self.n_heads, -1)) for t in qkv)  # (B, L, H, P)
        log_i, log_f = wide(self.igate(gates)), F.logsigmoid(wide(self.fgate(gates)))  # (B, L, H)
        if kept is not None:
            hidden = ~kept.unsqueeze(-1)
            log_i, log_f = log_i.masked_fill(hidden, EMPTY), log_f.masked_fill(hidden, 0)
        # the largest exponent in the memory, max_s (log i_s + log f_(s+1) + ... + log f_t); in float32 the rounding of
        # a long sum would make the memory decay
        passed = widest(log_f).cumsum(1)
        exponent = passed + torch.maximum(m.unsqueeze(1), (log_i - passed).cummax(1).values)
        before = torch.cat([m.unsqueeze(1), exponent[:, :-1]], 1)
        k = k * ((log_i - exponent).exp() * k.shape[-1] ** -0.5).unsqueeze(-1).to(k.dtype)
        return _Parts(q, k, v, (log_f + before - exponent).clamp(max=0).to(k.dtype), exponent)


class _Parts(NamedTuple):
    """Operands of the recurrence, in float32 at least; the exponent in float64."""

    q: Tensor  # (B, L, H, P)
    k: Tensor  # (B, L, H, P), times the input gate
    v: Tensor  # (B, L, H, P)
    log_f: Tensor  # (B, L, H), relative to the exponents
    exponent: Tensor  # (B, L, H)


def _normalizer(n: Tensor, exponent: Tensor) -> Tensor:
    """``max(|n q|, 1)`` where memory and n are scaled by ``exp(-exponent)``."""
    return torch.maximum(n.abs(), (-exponent.clamp(min=_LEAST)).exp().to(n.dtype)) + _EPS
