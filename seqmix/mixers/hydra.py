"""Hydra: bidirectional state space models as quasiseparable matrix mixers (Hwang et al., 2024)."""

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.mamba2 import inner_sizes
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.mixers.norm import RMSNorm
from seqmix.mixers.ssm import check_steps, draw_within, dt_bias, rates
from seqmix.ops.packed import packed_conv1d, sequence_bounds
from seqmix.ops.quasiseparable import quasiseparable, quasiseparable_matrix
from seqmix.ops.ssd import step_sizes


@register(
    paper="arXiv:2407.09941",
    cost="L",
    variants=(
        {"d_conv": 3, "ngroups": 2, "bias": True, "conv_bias": False, "chunk_size": 5},
        {"learnable_init_states": True, "dt_limit": (0.01, 0.1), "expand": 1},
    ),
    d_state=4,
    headdim=4,
)
class Hydra(Mixer):
    """Bidirectional state space models through generalized matrix mixers.

    ``y = shift(SS(x)) + flip(shift(SS(flip(x)))) + D x`` (proposition 3.7): a semiseparable matrix for each triangle
    and a diagonal free of both, between a short convolution and a gated norm.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L E (D + N)) time, O(L E) memory, E = expand D.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        d_state: state size per head N.
        d_conv: positions seen by the short convolution, centered, odd.
        conv_init: convolution weights are drawn from (-conv_init, conv_init). Default: PyTorch's rule.
        expand: inner width over D.
        headdim: channels per head P, which share a mixing matrix.
        ngroups: groups of heads that share B and C.
        dt_min: smallest step at initialization, in units of one position.
        dt_max: largest step at initialization, in units of one position.
        dt_init_floor: bound from below on the steps at initialization, in units of one position.
        dt_limit: range to which steps are clamped, in units of one position.
        learnable_init_states: learn the state before the first and after the last position, one for both.
        bias: bias on the input and output projections.
        conv_bias: bias on the short convolution.
        chunk_size: positions per chunk of the scan, for speed only. Default: chosen by the op.

    Raises:
        ConfigError: if the heads do not divide the inner width, the groups the heads, or ``d_conv`` is even.

    Source: Hwang et al., 2024, arXiv:2407.09941, sec. 3; weights of goombalab/hydra load under their own keys. Differs
    from the original code in: masks and packed sequences, both exact; ``chunk_size`` is 256 there.
    """

    state_space = ("A_log", "D", "dt_bias", "init_states")

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        d_state: int = 64,
        d_conv: int = 7,
        conv_init: float | None = None,
        expand: int = 2,
        headdim: int = 64,
        ngroups: int = 1,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        learnable_init_states: bool = False,
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int | None = None,
    ):
        super().__init__(d_model, max_len)
        check_at_least(
            1, d_state=d_state, d_conv=d_conv, expand=expand, headdim=headdim, ngroups=ngroups, chunk_size=chunk_size
        )
        check_steps(dt_min, dt_max, dt_limit)
        E, H = inner_sizes(d_model, expand, headdim, ngroups)
        if d_conv % 2 == 0:
            raise ConfigError(f"d_conv = {d_conv} is even and has no center; use {d_conv - 1} or {d_conv + 1}")
        self.headdim, self.ngroups, self.dt_limit, self.chunk_size = headdim, ngroups, dt_limit, chunk_size
        # z | x, B, C forward, B, C backward | dt forward, dt backward
        self.split = (E, E + 4 * ngroups * d_state, 2 * H)
        self.in_proj = nn.Linear(d_model, sum(self.split), bias=bias)
        self.conv1d = nn.Conv1d(self.split[1], self.split[1], d_conv, groups=self.split[1], bias=conv_bias)
        draw_within(self.conv1d.weight, conv_init)
        self.init_states: nn.Parameter | None = None
        if learnable_init_states:
            self.init_states = nn.Parameter(torch.zeros(H, headdim, d_state))
        self.dt_bias = nn.Parameter(dt_bias(H, dt_min, dt_max, dt_init_floor))
        self.A_log = nn.Parameter(torch.zeros(H))
        self.D = nn.Parameter(torch.ones(H))
        self.fc_D = nn.Linear(E, H, bias=False)
        self.norm = RMSNorm(E)
        self.out_proj = nn.Linear(E, d_model, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, cu_seqlens: Tensor | None = None) -> Tensor:
        bounds = sequence_bounds(x, cu_seqlens, mask)
        z, dt, x, B, C, diagonal = self._operands(x, mask, bounds)
        S = self.init_states
        S = None if S is None else S.expand(x.shape[0] * (len(bounds) - 1), -1, -1, -1)
        y = quasiseparable(
            x,
            dt,
            rates(self.A_log),
            B,
            C,
            diagonal,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            dt_limit=self.dt_limit,
            initial_state=S,
            cu_seqlens=cu_seqlens,
            mask=mask,
            chunk=self.chunk_size,
        )
        return zero_masked(self.out_proj(self.norm(y.flatten(2), z)), mask)

    def matrix(self, x: Tensor) -> Tensor:
        """The quasiseparable matrix of each head for ``x``, between convolution and norm: ``(B, H, L, L)``."""
        _, dt, _, B, C, diagonal = self._operands(x, None, [0, x.shape[1]])
        dt = step_sizes(dt, self.dt_bias, True, self.dt_limit, None)
        return quasiseparable_matrix(dt, rates(self.A_log), B, C, diagonal)

    def _operands(self, x: Tensor, mask: Tensor | None, bounds: list[int]) -> tuple[Tensor, ...]:
        """Gate ``(B, L, E)``, steps ``(B, L, 2, H)``, values, B and C, diagonal ``(B, L, H)``."""
        z, x, dt = self.in_proj(zero_masked(x, mask)).split(self.split, -1)
        # the bias of in_proj fills padding again, and the convolution would carry it to its neighbors
        weight = self.conv1d.weight.squeeze(1)  # (E + 4 G N, K)
        x = packed_conv1d(zero_masked(x, mask), weight, self.conv1d.bias, bounds, padding="same", activation="silu")
        x, codes = x.split((self.split[0], self.split[1] - self.split[0]), -1)
        B, C = codes.unflatten(-1, (2, 2, self.ngroups, -1)).unbind(3)  # (B, L, 2, G, N)
        diagonal = self.fc_D(x) + self.D
        return z, dt.unflatten(-1, (2, -1)), x.unflatten(-1, (-1, self.headdim)), B, C, diagonal
