"""The channel mix of RWKV-7: dense layers that also see the position before (Peng et al., 2025)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.mixers.state import last_inputs, mix_onward, with_last
from seqmix.ops.packed import sequence_bounds, shift_within


@register(paper="arXiv:2503.14456", cost="L", d_inner=6)
class RWKV7Channel(Mixer):
    """Channel mix of RWKV-7 "Goose", the channel mixer that goes with ``RWKV7``: token shift and a squared ReLU.

    ``y[t] = W_value relu(W_key (x[t] + mu o (x[t-1] - x[t])))^2`` with a learned weight mu for each channel.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D d_inner).

    Args:
        d_model: width D.
        max_len: unused, every length works.
        d_inner: inner width. Default: 4 D, to a multiple of 32.

    Raises:
        ConfigError: if ``d_inner`` is below 1.

    Source: Peng et al., 2025, arXiv:2503.14456, sec. 4; weights of fla-org/flash-linear-attention load under their own
    keys. Differs from the original code in: all layers start as the first; masks are exact on both sides.
    """

    causal = True

    def __init__(self, d_model: int, max_len: int | None = None, *, d_inner: int | None = None):
        super().__init__(d_model, max_len)
        check_at_least(1, d_inner=d_inner)
        d_inner = d_inner or 32 * -(-4 * d_model // 32)
        self.x_k = nn.Parameter(1 - torch.arange(d_model) / d_model)
        self.key = nn.Linear(d_model, d_inner, bias=False)
        self.value = nn.Linear(d_inner, d_model, bias=False)
        nn.init.orthogonal_(self.key.weight)
        nn.init.zeros_(self.value.weight)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        state: Tensor | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Mix the features of each position with those of the one before; the state is the last position ``(B, D)``."""
        if state is not None or return_state:
            return mix_onward(self, self._advance, x, mask, state, return_state, cu_seqlens)
        bounds = sequence_bounds(x, cu_seqlens, mask)
        x = zero_masked(x, mask)
        return zero_masked(self._mix(x, shift_within(x, bounds, reverse=False)), mask)

    def init_state(self, batch_size: int) -> Tensor:
        """The position before the first one ``(B, D)``, zero."""
        return self.x_k.new_zeros(batch_size, len(self.x_k))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _mix(self, x: Tensor, before: Tensor) -> Tensor:
        return self.value(F.relu(self.key(torch.lerp(x, before, self.x_k))).square())

    def _advance(self, x: Tensor, kept: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        inputs = with_last(state.unsqueeze(1), x)
        return self._mix(x, inputs[:, :-1]), last_inputs(inputs, 1, kept).squeeze(1)
