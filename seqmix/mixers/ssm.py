"""Helpers of mixers with a selective state space (S6): parts of a branch, its forward pass, one step.

Names, layout and initialization are those of state-spaces/mamba (Gu and Dao, 2023, arXiv:2312.00752).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.mixers.mixer import zero_masked
from seqmix.mixers.state import last_inputs, with_last
from seqmix.ops import scan_matrix, selective_scan
from seqmix.ops.packed import packed_conv1d, sequence_bounds
from seqmix.ops.wide import wide

Discretization = Literal["euler", "zoh"]

#: last ``d_conv - 1`` inputs of the convolution ``(B, K - 1, E)``, and state of the scan ``(B, E, N)``
BranchState = tuple[Tensor, Tensor]


class Branch(NamedTuple):
    """Convolution, SiLU and selective scan in one direction: the learned parts, owned by the mixer."""

    conv1d: nn.Conv1d
    x_proj: nn.Linear
    dt_proj: nn.Linear
    A_log: nn.Parameter
    D: nn.Parameter


def make_branch(
    width: int,
    *,
    d_state: int,
    d_conv: int,
    dt_rank: int,
    source_width: int | None = None,
    dt_min: float = 1e-3,
    dt_max: float = 0.1,
    dt_init_floor: float = 1e-4,
    conv_bias: bool = True,
) -> Branch:
    """Initialize a branch over ``width`` channels whose B, C and dt are read from ``source_width`` channels."""
    conv1d = nn.Conv1d(width, width, d_conv, groups=width, bias=conv_bias)
    x_proj = nn.Linear(source_width or width, dt_rank + 2 * d_state, bias=False)
    dt_proj = nn.Linear(dt_rank, width)
    nn.init.uniform_(dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
    with torch.no_grad():
        dt_proj.bias.copy_(dt_bias(width, dt_min, dt_max, dt_init_floor))
    # S4D-real: every channel starts with the decay rates 1 ... N
    A_log = nn.Parameter(torch.arange(1, d_state + 1, dtype=torch.float32).log().repeat(width, 1))  # (E, N)
    return Branch(conv1d, x_proj, dt_proj, A_log, nn.Parameter(torch.ones(width)))


def check_steps(dt_min: float, dt_max: float, dt_limit: tuple[float, float] = (0.0, math.inf)) -> None:
    """Raise ``ConfigError`` unless steps at initialization, and the range they are clamped to, rise from 0."""
    if not 0 < dt_min <= dt_max:
        raise ConfigError(f"dt_min = {dt_min} and dt_max = {dt_max} are not 0 < dt_min <= dt_max; change them")
    if not is_range(dt_limit):
        raise ConfigError(f"dt_limit = {dt_limit} is not 0 <= smallest <= largest step; use (0, .inf) for no limit")


def draw_within(weight: Tensor, conv_init: float | None) -> None:
    """Draw weights of a convolution from ``(-conv_init, conv_init)``; leave them as they are if it is None."""
    if conv_init is None:
        return
    if not 0 <= conv_init < math.inf:
        raise ConfigError(f"conv_init = {conv_init} is no bound of weights; use for example 0.1")
    nn.init.uniform_(weight, -conv_init, conv_init)


def is_range(value: object) -> bool:
    """Whether ``value`` is a pair of numbers that rise from 0 or above, not one number in the place of a pair."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return False
    return 0 <= value[0] <= value[1]


def dt_bias(width: int, dt_min: float, dt_max: float, floor: float) -> Tensor:
    """Draw steps log-uniformly from ``dt_min`` to ``dt_max`` positions; return their inverse softplus."""
    dt = torch.empty(width).uniform_(math.log(dt_min), math.log(dt_max)).exp().clamp(min=floor)
    return dt + (-torch.expm1(-dt)).log()


def run_branch(
    u: Tensor,
    branch: Branch,
    *,
    z: Tensor | None = None,
    source: Tensor | None = None,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
    discretization: Discretization = "euler",
) -> Tensor:
    """Convolve, activate and scan ``u: (B, L, E)``, from the end if ``reverse``; gate by ``SiLU(z)`` if given.

    B, C and dt come from ``source: (B, L, S)``, by default from the activated ``u``. Padding is emptied before the
    convolution and after it (its bias fills it again): the scan then reaches the kept positions with state zero.
    Nothing crosses the bounds ``cu_seqlens`` of sequences packed into one row.
    """
    bounds = sequence_bounds(u, cu_seqlens, mask)
    u = zero_masked(_convolve(zero_masked(u, mask), branch, bounds, reverse=reverse), mask)
    dt, B, C = _project(u if source is None else source, branch)
    return selective_scan(
        u,
        dt,
        rates(branch.A_log),
        B,
        C,
        wide(branch.D),
        z,
        dt_bias=wide(branch.dt_proj.bias),
        dt_softplus=True,
        reverse=reverse,
        discretization=discretization,
        cu_seqlens=cu_seqlens,
    )


def run_both_ways(
    u: Tensor,
    ahead: Branch,
    back: Branch,
    *,
    source: Tensor | None = None,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    mean: bool = False,
    discretization: Discretization = "euler",
) -> Tensor:
    """Sum, or mean, of a branch from the start and a branch from the end of ``u: (B, L, E)``."""
    run = partial(run_branch, u, source=source, mask=mask, cu_seqlens=cu_seqlens, discretization=discretization)
    y = run(ahead) + run(back, reverse=True)
    return y / 2 if mean else y


def empty_state(batch_size: int, branch: Branch) -> BranchState:
    """State of ``branch`` before the first position."""
    weight = branch.conv1d.weight
    E, _, K = weight.shape
    window = weight.new_zeros(batch_size, K - 1, E)
    # float32 at least, as the scan keeps it
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return window, weight.new_zeros(batch_size, *branch.A_log.shape, dtype=dtype)


def resume_branch(
    u: Tensor,
    state: BranchState,
    branch: Branch,
    *,
    z: Tensor | None = None,
    source: Tensor | None = None,
    kept: Tensor | None = None,
    discretization: Discretization = "euler",
) -> tuple[Tensor, BranchState]:
    """Go on from ``state`` with ``run_branch``, ``u: (B, L, E)``, and return the state after it too.

    ``kept: (B, L)`` marks the leading positions of each row that count; what comes after them changes no state.
    """
    window, h = state
    inputs = with_last(window, u)  # (B, K - 1 + L, E)
    behind = window.shape[1]
    u = _convolve(inputs, branch, [0, inputs.shape[1]], reverse=False)[:, behind:]
    dt, B, C = _project(u if source is None else source, branch)
    y, h = selective_scan(
        u,
        dt,
        rates(branch.A_log),
        B,
        C,
        wide(branch.D),
        z,
        dt_bias=wide(branch.dt_proj.bias),
        dt_softplus=True,
        initial_state=h,
        return_state=True,
        discretization=discretization,
        mask=kept,
    )
    return y, (last_inputs(inputs, behind, kept), h)


def branch_matrix(u: Tensor, branch: Branch, *, discretization: Discretization = "euler") -> Tensor:
    """Matrix of the scan of ``run_branch``, after convolution and activation: ``(B, E, L, L)``."""
    u = _convolve(u, branch, [0, u.shape[1]], reverse=False)
    dt, B, C = _project(u, branch)
    return scan_matrix(
        dt,
        rates(branch.A_log),
        B,
        C,
        wide(branch.D),
        dt_bias=wide(branch.dt_proj.bias),
        dt_softplus=True,
        discretization=discretization,
    )


def rates(A_log: Tensor) -> Tensor:
    """``-exp(A_log)`` in float32 at least: half precision loses slow decays."""
    return -wide(A_log).exp()


def _convolve(u: Tensor, branch: Branch, bounds: list[int], *, reverse: bool) -> Tensor:
    weight = branch.conv1d.weight.squeeze(1)  # (E, K)
    padding = "anticausal" if reverse else "causal"
    return packed_conv1d(u, weight, branch.conv1d.bias, bounds, padding=padding, activation="silu")


def _project(source: Tensor, branch: Branch) -> tuple[Tensor, Tensor, Tensor]:
    """Raw steps ``(..., E)`` without their bias, and the input and output maps B, C ``(..., N)``."""
    R, N = branch.dt_proj.in_features, branch.A_log.shape[1]
    dt, B, C = branch.x_proj(source).split([R, N, N], -1)
    return nn.functional.linear(dt, branch.dt_proj.weight), B, C
