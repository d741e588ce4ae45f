"""minGRU: a gated recurrent unit whose gates see the input only."""

import torch
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.ops import linear_recurrence, recurrence_matrix
from seqmix.ops.wide import wide


@register(paper="arXiv:2410.01201", cost="L", variants=({"expand": 2, "positive": False},))
class MinGRU(Mixer):
    """Minimal gated recurrent unit, trained in parallel.

    ``h[t] = (1 - z[t]) h[t-1] + z[t] g(c[t])``, ``z = sigmoid(W_z x)``, ``c = W_h x``, where g is the identity or, with
    ``positive``, ``g(c) = c + 1/2`` for c >= 0 and ``sigmoid(c)`` below.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D E) time, O(L E) memory, E = expand D.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        expand: inner width over D; with 1 there is no output projection.
        positive: make candidate states positive, as the log-space form of the paper has to (appendix B.3).

    Raises:
        ConfigError: if ``expand`` is below 1.

    Source: Feng et al., 2024, arXiv:2410.01201, sec. 3.1. Differs from the original code in: no logarithms, so that
    states of any sign and gates of exactly 0 and 1 work; masks and packed sequences.
    """

    causal = True

    def __init__(self, d_model: int, max_len: int | None = None, *, expand: int = 1, positive: bool = True):
        super().__init__(d_model, max_len)
        check_at_least(1, expand=expand)
        self.positive, E = positive, expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * E, bias=False)
        self.out_proj = nn.Linear(E, d_model, bias=False) if expand > 1 else nn.Identity()

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        state: Tensor | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        candidate, gate = self.in_proj(zero_masked(x, mask)).chunk(2, -1)  # (B, L, E)
        h, state = linear_recurrence(
            wide(gate).sigmoid() * positive_state(wide(candidate), self.positive),
            wide(-gate).sigmoid(),
            initial_state=state,
            return_state=True,
            mask=mask,
            cu_seqlens=cu_seqlens,
        )
        y = self.out_proj(h.to(gate.dtype)).to(x.dtype)
        return (y, state) if return_state else y

    def matrix(self, x: Tensor) -> Tensor:
        """Matrix of the recurrence of each inner channel: ``(B, E, L, L)``."""
        _, gate = self.in_proj(x).chunk(2, -1)
        return recurrence_matrix((-gate).sigmoid()) * gate.sigmoid().mT.unsqueeze(2)

    def init_state(self, batch_size: int) -> Tensor:
        """Zeros ``(B, E)``."""
        weight = self.in_proj.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return weight.new_zeros(batch_size, weight.shape[0] // 2, dtype=dtype)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self(x.unsqueeze(1), state=state, return_state=True)
        return y.squeeze(1), state


def positive_state(x: Tensor, positive: bool) -> Tensor:
    """Return ``x + 1/2`` where x >= 0 and ``sigmoid(x)`` elsewhere, or x itself unless ``positive``."""
    return torch.where(x >= 0, x + 0.5, x.sigmoid()) if positive else x
