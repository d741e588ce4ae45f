"""Mamba-2: the state space dual in its gated block (Dao and Gu, 2024)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.mixers.norm import RMSNorm
from seqmix.mixers.ssm import check_steps, draw_within, dt_bias, is_range, rates
from seqmix.mixers.state import last_inputs, mix_onward, with_last
from seqmix.ops.packed import packed_conv1d, sequence_bounds
from seqmix.ops.ssd import ssd, ssd_matrix, step_sizes

#: last inputs of the convolution, and state of the scan
State = tuple[Tensor, Tensor]


@register(
    paper="arXiv:2405.21060",
    cost="L",
    variants=(
        {"ngroups": 2, "norm_before_gate": True, "bias": True, "conv_bias": False, "chunk_size": 5},
        {"rmsnorm": False, "d_conv": 1, "expand": 1, "dt_limit": (0.01, 0.1)},
        {"d_ssm": 8, "D_has_hdim": True, "learnable_init_states": True},
    ),
    d_state=4,
    headdim=4,
)
class Mamba2(Mixer):
    """Structured state space duality: Mamba with one decay per head.

    ``S[t] = exp(dt[t] A) S[t-1] + dt[t] x[t] B[t]^T``, ``y[t] = S[t] C[t] + D x[t]``, where x, B and C come from a
    short causal convolution; then a SiLU gate and a norm per group.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L E (D + N)) time, O(L E) memory, E = expand D.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        d_state: state size per head N.
        d_conv: positions seen by the short convolution.
        conv_init: convolution weights are drawn from (-conv_init, conv_init). Default: PyTorch's rule.
        expand: inner width over D.
        headdim: channels per head P, which share a mixing matrix.
        d_ssm: channels that are scanned, the others pass a gated MLP. Default: all ``expand d_model``.
        ngroups: groups of heads that share B and C, and the norm.
        A_init_range: slowest and fastest decay rate at initialization, per unit of step.
        D_has_hdim: a skip D for each channel, instead of one for each head.
        dt_min: smallest step at initialization, in units of one position.
        dt_max: largest step at initialization, in units of one position.
        dt_init_floor: bound from below on the steps at initialization, in units of one position.
        dt_limit: range to which steps are clamped, in units of one position.
        learnable_init_states: learn the state before the first position.
        rmsnorm: normalize before the output projection; without it there is the gate alone.
        norm_before_gate: gate what is normalized, instead of normalizing what is gated.
        bias: bias on the input and output projections.
        conv_bias: bias on the short convolution.
        chunk_size: positions per chunk of the scan, for speed only. Default: chosen by the op.

    Raises:
        ConfigError: if the heads do not divide the inner width, or the groups the heads.

    Source: Dao and Gu, 2024, arXiv:2405.21060, sec. 7; weights of state-spaces/mamba load under their own keys. Differs
    from the original code in: no tensor parallelism; masks and packed sequences are exact; ``chunk_size`` is 256 there.
    ``learnable_init_states`` is of its simple version, which has one norm for all groups.
    """

    causal = True
    state_space = ("A_log", "D", "dt_bias", "init_states")

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: int = 2,
        headdim: int = 64,
        d_ssm: int | None = None,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1.0, 16.0),
        D_has_hdim: bool = False,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        learnable_init_states: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int | None = None,
    ):
        super().__init__(d_model, max_len)
        check_at_least(
            1,
            d_state=d_state,
            d_conv=d_conv,
            expand=expand,
            headdim=headdim,
            d_ssm=d_ssm,
            ngroups=ngroups,
            chunk_size=chunk_size,
        )
        check_steps(dt_min, dt_max, dt_limit)
        if not is_range(A_init_range) or not A_init_range[0]:
            raise ConfigError(f"A_init_range = {A_init_range} is not 0 < slowest <= fastest; use (1, 16)")
        E, H = inner_sizes(d_model, expand, headdim, ngroups, d_ssm)
        S = H * headdim
        self.headdim, self.ngroups, self.dt_limit, self.chunk_size = headdim, ngroups, dt_limit, chunk_size
        # gate and value of the MLP | z | x, B, C | dt
        self.split = (E - S, E - S, S, S + 2 * ngroups * d_state, H)
        self.in_proj = nn.Linear(d_model, sum(self.split), bias=bias)
        self.conv1d = nn.Conv1d(self.split[3], self.split[3], d_conv, groups=self.split[3], bias=conv_bias)
        draw_within(self.conv1d.weight, conv_init)
        self.init_states: nn.Parameter | None = None
        if learnable_init_states:
            self.init_states = nn.Parameter(torch.zeros(H, headdim, d_state))
        self.dt_bias = nn.Parameter(dt_bias(H, dt_min, dt_max, dt_init_floor))
        self.A_log = nn.Parameter(torch.empty(H).uniform_(*A_init_range).log())
        self.D = nn.Parameter(torch.ones(S if D_has_hdim else H))
        self.norm = RMSNorm(S, gate_first=not norm_before_gate, groups=ngroups) if rmsnorm else None
        self.out_proj = nn.Linear(E, d_model, bias=bias)

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
        *beside, z, x, dt = self.in_proj(zero_masked(x, mask)).split(self.split, -1)
        # the bias of in_proj fills padding again, and the convolution would carry it to its neighbors
        x = self._convolve(zero_masked(x, mask), bounds)
        S = self.init_states
        S = None if S is None else S.expand(x.shape[0] * (len(bounds) - 1), -1, -1, -1)
        y, _ = self._scan(x, dt, S, cu_seqlens, mask)
        return zero_masked(self._out(y, z, beside), mask)

    def matrix(self, x: Tensor) -> Tensor:
        """The semiseparable matrix of each head for ``x``, skip included: ``(B, H, L, L)``; H = E if skips differ."""
        *_, x, dt = self.in_proj(x).split(self.split, -1)
        _, B, C = self._split_heads(self._convolve(x, [0, x.shape[1]]))
        dt = step_sizes(dt, self.dt_bias, True, self.dt_limit, None)
        M = ssd_matrix(dt, rates(self.A_log), B, C)
        M = M.repeat_interleave(len(self.D) // M.shape[1], 1)
        return M + torch.diag_embed(self.D.unsqueeze(1).expand(-1, M.shape[-1]))

    def init_state(self, batch_size: int) -> State:
        """Last inputs of the convolution ``(B, K - 1, E + 2 G N)``, and state of the scan ``(B, H, P, N)``."""
        width, _, K = self.conv1d.weight.shape
        window = self.conv1d.weight.new_zeros(batch_size, K - 1, width)
        N = (width - self.split[2]) // (2 * self.ngroups)
        dtype = torch.promote_types(self.dt_bias.dtype, torch.float32)
        if self.init_states is not None:
            return window, self.init_states.to(dtype).expand(batch_size, -1, -1, -1)
        return window, self.dt_bias.new_zeros(batch_size, self.split[4], self.headdim, N, dtype=dtype)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: State) -> tuple[Tensor, State]:
        window, S = state
        *beside, z, x, dt = self.in_proj(x).split(self.split, -1)
        inputs, behind = with_last(window, x), window.shape[1]  # (B, K - 1 + L, E + 2 G N)
        x = self._convolve(inputs, [0, inputs.shape[1]])[:, behind:]
        y, S = self._scan(x, dt, S, None, kept)
        return self._out(y, z, beside), (last_inputs(inputs, behind, kept), S)

    def _convolve(self, x: Tensor, bounds: list[int]) -> Tensor:
        weight = self.conv1d.weight.squeeze(1)  # (E + 2 G N, K)
        return packed_conv1d(x, weight, self.conv1d.bias, bounds, padding="causal", activation="silu")

    def _split_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values ``(B, L, H, P)``, B and C ``(B, L, G, N)``."""
        E, width = self.split[2:4]
        x, B, C = x.split((E, (width - E) // 2, (width - E) // 2), -1)
        B, C = (t.unflatten(-1, (self.ngroups, -1)) for t in (B, C))
        return x.unflatten(-1, (-1, self.headdim)), B, C

    def _scan(
        self, x: Tensor, dt: Tensor, S: Tensor | None, cu_seqlens: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x, B, C = self._split_heads(x)
        y, S = ssd(
            x,
            dt,
            rates(self.A_log),
            B,
            C,
            self.D.view(-1, self.headdim) if len(self.D) == self.split[2] else self.D,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            dt_limit=self.dt_limit,
            initial_state=S,
            return_state=True,
            cu_seqlens=cu_seqlens,
            mask=mask,
            chunk=self.chunk_size,
        )
        return y.flatten(2), S

    def _out(self, y: Tensor, z: Tensor, beside: list[Tensor]) -> Tensor:
        """Gate and normalize, each group by itself, then project with the MLP ``beside``: ``y, z: (B, L, E)``."""
        y = y * F.silu(z) if self.norm is None else self.norm(y, z)
        gate, value = beside
        return self.out_proj(torch.cat([F.silu(gate) * value, y], -1) if gate.shape[-1] else y)


def inner_sizes(d_model: int, expand: int, headdim: int, ngroups: int, d_ssm: int | None = None) -> tuple[int, int]:
    """Inner width E, and number of heads H in ``d_ssm`` of its channels. Default: in all.

    Raises:
        ConfigError: if heads do not fit into the width, or groups into the heads.
    """
    E = expand * d_model
    if E % headdim:
        raise ConfigError(
            f"expand * d_model = {E} is not a multiple of headdim = {headdim}; "
            f"use a headdim that divides {E}, or another d_model"
        )
    if d_ssm is not None and (d_ssm % headdim or d_ssm > E):
        raise ConfigError(f"d_ssm = {d_ssm} is not a multiple of headdim = {headdim} up to {E}; use d_ssm={headdim}")
    H = (d_ssm or E) // headdim
    if H % ngroups:
        raise ConfigError(f"ngroups = {ngroups} does not divide the {H} heads; use ngroups=1")
    return E, H
