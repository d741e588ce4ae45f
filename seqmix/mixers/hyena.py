"""Hyena: long convolutions with implicit kernels, between gates."""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least, check_fraction
from seqmix.mixers.mixer import Mixer, register, require_max_len, zero_masked
from seqmix.mixers.state import last_inputs, mix_onward, with_last
from seqmix.ops import causal_conv
from seqmix.ops.packed import packed_conv1d
from seqmix.ops.wide import wide

#: last inputs of the short convolution ``(B, K - 1, 3 D)``, inputs of the long one ``(B, T, D)``, and which count
State = tuple[Tensor, Tensor, Tensor]

# value of the window at the end of the kernel
_TARGET = 0.01


@register(
    paper="arXiv:2302.10866", cost="L log^2 L", variants=({"emb_dim": 5, "d_conv": 1, "shift": 0.1},), filter_order=6
)
class Hyena(Mixer):
    """Hyena operator of order two.

    ``y = W_o (x_2 o (h * (x_1 o v) + D o x_1 o v))``, where x_1, x_2 and v come from one projection and a short causal
    convolution, and the kernel h is an MLP with sines of the position, times a window that decays at a rate of its own
    in every channel.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D log^2 L) time, O(L D) memory; a step after t others costs
    O(t D).

    Args:
        d_model: width D.
        max_len: length to which positions are scaled; windows fade beyond it.
        filter_order: width of the MLP that makes the kernel.
        n_filter_layers: inner layers of that MLP.
        emb_dim: features of a position, odd: its share of ``max_len``, cosines and sines.
        frequency: of the MLP's sines at initialization.
        d_conv: positions seen by the short convolution.
        fast_decay: fraction of ``max_len`` after which the fastest window has decayed to 0.01.
        slow_decay: the same for the slowest window.
        shift: added to the window.
        dropout: fraction dropped of ``x_1 o v`` in training.

    Raises:
        ConfigError: if ``max_len`` is missing, or ``emb_dim`` is even or below 3.

    Source: Poli et al., 2023, arXiv:2302.10866, as in HazyResearch/zoology. Differs from the original code in:
    positions are not learned (there at a rate of 1e-5), the kernel is at the learning rate of the model (there at
    1e-3); exactly causal, by a convolution in blocks; one head, one block; sequences may be longer than ``max_len``;
    masks.
    """

    causal = True

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        filter_order: int = 64,
        n_filter_layers: int = 2,
        emb_dim: int = 3,
        frequency: float = 1.0,
        d_conv: int = 3,
        fast_decay: float = 0.3,
        slow_decay: float = 1.5,
        shift: float = 0.0,
        dropout: float = 0.0,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, filter_order=filter_order, n_filter_layers=n_filter_layers, emb_dim=emb_dim, d_conv=d_conv)
        check_fraction(dropout=dropout)
        if emb_dim < 3 or not emb_dim % 2:
            raise ConfigError(f"emb_dim = {emb_dim} is not odd and at least 3: a position, cosines and sines; use 3")
        if not 0 < fast_decay <= slow_decay:
            raise ConfigError(
                f"fast_decay = {fast_decay} and slow_decay = {slow_decay} are not 0 < fast <= slow; use 0.3 and 1.5"
            )
        self.max_len = require_max_len(self, max_len, "a kernel as long as the sequence")
        self.shift, self.emb_dim = shift, emb_dim
        self.decays = (-math.log(_TARGET) / slow_decay, -math.log(_TARGET) / fast_decay)
        self.in_proj, self.out_proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.short_filter = nn.Conv1d(3 * d_model, 3 * d_model, d_conv, groups=3 * d_model)
        widths = [emb_dim, *[filter_order] * (n_filter_layers + 1)]
        self.implicit = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.implicit_out = nn.Linear(filter_order, d_model, bias=False)
        self.freq = nn.Parameter(torch.full((filter_order,), frequency))
        self.long_bias = nn.Parameter(torch.randn(d_model))
        self.dropout = nn.Dropout(dropout)

    def no_weight_decay(self) -> set[str]:
        """All that makes the kernel, as in the original code."""
        return {name for name, _ in self.named_parameters() if name.startswith(("implicit", "freq"))}

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, state: State | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, State]:
        if state is not None or return_state:
            return mix_onward(self, self._advance, x, mask, state, return_state)
        # biases fill padding again, and the convolutions would carry it to its neighbors
        u = zero_masked(self.in_proj(zero_masked(x, mask)), mask)
        x1, x2, v = self._convolve(u).chunk(3, -1)
        u = self.dropout(zero_masked(v * x1, mask))
        y = causal_conv(u, self._kernel(x.shape[1])).to(u.dtype) + self.long_bias * u
        return zero_masked(self.out_proj(y * x2), mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Matrix between the projections, gates included: ``(B, D, L, L)``."""
        x1, x2, _ = self._convolve(self.in_proj(x)).chunk(3, -1)
        t = torch.arange(x.shape[1], device=x.device)
        lag = t.unsqueeze(1) - t
        kernel = self._kernel(x.shape[1])
        kernel = torch.cat([kernel[:, :1] + self.long_bias.unsqueeze(1), kernel[:, 1:]], 1)
        toeplitz = kernel[:, lag.clamp(min=0)].tril()  # (D, L, L)
        return (x2.mT.unsqueeze(3) * toeplitz * x1.mT.unsqueeze(2)).to(x.dtype)

    def init_state(self, batch_size: int) -> State:
        """Zero window of the short convolution, and no inputs of the long one."""
        width, _, K = self.short_filter.weight.shape
        new = self.short_filter.weight.new_zeros
        return new(batch_size, K - 1, width), new(batch_size, 0, width // 3), new(batch_size, 0, dtype=torch.bool)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: State) -> tuple[Tensor, State]:
        window, past, seen = state
        kept = seen.new_ones(x.shape[:2]) if kept is None else kept
        before, T = seen.sum(1), past.shape[1]
        longest = T + x.shape[1]
        inputs = with_last(window, self.in_proj(x))
        x1, x2, v = self._convolve(inputs)[:, window.shape[1] :].chunk(3, -1)
        u = self.dropout(zero_masked(v * x1, kept))
        kernel = self._kernel(longest)
        y = causal_conv(u, kernel).to(u.dtype) + self.long_bias * u
        if T:
            at = before.unsqueeze(1) + torch.arange(x.shape[1], device=x.device)  # (B, L)
            lag = at.unsqueeze(2) - (seen.cumsum(1) - 1).unsqueeze(1)  # (B, L, T)
            taps = kernel.mT[lag.clamp(0, longest - 1)]  # (B, L, T, D)
            y = y + torch.einsum("bltd,btd->bld", taps, wide(past)).to(y.dtype)
        y = self.out_proj(y * x2)
        return y, (last_inputs(inputs, window.shape[1], kept), torch.cat([past, u], 1), torch.cat([seen, kept], 1))

    def _convolve(self, u: Tensor) -> Tensor:
        filters = self.short_filter
        return packed_conv1d(u, filters.weight.squeeze(1), filters.bias, [0, u.shape[1]], padding="causal")

    def _kernel(self, length: int) -> Tensor:
        """The first taps of every channel, ``(D, length)``, in float32 at least."""
        weight = wide(self.freq)
        t = torch.arange(length, device=weight.device, dtype=weight.dtype).unsqueeze(1)  # (L, 1)
        share = t / max(1, self.max_len - 1)
        bands = torch.linspace(1e-4, self.emb_dim // 2 - 1, self.emb_dim // 2, device=t.device, dtype=t.dtype)
        angle = 2 * math.pi / self.max_len * t * bands
        with torch.autocast(t.device.type, enabled=False):
            h = torch.cat([share, angle.cos(), -angle.sin()], -1)
            for layer in cast(Iterable[nn.Linear], self.implicit):
                h = (weight * nn.functional.linear(h, wide(layer.weight), wide(layer.bias))).sin()
            h = nn.functional.linear(h, wide(self.implicit_out.weight))
        rates = torch.linspace(*self.decays, h.shape[1], device=t.device, dtype=t.dtype)
        return (h * ((-share * rates).exp() + self.shift)).mT
