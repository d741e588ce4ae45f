"""Mega: gated attention over a moving average."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least, check_choice, check_fraction
from seqmix.mixers.ema import EMA
from seqmix.mixers.mask import mix_aligned
from seqmix.mixers.mixer import Mixer, check_length, register, require_max_len
from seqmix.mixers.norm import ScaleNorm
from seqmix.mixers.state import mix_onward
from seqmix.ops.vq.scores import laplace
from seqmix.ops.wide import wide

#: of the moving average; keys ``(B, T, Z)``, values ``(B, T, V)`` and which of them count ``(B, T)``
State = tuple[Tensor, Tensor, Tensor, Tensor]


@register(
    paper="arXiv:2209.10655",
    cost="L^2",
    variants=(
        {"causal": True, "norm": "layer"},
        {"attention": "laplace", "bias": "rotary", "chunk": 5},
        {"attention": "laplace", "causal": True, "chunk": 4, "norm": "scale"},
    ),
    d_qk=4,
    d_state=2,
)
class Mega(Mixer):
    """Moving average equipped gated attention, with one head.

    ``m = EMA(x')``, ``[phi | zeta | gamma | eta] = m W + b``, q and k scaled and shifted copies of ``SiLU(zeta)``,
    ``v = SiLU(x' W_v + b_v)``, ``o = attention(q, k, v)`` with a bias per distance,
    ``h = SiLU(eta + (SiLU(gamma) o) W_h + b_h)``, ``y = sigmoid(phi) (h - x)``; x' is x, normalized if ``norm`` says
    so. A residual connection around the mixer gives the gate of the paper (eq. 15), ``x + y``: for its post-norm block
    leave ``norm`` at ``"none"`` and normalize after the sum; for its pre-norm block set ``norm`` here and
    ``norm: none`` in the block.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L^2 (Z + V)) time, O(L^2) memory; with ``chunk`` C O(L C (Z + V)) and
    O(L C).

    Args:
        d_model: width D.
        max_len: longest sequence, of which ``bias="table"`` stores a number per distance unless there are chunks.
        d_qk: width of queries and keys Z.
        d_value: width of values V. Default: 2 D.
        d_state: dimensions per channel of the moving average.
        attention: ``"softmax"``, or ``"laplace"``, element-wise without a denominator.
        bias: per distance, ``"table"`` (a learned number each) or ``"rotary"`` (a product of two rotated vectors).
        chunk: positions that attend to each other, without those of other chunks. Default: all.
        dropout: fraction dropped of the moving average and of h in training.
        norm: norm of x before the mixer: ``"none"``, ``"layer"`` or ``"scale"``.
        causal: see earlier positions only.

    Raises:
        ConfigError: if an option is not known, a size is below 1, or ``max_len`` is missing.

    Source: Ma et al., 2022, arXiv:2209.10655, and facebookresearch/mega. Differs from the original code in: the
    residual sum is left to the block; lengths need not be multiples of the chunk; no dropout of attention weights;
    what ``EMA`` says.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        d_qk: int = 64,
        d_value: int | None = None,
        d_state: int = 16,
        attention: Literal["softmax", "laplace"] = "softmax",
        bias: Literal["table", "rotary"] = "table",
        chunk: int | None = None,
        dropout: float = 0.0,
        norm: Literal["none", "layer", "scale"] = "none",
        causal: bool = False,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, d_qk=d_qk, d_value=d_value, chunk=chunk)
        check_fraction(dropout=dropout)
        check_choice("attention", attention, ("softmax", "laplace"))
        check_choice("bias", bias, ("table", "rotary"))
        check_choice("norm", norm, tuple(_NORMS))
        if bias == "rotary" and d_qk % 2:
            raise ConfigError(f"bias='rotary' turns pairs of channels, d_qk = {d_qk} is odd; use an even d_qk")
        V = d_value or 2 * d_model
        self.causal, self.attention, self.chunk = causal, attention, chunk
        self.longest = None
        if bias == "table":
            self.longest = chunk or require_max_len(self, max_len, "a bias for every distance")
        self.norm = _NORMS[norm](d_model)
        self.move = EMA(d_model, d_state=d_state, causal=causal)
        self.widths = (d_model, d_qk, V, d_model)
        self.mx_proj, self.v_proj = nn.Linear(d_model, sum(self.widths)), nn.Linear(d_model, V)
        self.h_proj = nn.Linear(V, d_model)
        self.gamma = nn.Parameter(0.02 * torch.randn(2, d_qk))
        self.beta = nn.Parameter(torch.zeros(2, d_qk))
        # per distance from 1 - longest to longest - 1, or two vectors
        shape = (2 * self.longest - 1,) if self.longest else (2, d_qk)
        self.rel_pos_bias = nn.Parameter(0.02 * torch.randn(shape))
        self.dropout = nn.Dropout(dropout)
        for linear in (self.mx_proj, self.v_proj, self.h_proj):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, state: State | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, State]:
        if state is not None or return_state:
            return mix_onward(self, self._advance, x, mask, state, return_state)
        self._check(x)
        if mask is None:
            return self._mix(x, None)
        kept = torch.arange(x.shape[1], device=x.device) < mask.sum(1, keepdim=True)
        return mix_aligned(lambda x: self._mix(x, kept), x, mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Attention matrix, ``(B, 1, L, L)``; block-diagonal with chunks."""
        self._check(x)
        _, q, k, _, _ = self._project(self.move(self.norm(x)))
        at = torch.arange(x.shape[1], device=x.device)
        return self._weights(q, k, at, at, self._allowed(at, at)).unsqueeze(1).to(x.dtype)

    def init_state(self, batch_size: int) -> State:
        """State of the moving average, and no keys and values."""
        new = self.v_proj.weight.new_zeros
        keys, values = new(batch_size, 0, self.widths[1]), new(batch_size, 0, self.widths[2])
        return self.move.init_state(batch_size), keys, values, new(batch_size, 0, dtype=torch.bool)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _mix(self, x: Tensor, kept: Tensor | None) -> Tensor:
        normed = self.norm(x)
        phi, q, k, gate, eta = self._project(self.dropout(self.move(normed, kept)))
        v = F.silu(self.v_proj(normed))
        L = x.shape[1]
        C = L if self.chunk is None else min(self.chunk, L)
        kept = x.new_ones(1, L, dtype=torch.bool) if kept is None else kept
        room = -L % C
        q, k, v = (F.pad(t, (0, 0, 0, room)).unflatten(1, (-1, C)) for t in (q, k, v))  # (B, n, C, .)
        at = torch.arange(C, device=x.device)
        there = F.pad(kept, (0, room)).unflatten(1, (-1, C)).unsqueeze(2)  # (B or 1, n, 1, C)
        o = self._weights(q, k, at, at, self._allowed(at, at) & there) @ wide(v)
        return self._gate(x, phi, gate, eta, o.flatten(1, 2)[:, :L])

    def _advance(self, x: Tensor, kept: Tensor | None, state: State) -> tuple[Tensor, State]:
        moved, keys, values, seen = state
        normed = self.norm(x)
        m, moved = self.move(normed, kept, state=moved, return_state=True)
        phi, q, k, gate, eta = self._project(self.dropout(m))
        keys = torch.cat([keys.to(k.dtype), k], 1)
        values = torch.cat([values, F.silu(self.v_proj(normed))], 1)
        now = seen.new_ones(x.shape[:2]) if kept is None else kept
        at = seen.sum(1, keepdim=True) + torch.arange(x.shape[1], device=x.device)  # (B, L)
        seen = torch.cat([seen, now], 1)
        of = seen.cumsum(1) - 1  # (B, T)
        allowed = self._allowed(at, of) & seen.unsqueeze(1)
        o = self._weights(q, keys, at, of, allowed) @ wide(values)
        return self._gate(x, phi, gate, eta, o), (moved, keys, values, seen)

    def _check(self, x: Tensor) -> None:
        if self.longest is not None and self.chunk is None:
            check_length(self, x, self.longest)

    def _allowed(self, at: Tensor, of: Tensor) -> Tensor:
        """Whether queries at ``at: (..., Q)`` may see keys at ``of: (..., K)``: ``(..., Q, K)``."""
        at, of = at.unsqueeze(-1), of.unsqueeze(-2)
        near = torch.ones_like(at == of) if self.chunk is None else at // self.chunk == of // self.chunk
        return near & (of <= at) if self.causal else near

    def _weights(self, q: Tensor, k: Tensor, at: Tensor, of: Tensor, allowed: Tensor) -> Tensor:
        """Attention weights ``(..., Q, K)`` in float32 at least."""
        with torch.autocast(q.device.type, enabled=False):
            scores = q @ k.mT
        bias = self._bias(of.unsqueeze(-2) - at.unsqueeze(-1))
        if self.attention == "softmax":
            # a row with no allowed key is padding: any finite numbers will do
            scores = (scores * q.shape[-1] ** -0.5 + bias).masked_fill(~allowed, torch.finfo(scores.dtype).min)
            return scores.softmax(-1)
        seen = allowed.sum(-1, keepdim=True).clamp(min=1)
        return laplace(scores / seen + bias).masked_fill(~allowed, 0)

    def _bias(self, lag: Tensor) -> Tensor:
        """The bias of a key ``lag`` positions after the query."""
        given = wide(self.rel_pos_bias)
        if self.longest is not None:
            return given[(lag + self.longest - 1).clamp(0, len(given) - 1)]
        (a1, a2), (b1, b2) = (v.chunk(2) for v in given)
        # product of query and key vectors, each rotated by its position
        rates = 10000.0 ** (-torch.arange(len(a1), device=lag.device, dtype=given.dtype) / len(a1))
        angle = -lag.unsqueeze(-1) * rates
        return angle.cos() @ (a1 * b1 + a2 * b2) + angle.sin() @ (a1 * b2 - a2 * b1)

    def _project(self, m: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        phi, zeta, gate, eta = self.mx_proj(m).split(self.widths, -1)
        zeta = wide(F.silu(zeta))
        q, k = (zeta * wide(g) + wide(b) for g, b in zip(self.gamma, self.beta, strict=True))
        return phi, q, k, gate, eta

    def _gate(self, x: Tensor, phi: Tensor, gate: Tensor, eta: Tensor, o: Tensor) -> Tensor:
        h = F.silu(eta + self.h_proj(F.silu(gate) * o.to(gate.dtype)))
        return phi.sigmoid() * (self.dropout(h) - x)


_NORMS = {"none": nn.Identity, "layer": nn.LayerNorm, "scale": ScaleNorm}
