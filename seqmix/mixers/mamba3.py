"""Mamba-3: a state space model with the trapezoid rule and a rotating state."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.mamba2 import inner_sizes
from seqmix.mixers.mixer import Mixer, register
from seqmix.mixers.norm import RMSNorm
from seqmix.mixers.ssm import check_steps, dt_bias
from seqmix.mixers.state import last_inputs, mix_onward, with_last
from seqmix.ops import delta_matrix, gated_delta
from seqmix.ops.wide import wide, widest

#: angles ``(B, H, R)``, state ``(B, H, N, P)``, and the last key ``(B, H, N)`` and value ``(B, H, P)`` written
State = tuple[Tensor, Tensor, Tensor, Tensor]


@register(
    paper="arXiv:2603.15569",
    cost="L",
    variants=({"ngroups": 2, "rope_fraction": 1.0, "outproj_norm": True}, {"expand": 1, "d_state": 6}),
    d_state=4,
    headdim=4,
)
class Mamba3(Mixer):
    """State space model with exponential-trapezoidal steps and data-dependent rotations, one input per head.

    ``S[t] = a[t] S[t-1] + b[t] B[t-1] x[t-1]^T + g[t] B[t] x[t]^T``, ``y[t] = S[t]^T C[t] + D x[t]``, with
    ``a = exp(dt A)``, ``b = (1 - l) dt a``, ``g = l dt``; A, dt and l come from the input. B and C are normalized, get
    a bias, and are rotated by the sum of ``pi tanh(angle) dt`` so far. There is no convolution.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L E (D + N)) time, O(L E) memory, E = expand D.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        d_state: state size per head N.
        expand: inner width over D.
        headdim: channels per head P.
        ngroups: groups of heads that share B and C before their biases.
        rope_fraction: share of the state that rotates, 0.5 or 1.
        dt_min: smallest step at initialization, in units of one position.
        dt_max: largest step at initialization, in units of one position.
        dt_init_floor: bound from below on the steps at initialization, in units of one position.
        A_floor: bound from below on the decay rate, per unit of step.
        outproj_norm: normalize each head before the gate.

    Raises:
        ConfigError: if the heads do not divide the inner width, or the groups the heads, or nothing would rotate.

    Source: Lahoti et al., 2026, arXiv:2603.15569; weights of state-spaces/mamba load under their own keys. Differs from
    the original code in: one input per head only (SISO); masks and packed sequences.
    """

    causal = True
    state_space = ("dt_bias", "D", "B_bias", "C_bias")

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        d_state: int = 128,
        expand: int = 2,
        headdim: int = 64,
        ngroups: int = 1,
        rope_fraction: float = 0.5,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        A_floor: float = 1e-4,
        outproj_norm: bool = False,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, d_state=d_state, expand=expand, headdim=headdim, ngroups=ngroups)
        check_steps(dt_min, dt_max)
        E, H = inner_sizes(d_model, expand, headdim, ngroups)
        R = int(d_state * rope_fraction) // 2
        if rope_fraction not in (0.5, 1.0) or not R or d_state % 2:
            raise ConfigError(
                f"rope_fraction = {rope_fraction} of d_state = {d_state} leaves no pairs to rotate; use 0.5 or 1, and "
                "an even d_state of 4 or more"
            )
        self.headdim, self.ngroups, self.A_floor = headdim, ngroups, A_floor
        self.split = (E, E, ngroups * d_state, ngroups * d_state, H, H, H, R)
        self.in_proj = nn.Linear(d_model, sum(self.split), bias=False)
        self.dt_bias = nn.Parameter(dt_bias(H, dt_min, dt_max, dt_init_floor))
        self.B_bias, self.C_bias = (nn.Parameter(torch.ones(H, 1, d_state)) for _ in range(2))
        self.B_norm, self.C_norm = RMSNorm(d_state), RMSNorm(d_state)
        self.D = nn.Parameter(torch.ones(H))
        self.norm = RMSNorm(E, groups=H) if outproj_norm else None
        self.out_proj = nn.Linear(E, d_model, bias=False)

    def no_weight_decay(self) -> set[str]:
        """Steps and skip, as in the original code."""
        return {"dt_bias", "D"}

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

    def matrix(self, x: Tensor) -> Tensor:
        """Mixing matrix of each head, the skip included: ``(B, H, L, L)``."""
        p = self._parts(x, None, self.init_state(x.shape[0]))
        before = delta_matrix(p.read, p.written, p.log_a, scale=1.0)
        return (F.pad(before[..., 1:], (0, 1)) + torch.diag_embed(p.diagonal.mT)).to(x.dtype)

    def init_state(self, batch_size: int) -> State:
        """No rotation so far, an empty state, and nothing written."""
        H, N, R = len(self.D), self.B_bias.shape[-1], self.split[-1]
        new = wide(self.dt_bias).new_zeros
        P = self.headdim
        return widest(new(batch_size, H, R)), new(batch_size, H, N, P), new(batch_size, H, N), new(batch_size, H, P)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: State) -> tuple[Tensor, State]:
        p = self._parts(x, kept, state)
        y, S = gated_delta(
            p.read, p.written, p.v[:, :-1], p.log_a, scale=1.0, initial_state=state[1], return_state=True
        )
        y = (y + p.diagonal.unsqueeze(-1) * p.v[:, 1:]).flatten(2).to(x.dtype)
        y = y * F.silu(p.z) if self.norm is None else self.norm(y, p.z)
        key, value = (last_inputs(t, 1, kept)[:, 0] for t in (p.k, p.v))
        S = p.last_a[..., None, None] * S + p.k[:, -1].unsqueeze(-1) * (
            p.last_now.unsqueeze(-1) * p.v[:, -1]
        ).unsqueeze(-2)
        return self.out_proj(y), (p.angles, S, key, value)

    def _parts(self, x: Tensor, kept: Tensor | None, state: State) -> "_Parts":
        angles, _, key, value = state
        z, v, B, C, dt, rate, trapezoid, turn = self.in_proj(x).split(self.split, -1)
        v = with_last(value.unsqueeze(1), wide(v).unflatten(-1, (-1, self.headdim)))  # (B, 1 + L, H, P)
        # a step of zero passes the state on unchanged and writes nothing
        dt = F.softplus(wide(dt) + wide(self.dt_bias))  # (B, L, H)
        dt = dt if kept is None else dt.masked_fill(~kept.unsqueeze(-1), 0)
        turns = math.pi * wide(turn).tanh().unsqueeze(2) * dt.unsqueeze(-1)
        # a sum in float32 loses digits of the angle with the length; (B, L, H, R)
        angles = (angles.unsqueeze(1) + widest(turns).cumsum(1)).remainder(2 * math.pi)
        q = _rotate(self._spread(C, self.C_norm, self.C_bias), angles)
        k = _rotate(self._spread(B, self.B_norm, self.B_bias), angles)
        now = wide(trapezoid).sigmoid() * dt
        log_a = -_heavy_tail(wide(rate)).clamp(min=self.A_floor) * dt
        keys = with_last(key.unsqueeze(1), k)  # (B, 1 + L, H, N)
        return _Parts(
            z=z,
            v=v,
            k=keys,
            read=q * log_a.exp().unsqueeze(-1),
            written=keys[:, :-1] * (_shift(now) + dt - now).unsqueeze(-1),
            log_a=_shift(log_a),
            diagonal=wide(self.D) + now * (q * k).sum(-1),
            last_a=log_a[:, -1].exp(),
            last_now=now[:, -1],
            angles=angles[:, -1],
        )

    def _spread(self, x: Tensor, norm: RMSNorm, bias: Tensor) -> Tensor:
        """Groups ``(B, L, G N)`` normalized, repeated for their heads, and with the bias of each: ``(B, L, H, N)``."""
        groups = norm(wide(x).unflatten(-1, (self.ngroups, -1)))
        return groups.repeat_interleave(len(bias) // self.ngroups, 2) + wide(bias[:, 0])


class _Parts(NamedTuple):
    """Operands of the recurrence, one step late: a key is written when the step after it is known.

    All but the gate are in float32 at least.
    """

    z: Tensor  # (B, L, E)
    v: Tensor  # (B, 1 + L, H, P), from the one before the first
    k: Tensor  # (B, 1 + L, H, N), likewise
    read: Tensor  # (B, L, H, N)
    written: Tensor  # (B, L, H, N)
    log_a: Tensor  # (B, L, H)
    diagonal: Tensor  # (B, L, H)
    last_a: Tensor  # (B, H)
    last_now: Tensor  # (B, H)
    angles: Tensor  # (B, H, R), after the last position


def _shift(x: Tensor) -> Tensor:
    """``x: (B, L, H)`` one step later, zero in front."""
    return F.pad(x[:, :-1], (0, 0, 1, 0))


def _heavy_tail(x: Tensor) -> Tensor:
    """``1 + x`` where x >= 0 and ``1 / (1 - x)`` elsewhere."""
    return x.clamp(min=0) + 1 / (1 - x.clamp(max=0))


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn neighbors of ``x: (..., N)`` by ``angles: (..., R)``, the first R pairs of them."""
    turned, rest = x.split([2 * angles.shape[-1], x.shape[-1] - 2 * angles.shape[-1]], -1)
    a, b = turned.unflatten(-1, (-1, 2)).unbind(-1)
    sin, cos = angles.sin().to(x.dtype), angles.cos().to(x.dtype)
    return torch.cat([torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2), rest], -1)
