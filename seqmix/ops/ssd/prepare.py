"""Preparation of SSD and Hydra's product: checks, step sizes, first states, types."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from seqmix.ops.operands import (
    require_at_least_one,
    require_axes,
    require_groups,
    require_mask,
    require_operands,
)


def check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    bias: Tensor | None,
    limit: Sequence[float],
    mask: Tensor | None,
    chunk: int | None,
    *,
    ways: tuple[int, ...] = (),
    D: Tensor | None = None,
    z: Tensor | None = None,
    diagonal: Tensor | None = None,
) -> None:
    """Raise ``ValueError`` unless everything fits to ``x: (B, L, H, P)``; two ``ways`` are stacked on axis 2."""
    require_axes("x", x, "B L H P")
    require_axes("B", B, "B L 2 G N" if ways else "B L G N")
    require_mask(x, mask)
    require_at_least_one(chunk=chunk)
    if limit[0] > limit[1]:
        raise ValueError(f"dt_limit should be (lowest, highest), got {tuple(limit)}")
    (Bt, L, H, P), (G, N) = x.shape, B.shape[-2:]
    # parameters of two directions may be shared
    each = (*ways, H) if ways and isinstance(A, Tensor) and A.ndim == 2 else (H,)
    biases = (*ways, H) if ways and isinstance(bias, Tensor) and bias.ndim == 2 else (H,)
    require_operands(
        x,
        ("dt", dt, (Bt, L, *ways, H)),
        ("A", A, each),
        ("B", B, (Bt, L, *ways, G, N)),
        ("C", C, (Bt, L, *ways, G, N)),
        optional=(
            ("D", D, (H, P) if isinstance(D, Tensor) and D.ndim == 2 else (H,)),
            ("z", z, x.shape),
            ("dt_bias", bias, biases),
            ("diagonal", diagonal, (Bt, L, H)),
        ),
    )
    require_groups("H", H, G)


def step_sizes(
    dt: Tensor,
    bias: Tensor | None,
    softplus: bool,
    limit: tuple[float, float],
    mask: Tensor | None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Make step sizes of ``dt: (B, L, ...)``: bias, softplus, clamp; zero where masked.

    They are in ``dtype``, by default that of ``dt``, and at least float32.
    """
    hidden = None if mask is None else ~mask.reshape(*mask.shape, *(1,) * (dt.ndim - 2))
    dt = dt.to(torch.promote_types(dtype or dt.dtype, torch.float32))
    if hidden is not None:
        # mask before the softplus as well: NaN there would reach the gradient
        dt = dt.masked_fill(hidden, 0)
    if bias is not None:
        dt = dt + bias.to(dt.dtype)
    if softplus:
        dt = F.softplus(dt)
    if tuple(limit) != (0.0, float("inf")):
        dt = dt.clamp(*limit)
    return dt if hidden is None else dt.masked_fill(hidden, 0)


def first_state(x: Tensor, dt: Tensor, B: Tensor, state: Tensor | None, bounds: list[int]) -> Tensor:
    """The given states, or zeros: one for each row of the batch, packed for each sequence ``(B or S, H, P, N)``."""
    shape = (x.shape[0] * (len(bounds) - 1), *x.shape[2:], B.shape[-1])
    if state is None:
        return dt.new_zeros(shape)
    require_operands(x, ("initial_state", state, shape))
    return state.to(dt.dtype)


def operands(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``x, dt, dt A, B, C`` with x, B and C in the dtype of the products: that of ``x``, or float32."""
    # float16 has too few exponents for the factored form
    dtype = torch.float32 if x.dtype == torch.float16 or _emulated(x) else x.dtype
    return x.to(dtype), dt, dt * A.to(dt.dtype), B.to(dtype), C.to(dtype)


def _emulated(x: Tensor) -> bool:
    """Say whether bfloat16 products are emulated here: they take 25 times as long as those of float32."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu":
        return False
    # a compiled graph cannot ask the processor
    asks = not torch.compiler.is_compiling() and torch.backends.mkldnn.is_available()
    return not (asks and torch.ops.mkldnn._is_mkldnn_bf16_supported())
