"""Mamba: the selective state space model S6 in its gated block."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from seqmix.errors import check_at_least, check_choice
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.mixers.ssm import (
    Branch,
    BranchState,
    Discretization,
    branch_matrix,
    check_steps,
    empty_state,
    make_branch,
    resume_branch,
    run_branch,
)
from seqmix.mixers.state import mix_onward


@register(
    paper="arXiv:2312.00752",
    cost="L",
    variants=({"discretization": "zoh", "bias": True, "conv_bias": False}, {"d_state": 4, "d_conv": 1, "expand": 1}),
)
class Mamba(Mixer):
    """Linear-time sequence modeling with selective state spaces.

    Per channel ``h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] u[t]``, ``y[t] = C[t] h[t] + D u[t]`` (eq. 2 to 4), where
    u is the input after a short causal convolution and SiLU, and dt, B and C are linear in u; then a SiLU gate.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L E (D + N)) time, O(L E) memory, E = expand D.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        d_state: state size per channel N, 16 in the paper.
        d_conv: positions seen by the short convolution.
        expand: inner width over D.
        dt_rank: rank of the map from u to dt. Default: ceil(D / 16).
        dt_min: smallest step at initialization, in units of one position.
        dt_max: largest step at initialization, in units of one position.
        dt_init: of the map from rank to steps, ``"random"`` or ``"constant"``.
        dt_scale: factor on it at initialization.
        dt_init_floor: bound from below on the steps at initialization, in units of one position.
        conv_bias: bias on the short convolution.
        bias: bias on the input and output projections.
        discretization: of the input map, ``euler`` (dt B, what the original runs) or ``zoh`` (zero-order hold, eq. 4).

    Raises:
        ConfigError: if ``discretization`` or ``dt_init`` is not known.

    Source: Gu and Dao, 2023, arXiv:2312.00752, sec. 3; weights of state-spaces/mamba load under their own keys. Differs
    from the original code in: ``discretization``; masks and packed sequences.
    """

    causal = True
    state_space = ("A_log", "D", "dt_proj.bias")

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_init: Literal["random", "constant"] = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        discretization: Discretization = "euler",
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, d_state=d_state, d_conv=d_conv, expand=expand, dt_rank=dt_rank)
        check_steps(dt_min, dt_max)
        check_choice("discretization", discretization, ("euler", "zoh"))
        check_choice("dt_init", dt_init, ("random", "constant"))
        self.discretization: Discretization = discretization
        E = expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * E, bias=bias)
        self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D = make_branch(
            E,
            d_state=d_state,
            d_conv=d_conv,
            dt_rank=dt_rank or math.ceil(d_model / 16),
            dt_min=dt_min,
            dt_max=dt_max,
            dt_init_floor=dt_init_floor,
            conv_bias=conv_bias,
        )
        if dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, self.dt_proj.in_features**-0.5)
        with torch.no_grad():
            self.dt_proj.weight.mul_(dt_scale)
        self.out_proj = nn.Linear(E, d_model, bias=bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        state: BranchState | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, BranchState]:
        if state is not None or return_state:
            return mix_onward(self, self._advance, x, mask, state, return_state, cu_seqlens)
        u, z = self.in_proj(zero_masked(x, mask)).chunk(2, -1)  # (B, L, E)
        y = run_branch(u, self._branch, z=z, mask=mask, cu_seqlens=cu_seqlens, discretization=self.discretization)
        return zero_masked(self.out_proj(y), mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Matrix of the scan, between convolution and gate: ``(B, E, L, L)``."""
        u, _ = self.in_proj(x).chunk(2, -1)
        return branch_matrix(u, self._branch, discretization=self.discretization)

    def init_state(self, batch_size: int) -> BranchState:
        """Zero window of the convolution and zero state of the scan."""
        return empty_state(batch_size, self._branch)

    def step(self, x: Tensor, state: BranchState) -> tuple[Tensor, BranchState]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: BranchState) -> tuple[Tensor, BranchState]:
        u, z = self.in_proj(x).chunk(2, -1)
        y, state = resume_branch(u, state, self._branch, z=z, kept=kept, discretization=self.discretization)
        return self.out_proj(y), state

    @property
    def _branch(self) -> Branch:
        return Branch(self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
