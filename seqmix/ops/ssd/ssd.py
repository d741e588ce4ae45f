"""State space dual: operands are checked and prepared, then an implementation runs; and its matrix.

Dao and Gu, 2024, arXiv:2405.21060. The decay is one number per head and step, so that a chunk is a matrix product.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqmix.ops.dispatch import enter, pick
from seqmix.ops.operands import require_axes, zeros_from
from seqmix.ops.packed import sequence_bounds
from seqmix.ops.ssd import native
from seqmix.ops.ssd import torch as chunked
from seqmix.ops.ssd._chunk_forms import log_decays, shift
from seqmix.ops.ssd.prepare import check, first_state, operands, step_sizes
from seqmix.ops.ssd.rows import one_way


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    initial_state: Tensor | None = None,
    return_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    mask: Tensor | None = None,
    chunk: int | None = None,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Structured state space duality: a linear recurrence with one decay per head.

    ``S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T``, ``y_t = S_t C_t + D x_t``, then ``y silu(z)``.

    Shapes: ``(B, L, H, P) -> (B, L, H, P)``. Cost: O(L (chunk + N) H P) time.

    Args:
        x: values of H heads, P wide, ``(B, L, H, P)``.
        dt: step sizes ``(B, L, H)``.
        A: decay rate of each head ``(H,)``, negative.
        B: what is written into the state ``(B, L, G, N)``; each group serves H/G consecutive heads.
        C: what is read from the state ``(B, L, G, N)``.
        D: skip ``(H,)`` or ``(H, P)``.
        z: gate, shaped like ``x``.
        dt_bias: added to ``dt`` first ``(H,)``.
        dt_softplus: apply softplus to ``dt`` next.
        dt_limit: clamp ``dt`` to this range last.
        initial_state: state before the first position ``(B, H, P, N)``; packed, one for each sequence.
        return_state: return the state after the last position too.
        reverse: run from the last position to the first.
        cu_seqlens: bounds of packed sequences ``(S + 1,)``; the state starts afresh in each.
        mask: positions to keep ``(B, L)``; the others write nothing, do not decay the state, and give zero.
        chunk: positions per chunk; by default 64, in bfloat16 128. The result does not depend on it.
        impl: "reference", "torch", "native" (float32 on a CPU), or "auto". Derivatives after the first, and those in
            forward mode, are those of "reference", at its cost.

    Raises:
        ValueError: if an operand has a wrong shape, type or device, or ``cu_seqlens`` comes with a mask.

    Source: Dao and Gu, 2024, arXiv:2405.21060, sec. 6. Differs from the original code in: portable chunks are in
    factored form, one product for all heads of a group; in compiled ones a decay is a product of those of single steps.
    """
    check(x, dt, A, B, C, dt_bias, dt_limit, mask, chunk, z=z, D=D)
    bounds = sequence_bounds(x, cu_seqlens, mask)
    dt = step_sizes(dt, dt_bias, dt_softplus, dt_limit, mask, x.dtype)
    if mask is not None:
        x, B, C = (t.masked_fill(~mask[..., None, None], 0) for t in (x, B, C))
        z = z if z is None else z.masked_fill(~mask[..., None, None], 0)
    S = first_state(x, dt, B, initial_state, bounds)
    values, dt, a, B, C = operands(x, dt, A, B, C)
    run = pick(impl, _IMPLS, values)
    run = _nothing if 0 in (*x.shape, B.shape[3]) else run
    # the caller chose the precision: products in the dtype of x, decays and states in that of dt
    with torch.autocast(x.device.type, enabled=False):
        y, state = run(values, dt, a, B, C, S, bounds, reverse, chunk)
    if D is not None:
        y = y + x * (D if D.ndim == 2 else D.unsqueeze(-1)).to(y.dtype)
    if z is not None:
        y = y * F.silu(z.to(y.dtype))
    y = y.to(x.dtype)
    if mask is not None:
        y = y.masked_fill(~mask[..., None, None], 0)
    return (y, state) if return_state else y


def ssd_matrix(
    dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, *, reverse: bool = False, strict: bool = False
) -> Tensor:
    """The operator of ``ssd`` written out: ``m_ij = exp(sum of dt_k A over k = j+1..i) <C_i, B_j> dt_j``.

    Shapes: ``(B, L, H), (H,), (B, L, G, N) -> (B, H, L, L)``. Cost: O(L^2).

    Args:
        dt: step sizes ``(B, L, H)``, zero at positions to leave out.
        A: decay rates ``(H,)``.
        B: what is written ``(B, L, G, N)``.
        C: what is read ``(B, L, G, N)``.
        D: skip ``(H,)``, added to the diagonal.
        reverse: upper triangle, from the last position to the first.
        strict: the output is shifted by one step, so that position i reads ``S_{i-1} C_{i-1}``; no diagonal.
    """
    require_axes("dt", dt, "B L H")
    check(dt.unsqueeze(-1), dt, A, B, C, None, (0.0, float("inf")), None, None, D=D)
    if not dt.shape[1]:
        return zeros_from((dt.shape[0], dt.shape[2], 0, 0), dt, A, B, C)
    if strict:
        C = shift(C, reverse, 1)
    H, G = dt.shape[2], B.shape[2]
    scores = torch.einsum("blgn,bmgn->bglm", C, B).repeat_interleave(H // G, 1)  # (B, H, L, L)
    a = (dt * A).transpose(1, 2)
    M = scores * log_decays(a, reverse, strict).exp() * dt.transpose(1, 2).unsqueeze(2)
    return M if D is None else M + torch.diag_embed(D.unsqueeze(-1).expand(-1, M.shape[-1]))


def _nothing(x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Results for operands with an empty axis: zeros, and the states unchanged."""
    return zeros_from(x.shape, dt, x, a, B, C, S), S


# (x, dt, a, B, C, S, bounds, reverse, chunk) -> y and the last states, in the dtype of dt
_IMPLS = enter(
    "ssd",
    {
        "reference": lambda *args: one_way(*args[:-1]),
        "torch": lambda *args: chunked.scan_chunks(*args[:-2], reverse=args[-2], chunk=args[-1]),
        "native": native.ssd,
        "triton": "seqmix.ops.ssd.triton:ssd",
    },
)
