"""Wrapping of a scan over whole rows: step sizes, packed sequences, direction, skip and gate."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.ops.packed import gather, slots, spread

Scan = Callable[..., tuple[Tensor, Tensor]]


def step_sizes(dt: Tensor, bias: Tensor) -> Tensor:
    """Return ``softplus(dt + bias)`` for ``bias: (D,)``, and ``dt`` itself where the bias is empty."""
    return F.softplus(dt + bias) if len(bias) else dt


def all_states(h: Tensor, u: Tensor, bounds: list[int]) -> Tensor:
    """Return the first states, zero for each sequence in ``u`` if ``h: (items, D, N)`` has no items."""
    # shape, not len: in an exported graph the number of rows is a symbol
    if h.shape[0] > 0 or u.shape[0] == 0:
        return h
    return h.new_zeros(len(bounds) - 1 if len(bounds) > 2 else u.shape[0], *h.shape[1:])


def skip_and_gate(y: Tensor, u: Tensor, skip: Tensor, z: Tensor) -> Tensor:
    """Return ``(y + skip u) SiLU(z)``; ``skip: (D,)`` may be empty, and so may the last axis of ``z: (Bt, L, D)``."""
    y = torch.addcmul(y, u, skip) if len(skip) else y
    return y * F.silu(z.to(y.dtype)) if z.shape[2] else y


def either_way(scan: Scan) -> Scan:
    """Let a scan ``(u, dt, A, B, C, h, zoh)`` run from the last position to the first, by mirrors."""

    def run(
        u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, zoh: bool, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        if not reverse:
            return scan(u, dt, A, B, C, h, zoh)
        u, dt, B, C = (t.flip(1) for t in (u, dt, B, C))
        y, h = scan(u, dt, A, B, C, h, zoh)
        return y.flip(1), h

    return run


def on_rows(scan: Scan) -> Scan:
    """Make an implementation of the op from a scan ``(u, dt, A, B, C, h, zoh, reverse)`` over whole rows.

    Packed sequences get a row of their own, half types become those of the step sizes, missing states zeros.
    """

    def run(
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        h: Tensor,
        bias: Tensor,
        skip: Tensor,
        z: Tensor,
        zoh: bool,
        reverse: bool,
        bounds: list[int],
    ) -> tuple[Tensor, Tensor]:
        u = u.to(dt.dtype)
        along = [u, step_sizes(dt, bias), *(x.to(dt.dtype) for x in (B, C))]
        h = all_states(h, u, bounds)
        packed = len(bounds) > 2
        if packed:
            # rows are padded with steps of size zero, which leave a state unchanged in either direction
            L = max(j - i for i, j in pairwise(bounds))
            starts, length = slots(bounds, multiple=L)
            along = [spread(x, bounds, starts, length).reshape(-1, L, *x.shape[2:]) for x in along]
        y, h = scan(*along[:2], A, *along[2:], h, zoh, reverse)
        y = gather(y.reshape(1, -1, y.shape[2]), bounds, starts) if packed else y
        return skip_and_gate(y, u, skip, z), h

    return run
