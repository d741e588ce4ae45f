"""The recurrent block of Griffin and Hawk: RG-LRU after a short convolution, with a gate beside it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.block_linear import BlockLinear
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.mixers.state import last_inputs, mix_onward, with_last
from seqmix.ops import linear_recurrence, recurrence_matrix
from seqmix.ops.packed import packed_conv1d, sequence_bounds
from seqmix.ops.wide import wide

#: last inputs of the convolution ``(B, K - 1, E)``, state of the recurrence ``(B, E)``, and whether there was an input
State = tuple[Tensor, Tensor, Tensor]

# the constant c of eq. 4
_SHARPNESS = 8.0
# floor of 1 - a^2: the slope of its square root is at most 1,000
_LEAST = 2.5e-7


@register(paper="arXiv:2402.19427", cost="L", variants=({"width": 12, "n_heads": 3, "d_conv": 1},), n_heads=2)
class RGLRU(Mixer):
    """Real-gated linear recurrent unit in the recurrent block of Griffin.

    ``y = W_o (GELU(W_y x) o h)``, ``h[t] = a[t] h[t-1] + sqrt(1 - a[t]^2) (i[t] o u[t])``, u a short causal convolution
    of ``W_x x``, ``a = exp(-8 softplus(lambda) r)``, ``r = sigmoid(W_a u)``, ``i = sigmoid(W_i u)`` (eq. 1 to 4), where
    W_a and W_i are block-diagonal. The first input is taken in full: its factor is 1, not the root.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L E (D + E / n_heads)) time, O(L E) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        width: inner width E. Default: D.
        n_heads: blocks of the gates' matrices.
        d_conv: positions seen by the short convolution.

    Raises:
        ConfigError: if the heads do not divide the inner width.

    Source: De et al., 2024, arXiv:2402.19427, sec. 2.3 and 2.4, and google-deepmind/recurrentgemma, which differs from
    the paper: the first input is taken in full, and ``exp(-softplus(lambda))`` starts from 0.9 to 0.999, not its
    power 8. Differs from that code in: the slope of the root is cut off below ``1 - a^2 = 2.5e-7``, where it is bounded
    there; masks and packed sequences instead of positions.
    """

    causal = True
    state_space = ("a_param",)

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        width: int | None = None,
        n_heads: int = 4,
        d_conv: int = 4,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, width=width, n_heads=n_heads, d_conv=d_conv)
        E = width or d_model
        if E % n_heads:
            raise ConfigError(f"n_heads = {n_heads} does not divide the inner width {E}; use a divisor of it")
        self.linear_x, self.linear_y = nn.Linear(d_model, E), nn.Linear(d_model, E)
        self.linear_out = nn.Linear(E, d_model)
        self.conv1d = nn.Conv1d(E, E, d_conv, groups=E)
        self.input_gate, self.a_gate = BlockLinear(E, n_heads), BlockLinear(E, n_heads)
        # exp(-softplus(lambda)) is uniform by area in the ring from 0.9 to 0.999
        squares = torch.empty(E).uniform_(0.9**2, 0.999**2)
        self.a_param = nn.Parameter(torch.expm1(-squares.log() / 2).log())
        for linear in (self.linear_x, self.linear_y, self.linear_out):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)
        nn.init.normal_(self.conv1d.weight, std=math.sqrt(0.01 / d_conv))
        self.conv1d.bias = nn.Parameter(torch.zeros(E))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        state: State | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, State]:
        if state is not None or return_state:
            return mix_onward(self, self._advance, x, mask, state, return_state, cu_seqlens)
        bounds = sequence_bounds(x, cu_seqlens, mask)
        x = zero_masked(x, mask)
        # the bias fills padding again, and the convolution would carry it to its neighbors
        u = self._convolve(zero_masked(self.linear_x(x), mask), bounds)
        first = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        if mask is None:
            first[:, bounds[:-1]] = True
        else:
            first = mask & (mask.cumsum(1) == 1)
        values, a = self._inputs(u, first)
        h = linear_recurrence(values, a, mask=mask, cu_seqlens=cu_seqlens)
        return zero_masked(self._out(x, h), mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Matrix of the recurrence of each inner channel, after the convolution: ``(B, E, L, L)``."""
        u = self._convolve(self.linear_x(x), [0, x.shape[1]])
        first = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2]) == 0
        gain, a = self._gates(u, first)
        return (recurrence_matrix(a) * gain.mT.unsqueeze(2)).to(x.dtype)

    def init_state(self, batch_size: int) -> State:
        """Zero window of the convolution, zero state, and no input so far."""
        E, _, K = self.conv1d.weight.shape
        weight = self.conv1d.weight
        h = weight.new_zeros(batch_size, E, dtype=torch.promote_types(weight.dtype, torch.float32))
        return weight.new_zeros(batch_size, K - 1, E), h, torch.zeros(batch_size, dtype=torch.bool, device=h.device)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: State) -> tuple[Tensor, State]:
        window, h, begun = state
        behind = window.shape[1]
        inputs = with_last(window, self.linear_x(x))  # (B, K - 1 + L, E)
        u = self._convolve(inputs, [0, inputs.shape[1]])[:, behind:]
        first = (torch.arange(x.shape[1], device=x.device) == 0) & ~begun.unsqueeze(1)  # (B, L)
        values, a = self._inputs(u, first)
        h, last = linear_recurrence(values, a, initial_state=h, return_state=True, mask=kept)
        begun = begun | (torch.ones_like(begun) if kept is None else kept[:, 0])
        return self._out(x, h), (last_inputs(inputs, behind, kept), last, begun)

    def _convolve(self, x: Tensor, bounds: list[int]) -> Tensor:
        return packed_conv1d(x, self.conv1d.weight.squeeze(1), self.conv1d.bias, bounds, padding="causal")

    def _gates(self, u: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Factor of the input, and decay, both ``(B, L, E)``."""
        log_a = -_SHARPNESS * wide(self.a_gate(u)).sigmoid() * F.softplus(wide(self.a_param))
        root = (-torch.expm1(2 * log_a)).clamp(min=_LEAST).sqrt()
        root = root.masked_fill(first.unsqueeze(-1), 1)
        return root * wide(self.input_gate(u)).sigmoid(), log_a.exp()

    def _inputs(self, u: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        gain, a = self._gates(u, first)
        return gain * wide(u), a

    def _out(self, x: Tensor, h: Tensor) -> Tensor:
        gate = F.gelu(self.linear_y(x), approximate="tanh")
        return self.linear_out(gate * h.to(gate.dtype))
