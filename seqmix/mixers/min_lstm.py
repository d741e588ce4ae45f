"""minLSTM: a long short-term memory whose gates see the input only."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.min_gru import positive_state
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.ops import linear_recurrence, recurrence_matrix
from seqmix.ops.wide import wide


@register(paper="arXiv:2410.01201", cost="L", variants=({"expand": 2, "positive": False},))
class MinLSTM(Mixer):
    """Minimal long short-term memory, trained in parallel.

    ``h[t] = f'[t] h[t-1] + i'[t] g(c[t])``, ``f' = f / (f + i)``, ``i' = i / (f + i)``, ``f = sigmoid(W_f x)``,
    ``i = sigmoid(W_i x)``, ``c = W_h x``; g as in ``MinGRU``.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D E) time, O(L E) memory, E = expand D.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        expand: inner width over D; with 1 there is no output projection.
        positive: make candidate states positive, as the log-space form of the paper has to (appendix B.3).

    Raises:
        ConfigError: if ``expand`` is below 1.

    Source: Feng et al., 2024, arXiv:2410.01201, sec. 3.2. Differs from the original code in: no logarithms, so that
    states of any sign and gates of exactly 0 and 1 work; masks and packed sequences.
    """

    causal = True

    def __init__(self, d_model: int, max_len: int | None = None, *, expand: int = 1, positive: bool = True):
        super().__init__(d_model, max_len)
        check_at_least(1, expand=expand)
        self.positive, E = positive, expand * d_model
        self.in_proj = nn.Linear(d_model, 3 * E, bias=False)
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
        candidate, forget = self._gates(zero_masked(x, mask))
        h, state = linear_recurrence(
            (-forget).sigmoid() * positive_state(candidate, self.positive),
            forget.sigmoid(),
            initial_state=state,
            return_state=True,
            mask=mask,
            cu_seqlens=cu_seqlens,
        )
        y = self.out_proj(h.to(self.in_proj.weight.dtype)).to(x.dtype)
        return (y, state) if return_state else y

    def matrix(self, x: Tensor) -> Tensor:
        """Matrix of the recurrence of each inner channel: ``(B, E, L, L)``."""
        _, forget = self._gates(x)
        return (recurrence_matrix(forget.sigmoid()) * (-forget).sigmoid().mT.unsqueeze(2)).to(x.dtype)

    def init_state(self, batch_size: int) -> Tensor:
        """Zeros ``(B, E)``."""
        weight = self.in_proj.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return weight.new_zeros(batch_size, weight.shape[0] // 3, dtype=dtype)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self(x.unsqueeze(1), state=state, return_state=True)
        return y.squeeze(1), state

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Candidates and the logits ``log f - log i`` of f', both ``(B, L, E)``."""
        candidate, f, i = wide(self.in_proj(x)).chunk(3, -1)
        return candidate, F.softplus(-i) - F.softplus(-f)
