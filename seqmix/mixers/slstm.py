"""sLSTM: the long short-term memory with scalar memories and exponential gates, of xLSTM."""

import math

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least, check_fraction
from seqmix.mixers.block_linear import BlockLinear
from seqmix.mixers.mixer import Mixer, register
from seqmix.mixers.norm import HeadNorm
from seqmix.mixers.state import last_inputs, mix_onward, with_last
from seqmix.ops import slstm
from seqmix.ops.packed import packed_conv1d
from seqmix.ops.slstm.slstm import EMPTY
from seqmix.ops.wide import wide

#: last inputs of the convolution ``(B, K - 1, D)``; output, memory, normalizer and exponent ``(B, 4, D)``
State = tuple[Tensor, Tensor]


@register(paper="arXiv:2405.04517", cost="L", variants=({"n_heads": 4, "d_conv": 1},), n_heads=2)
class SLSTM(Mixer):
    """Scalar memories with recurrent exponential input gates: the sLSTM layer of xLSTM.

    ``c[t] = f[t] c[t-1] + i[t] tanh(z[t])``, ``n[t] = f[t] n[t-1] + i[t]``, ``h[t] = sigmoid(o[t]) c[t] / n[t]`` (eq. 8
    to 18), ``i = exp(.)``, ``f = sigmoid(.)``, kept in range by the largest exponent so far. Every gate adds a
    block-diagonal map of ``h[t-1]``, so positions follow one another and cannot be computed in parallel. A norm per
    head follows.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D^2 / n_heads) time, O(L D) memory, one step after another.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        n_heads: blocks of the maps.
        d_conv: positions seen by the short convolution before the input and the forget gate.
        dropout: fraction dropped of the memories' output in training.

    Raises:
        ConfigError: if the heads do not divide the width.

    Source: Beck et al., 2024, arXiv:2405.04517, and NX-AI/xlstm. Differs from the original code in: the forget gates of
    a head start as in its first block at every depth; what it calls ``fgate`` drives the input gate, and is called
    ``igate`` here; masks and packed sequences.
    """

    causal = True

    def __init__(
        self, d_model: int, max_len: int | None = None, *, n_heads: int = 4, d_conv: int = 4, dropout: float = 0.0
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, n_heads=n_heads, d_conv=d_conv)
        check_fraction(dropout=dropout)
        if d_model % n_heads:
            raise ConfigError(f"n_heads = {n_heads} does not divide d_model = {d_model}; use a divisor of it")
        self.n_heads, P = n_heads, d_model // n_heads
        self.conv1d = nn.Conv1d(d_model, d_model, d_conv, groups=d_model)
        self.igate, self.fgate, self.zgate, self.ogate = (BlockLinear(d_model, n_heads, bias=False) for _ in range(4))
        for gate in (self.igate, self.fgate, self.zgate, self.ogate):
            nn.init.normal_(gate.weight, std=math.sqrt(2 / (5 * d_model)))
        self.recurrent = nn.Parameter(torch.zeros(n_heads, 4 * P, P))  # (head, gate and out, in)
        bias = torch.zeros(4, n_heads, P)
        # forget gates of a head from 5 down to -7 by a power law: long memories are rare
        bias[1] = 5 - 12 * (torch.arange(P) / max(1, P - 1)) ** 0.3
        self.bias = nn.Parameter(bias.flatten(1))  # (gate, D)
        self.group_norm = HeadNorm(d_model, n_heads)
        self.dropout = nn.Dropout(dropout)

    def no_weight_decay(self) -> set[str]:
        """Recurrent maps and biases, as in the original code."""
        return {"recurrent", "bias"}

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

    def init_state(self, batch_size: int) -> State:
        """Zero window, empty memories, and no exponent yet."""
        D, _, K = self.conv1d.weight.shape
        memory = wide(self.bias).new_zeros(batch_size, 4, D)
        memory[:, 3] = EMPTY
        return self.bias.new_zeros(batch_size, K - 1, D), memory

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: State) -> tuple[Tensor, State]:
        window, memory = state
        behind = window.shape[1]
        inputs = with_last(window, x)  # (B, K - 1 + L, D)
        weight, bounds = self.conv1d.weight.squeeze(1), [0, inputs.shape[1]]
        u = packed_conv1d(inputs, weight, self.conv1d.bias, bounds, padding="causal", activation="silu")[:, behind:]
        gates = torch.stack([self.igate(u), self.fgate(u), self.zgate(x), self.ogate(x)], 2)
        gates = wide(gates) + wide(self.bias)  # (B, L, 4, D)
        states = slstm(gates, self.recurrent, initial_state=memory)  # (B, L, 4, D)
        y = self.dropout(states[:, :, 0].to(x.dtype))
        # those after no step, and after each
        states = torch.cat([memory.unsqueeze(1), states], 1)
        memory = states[:, -1] if kept is None else states[torch.arange(len(x), device=x.device), kept.sum(1)]
        return self.group_norm(y), (last_inputs(inputs, behind, kept), memory)
