"""Attention to a window of the last positions, in linear time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least, check_fraction
from seqmix.mixers.mixer import Mixer, register
from seqmix.mixers.state import last_inputs, mix_onward, with_last

#: keys and values of the last W positions, each ``(B, W, H, P)``, and which of them are there ``(B, W)``
State = tuple[Tensor, Tensor, Tensor]


@register(
    paper="arXiv:2004.05150", cost="L", variants=({"n_heads": 1, "window": 1, "bias": False},), n_heads=2, window=3
)
class SlidingWindow(Mixer):
    """Causal softmax attention to the position itself and the ``window`` positions before it.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D (D + window)) time, O(L (D + H window)) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        window: number of earlier positions that are seen.
        n_heads: heads H, which divide D.
        bias: bias on the projection to queries, keys and values.
        dropout: fraction of the weights dropped in training.

    Raises:
        ConfigError: if the heads do not divide the width.

    Source: Beltagy et al., 2020, arXiv:2004.05150; as the layers between those of Based, HazyResearch/zoology. Differs
    from that code in: 64 positions by default, as in the paper of Based, not 256; blocks instead of an L x L matrix;
    heads; masks and packed sequences.
    """

    causal = True

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        window: int = 64,
        n_heads: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, window=window, n_heads=n_heads)
        check_fraction(dropout=dropout)
        if d_model % n_heads:
            raise ConfigError(f"n_heads = {n_heads} does not divide d_model = {d_model}; use a divisor of it")
        self.window, self.n_heads, self.dropout = window, n_heads, dropout
        self.Wqkv = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model)

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
        """Attention weights between the projections, ``(B, H, L, L)``."""
        q, k, _ = self._project(x)
        t = torch.arange(x.shape[1], device=x.device)
        lag = t.unsqueeze(1) - t
        scores = torch.einsum("bihp,bjhp->bhij", q, k) * q.shape[-1] ** -0.5
        return scores.masked_fill((lag < 0) | (lag > self.window), -torch.inf).softmax(-1)

    def init_state(self, batch_size: int) -> State:
        """Empty keys and values of a window."""
        D, H = self.out_proj.in_features, self.n_heads
        empty = self.out_proj.weight.new_zeros(batch_size, self.window, H, D // H)
        return empty, empty, torch.zeros(batch_size, self.window, dtype=torch.bool, device=empty.device)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: State) -> tuple[Tensor, State]:
        q, k, v = self._project(x)
        L, W = x.shape[1], self.window
        there = state[2].new_ones(x.shape[:2]) if kept is None else kept
        keys, values = (with_last(old, new) for old, new in zip(state, (k, v), strict=False))
        seen = torch.cat([state[2], there], 1)  # (B, W + L)
        # blocks of W queries see 2 W keys, which begin W before their own
        room = -L % W
        blocks = [F.pad(t, (0, 0, 0, 0, 0, room)).unfold(1, 2 * W, W) for t in (keys, values)]  # (B, n, H, P, 2 W)
        i, j = torch.arange(W, device=x.device), torch.arange(2 * W, device=x.device)
        near = (j >= i.unsqueeze(1)) & (j <= i.unsqueeze(1) + W)  # (W, 2 W)
        # each position may see itself: kernels differ on a row with nothing allowed, some give NaN
        itself = j == i.unsqueeze(1) + W
        allowed = near & F.pad(seen, (0, room)).unfold(1, 2 * W, W).unsqueeze(2) | itself  # (B, n, W, 2 W)
        y = F.scaled_dot_product_attention(
            F.pad(q, (0, 0, 0, 0, 0, room)).unflatten(1, (-1, W)).transpose(2, 3),
            *(t.mT for t in blocks),
            attn_mask=allowed.unsqueeze(2),
            dropout_p=self.dropout if self.training else 0.0,
        )  # (B, n, H, W, P)
        y = self.out_proj(y.transpose(2, 3).flatten(1, 2)[:, :L].flatten(2))
        keys, values, seen = (last_inputs(t, W, kept) for t in (keys, values, seen))
        return y, (keys, values, seen)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``(B, L, H, P)``."""
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)) for t in self.Wqkv(x).chunk(3, -1))
        return q, k, v
