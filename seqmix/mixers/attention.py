"""Softmax attention, with rotary positions or linear biases, and a key/value cache."""

import torch
from einops import rearrange
from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.mixers.mixer import Mixer, register, zero_masked


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
        head_dim: width of a head P; D / n_heads if not given.
        causal: attend to earlier positions and to itself only.
        rotary: turn queries and keys by their position.
        rope_base: wave length of the slowest turn over 2 pi, in positions.
        alibi: lower the scores in proportion to the distance, to both sides alike unless ``causal``.
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
        super().__init__()
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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend along L of ``x: (B, L, D)``."""
        q, k, v = self._project(zero_masked(x, mask), 0)
        bias = self._bias(x, mask)
        y = nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=bias,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and bias is None,
        )
        return zero_masked(self.proj(rearrange(y, "b h l p -> b l (h p)")), mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Attention weights between the projections, ``(B, n_heads, L, L)``."""
        q, k, _ = self._project(x, 0)
        bias = self._bias(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))
        scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5  # (B, H, L, L)
        return (scores + bias).softmax(-1)

    def init_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Empty keys and values, each ``(B, n_heads, 0, head_dim)``."""
        if not self.causal:
            raise TypeError("Attention with causal=False has no step(); build it with causal=True")
        empty = self.qkv.weight.new_zeros(batch_size, self.n_heads, 0, self.head_dim)
        return empty, empty

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend from ``x: (B, D)`` to all earlier positions and itself."""
        keys, values = state
        q, k, v = self._project(x.unsqueeze(1), keys.shape[2])
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        bias = None if self.slopes is None else _linear_bias(self.slopes, keys)[:, -1:]  # (H, 1, L)
        y = nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
        return self.proj(rearrange(y, "b h 1 p -> b (h p)")), (keys, values)

    def _project(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(self.qkv(x), "b l (three h p) -> three b h l p", three=3, h=self.n_heads)
        if self.rope_base is not None:
            q, k = _rotate(q, start, self.rope_base), _rotate(k, start, self.rope_base)
        return q, k, v

    def _bias(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """What is added to the scores, -inf where a position may not look, ``(B or 1, n_heads or 1, L, L)``."""
        if mask is None and self.slopes is None:
            return None
        L = x.shape[1]
        allowed = x.new_ones(1, 1, 1, L, dtype=torch.bool) if mask is None else mask[:, None, None, :]
        allowed = allowed.expand(-1, 1, L, L)  # (B, 1, L, L)
        if self.causal:
            allowed = allowed.tril()
        # each position may see itself: kernels differ on a row with nothing allowed, some give NaN
        allowed = allowed | torch.eye(L, dtype=torch.bool, device=x.device)
        bias = x.new_zeros(1, 1, 1) if self.slopes is None else _linear_bias(self.slopes, x)  # (H, L, L)
        return torch.where(allowed, bias, -torch.inf)


def _slopes(n_heads: int) -> list[float]:
    """2^(-8/n), 2^(-16/n), ... for n heads, n a power of two; what is over takes every second slope of 2 n heads."""
    n = 2 ** (n_heads.bit_length() - 1)
    return [2 ** (-8 * i / n) for i in range(1, n + 1)] + [2 ** (-4 * i / n) for i in range(1, 2 * (n_heads - n), 2)]


def _linear_bias(slopes: list[float], x: Tensor) -> Tensor:
    """Slope of the head times the distance, negative, ``(H, L, L)``; L, type and device are those of ``x``."""
    # bfloat16 does not hold every distance beyond 256
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    at = torch.arange(x.shape[-2], device=x.device, dtype=wide)
    rates = torch.tensor(slopes, device=x.device, dtype=wide)
    return (-rates[:, None, None] * (at[:, None] - at).abs()).to(x.dtype)


def _rotate(x: Tensor, start: int, base: float) -> Tensor:
    """Turn the pairs (i, i + P/2) of ``x: (B, H, L, P)`` by the angles of positions ``start, start + 1, ...``."""
    L, P = x.shape[-2:]
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    rates = base ** (-torch.arange(0, P, 2, dtype=wide, device=x.device) / P)
    angles = torch.outer(torch.arange(start, start + L, dtype=wide, device=x.device), rates)  # (L, P/2)
    cos, sin = angles.cos(), angles.sin()
    left, right = x.to(wide).chunk(2, -1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], -1).to(x.dtype)
