"""Preparation of the scan and its matrix: checks, step sizes, masks, types."""

import torch
from torch import Tensor

from seqmix.ops.operands import require_axes, require_groups, require_mask, require_operands
from seqmix.ops.packed import sequence_bounds


def check(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor | None,
    discretization: str,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[list[int], int, torch.dtype]:
    """Return the bounds of the sequences, the number of states and the type of the arithmetic."""
    if discretization not in ("euler", "zoh"):
        raise ValueError(f"discretization = {discretization!r} is not known; use 'euler' or 'zoh'")
    require_axes("u", u, "Bt L D")
    require_axes("A", A, "D N")
    require_mask(u, mask)
    bounds = sequence_bounds(u, cu_seqlens, mask)
    (Bt, L, channels), N = u.shape, A.shape[1]
    grouped = isinstance(B, Tensor) and B.ndim == 4
    require_operands(
        u,
        ("dt", dt, u.shape),
        ("A", A, (channels, N)),
        ("B", B, (Bt, L, B.shape[2], N) if grouped else (Bt, L, N)),
        ("C", C, (Bt, L, B.shape[2], N) if grouped else (Bt, L, N)),
        optional=(
            ("D", D, (channels,)),
            ("z", z, u.shape),
            ("dt_bias", dt_bias, (channels,)),
            ("initial_state", state, (len(bounds) - 1 if cu_seqlens is not None else Bt, channels, N)),
        ),
    )
    if grouped:
        require_groups("D", channels, B.shape[2])
    return bounds, N, torch.promote_types(u.dtype, torch.float32)


def prepare(
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    mask: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return steps and their bias, empty if there is none, in ``dtype``, and ``B, C (Bt, L, G, N)``; zero if masked."""
    B, C = (keep(x.unsqueeze(2) if x.ndim == 3 else x, mask) for x in (B, C))
    dt = dt.to(dtype)
    if dt_softplus:
        bias = dt.new_zeros(dt.shape[-1]) if dt_bias is None else dt_bias.to(dtype)
        # a step of zero after the softplus; filling before it keeps NaN out of the gradients
        return keep(dt, mask, -torch.inf), bias, B, C
    dt = dt if dt_bias is None else dt + dt_bias.to(dtype)
    return keep(dt, mask), dt.new_empty(0), B, C


def keep(x: Tensor, mask: Tensor | None, fill: float = 0.0) -> Tensor:
    """Return ``x: (B, L, ...)`` with ``fill`` where it is masked."""
    if mask is None:
        return x
    return x.masked_fill(~mask.view(*mask.shape, *[1] * (x.ndim - 2)), fill)
