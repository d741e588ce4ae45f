"""Softmax attention, with rotary positions or linear biases, and a key/value cache."""

from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least, check_fraction
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.mixers.state import mix_onward
from seqmix.ops.packed import sequence_bounds
from seqmix.ops.wide import wide, widest

#: keys and values of all positions so far, each ``(B, n_heads, T, head_dim)``, and which of them count ``(B, T)``
Cache = tuple[Tensor, Tensor, Tensor]


@register(
    paper="arXiv:1706.03762",
    cost="L^2",
    variants=(
        {"rotary": True, "qkv_bias": True, "bias": True},
        {"alibi": True, "n_heads": 3, "head_dim": 4},
        {"causal": True},
        {"causal": True, "rotary": True},
        {"causal": True, "alibi": True},
    ),
    n_heads=2,
)
class Attention(Mixer):
    """Multi-head scaled dot-product attention, optionally with rotary position embedding.

    ``y = softmax(q k^T / sqrt(P)) v`` per head of width P (eq. 1). With ``rotary`` q and k of position t are turned by
    angles proportional to t (arXiv:2104.09864, eq. 34), so that scores depend on distances only. With ``alibi`` each
    head takes its slope times the distance off its scores (arXiv:2108.12409, sec. 3).

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L^2 D) time; memory O(L D) where the kernel of the device allows,
    with ``alibi`` O(n_heads L^2).

    Args:
        d_model: width D.
        max_len: unused, every length works.
        n_heads: number of heads.
        head_dim: width of a head P. Default: D / n_heads.
        causal: attend to the same and earlier positions only.
        rotary: rotary position embedding of queries and keys.
        rope_base: wave length of the slowest turn over 2 pi, in positions.
        alibi: linear biases: lower scores in proportion to the distance, on both sides unless ``causal``.
        qkv_bias: bias on the query, key and value projection.
        bias: bias on the output projection.
        dropout: fraction of the attention weights dropped in training.

    Raises:
        ConfigError: if ``d_model`` is not a multiple of ``n_heads`` and no ``head_dim`` is given, or if ``rotary``
            meets an odd width of heads.

    Source: Vaswani et al., 2017, arXiv:1706.03762, sec. 3.2; rotary: Su et al., 2021, arXiv:2104.09864; alibi: Press
    et al., 2022, arXiv:2108.12409, to both sides as in MosaicBERT, arXiv:2312.17482. Differs from the original code
    in: q, k and v are one projection; rotation pairs channel i with i + P/2 instead of 2i with 2i + 1, the same up to
    the order of channels.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        n_heads: int = 4,
        head_dim: int | None = None,
        causal: bool = False,
        rotary: bool = False,
        rope_base: float = 10000.0,
        alibi: bool = False,
        qkv_bias: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, n_heads=n_heads, head_dim=head_dim, rope_base=rope_base)
        check_fraction(dropout=dropout)
        if head_dim is None and d_model % n_heads:
            raise ConfigError(
                f"d_model = {d_model} is not a multiple of n_heads = {n_heads}; change one, or set head_dim"
            )
        head_dim = head_dim or d_model // n_heads
        if rotary and head_dim % 2:
            raise ConfigError(f"rotary turns pairs of channels, head_dim = {head_dim} is odd; use an even head_dim")
        self.n_heads, self.head_dim, self.causal, self.dropout = n_heads, head_dim, causal, dropout
        self.rope_base = rope_base if rotary else None
        self.slopes = _slopes(n_heads) if alibi else None
        self.qkv = nn.Linear(d_model, 3 * n_heads * head_dim, bias=qkv_bias)
        self.proj = nn.Linear(n_heads * head_dim, d_model, bias=bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        state: Cache | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, Cache]:
        if state is not None or return_state:
            return mix_onward(self, self._advance, x, mask, state, return_state, cu_seqlens)
        bounds = sequence_bounds(x, cu_seqlens, mask)
        q, k, v = self._project(zero_masked(x, mask), torch.arange(x.shape[1], device=x.device))
        if cu_seqlens is None:
            y = self._attend(q, k, v, self._bias(x, mask))
        else:
            pieces = zip(*(t.split([j - i for i, j in pairwise(bounds)], 2) for t in (q, k, v)), strict=True)
            y = torch.cat([self._attend(q, k, v, self._bias(q[:, 0], None)) for q, k, v in pieces], 2)
        return zero_masked(self._merge(y), mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Attention weights between the projections, ``(B, n_heads, L, L)``."""
        q, k, _ = self._project(x, torch.arange(x.shape[1], device=x.device))
        bias = self._bias(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))
        scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5  # (B, H, L, L)
        return (scores + bias).softmax(-1)

    def init_state(self, batch_size: int) -> Cache:
        """Empty keys and values, each ``(B, n_heads, 0, head_dim)``, and which of them count ``(B, 0)``."""
        if not self.causal:
            raise TypeError("Attention with causal=False has no step(); build it with causal=True")
        empty = self.qkv.weight.new_zeros(batch_size, self.n_heads, 0, self.head_dim)
        return empty, empty, empty.new_zeros(batch_size, 0, dtype=torch.bool)

    def step(self, x: Tensor, state: Cache) -> tuple[Tensor, Cache]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: Cache) -> tuple[Tensor, Cache]:
        keys, values, seen = state
        L, before = x.shape[1], keys.shape[2]
        i = torch.arange(L, device=x.device)
        at = seen.sum(1, keepdim=True) + i  # (B, L)
        q, k, v = self._project(x, at)
        keys, values = torch.cat([keys.to(k.dtype), k], 2), torch.cat([values.to(v.dtype), v], 2)
        seen = torch.cat([seen, seen.new_ones(x.shape[0], L) if kept is None else kept], 1)  # (B, T)
        bias = None
        if before or kept is not None or self.slopes is not None:
            ahead = torch.arange(before + L, device=x.device) - (before + i).unsqueeze(1)  # (L, T)
            # each position may see itself: kernels differ on a row with nothing allowed, some give NaN
            allowed = seen[:, None, None] & (ahead < 0) | (ahead == 0)  # (B, 1, L, T)
            bias = allowed
            if self.slopes is not None:
                bias = _linear_bias(self.slopes, at, seen.cumsum(1) - 1, x).masked_fill(~allowed, -torch.inf)
        return self._merge(self._attend(q, keys, values, bias)), (keys, values, seen)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=bias,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and bias is None,
        )

    def _merge(self, y: Tensor) -> Tensor:
        return self.proj(rearrange(y, "b h l p -> b l (h p)"))

    def _project(self, x: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``(B, H, L, P)`` of ``x`` at positions ``at: (L,)`` or ``(B, L)``."""
        q, k, v = rearrange(self.qkv(x), "b l (three h p) -> three b h l p", three=3, h=self.n_heads)
        if self.rope_base is not None:
            q, k = rotate(q, at, self.rope_base), rotate(k, at, self.rope_base)
        return q, k, v

    def _bias(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """Bias of the scores, -inf at masked pairs, ``(B or 1, n_heads or 1, L, L)``."""
        if mask is None and self.slopes is None:
            return None
        L = x.shape[1]
        allowed = x.new_ones(1, 1, 1, L, dtype=torch.bool) if mask is None else mask[:, None, None, :]
        allowed = allowed.expand(-1, 1, L, L)  # (B, 1, L, L)
        if self.causal:
            allowed = allowed.tril()
        # each position may see itself: kernels differ on a row with nothing allowed, some give NaN
        allowed = allowed | torch.eye(L, dtype=torch.bool, device=x.device)
        at = torch.arange(L, device=x.device)
        bias = x.new_zeros(()) if self.slopes is None else _linear_bias(self.slopes, at, at, x)  # (H, L, L)
        return torch.where(allowed, bias, -torch.inf)


def _slopes(n_heads: int) -> list[float]:
    """2^(-8/n), 2^(-16/n), ... for n heads, n a power of two; further heads take every second slope of 2 n heads."""
    n = 2 ** (n_heads.bit_length() - 1)
    return [2 ** (-8 * i / n) for i in range(1, n + 1)] + [2 ** (-4 * i / n) for i in range(1, 2 * (n_heads - n), 2)]


def _linear_bias(slopes: list[float], at: Tensor, of: Tensor, x: Tensor) -> Tensor:
    """Slope of a head times the distance of ``at: (..., L)`` and ``of: (..., T)``, negative: ``(..., H, L, T)``."""
    # bfloat16 does not hold every distance beyond 256
    dtype = torch.promote_types(x.dtype, torch.float32)
    rates = torch.tensor(slopes, device=x.device, dtype=dtype)[:, None, None]
    distance = (at.unsqueeze(-1) - of.unsqueeze(-2)).abs().unsqueeze(-3)  # (..., 1, L, T)
    return (-rates * distance).to(x.dtype)


def rotate(x: Tensor, at: Tensor, base: float) -> Tensor:
    """Turn the pairs (i, i + P/2) of ``x: (B, H, L, P)`` by the angles of positions ``at: (L,)`` or ``(B, L)``."""
    P = x.shape[-1]
    rates = base ** (-widest(torch.arange(0, P, 2, device=x.device)) / P)
    angles = (at.unsqueeze(-1) * rates).unsqueeze(-3)  # (B or 1, 1, L, P/2)
    left, right = wide(x).chunk(2, -1)
    cos, sin = angles.cos().to(left.dtype), angles.sin().to(left.dtype)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], -1).to(x.dtype)
