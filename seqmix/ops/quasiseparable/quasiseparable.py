"""Hydra's bidirectional product: an N-quasiseparable matrix times the values, both triangles without reversals.

Hwang et al., 2024, arXiv:2407.09941, sec. 3. Tensors of the two directions are stacked: index 0 runs forward (lower
triangle), index 1 backward (upper triangle).
"""

import torch
from torch import Tensor

from seqmix.ops.dispatch import enter, pick
from seqmix.ops.operands import require_axes, zeros_from
from seqmix.ops.packed import sequence_bounds
from seqmix.ops.quasiseparable import native
from seqmix.ops.quasiseparable import torch as chunked
from seqmix.ops.quasiseparable.reference import reference
from seqmix.ops.ssd import ssd_matrix
from seqmix.ops.ssd.prepare import check, first_state, operands, step_sizes


def quasiseparable(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    diagonal: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    mask: Tensor | None = None,
    chunk: int | None = None,
    impl: str = "auto",
) -> Tensor:
    """Multiply by a quasiseparable matrix: two strict semiseparable triangles and a free diagonal.

    ``QS(x) = shift(SS(x)) + flip(shift(SS(flip(x)))) + diagonal * x`` (proposition 3.7), that is
    ``y_i = S_{i-1} C_{i-1} + R_{i+1} C'_{i+1} + diagonal_i x_i`` with S and R the states of the two directions.

    Shapes: ``(B, L, H, P) -> (B, L, H, P)``. Cost: O(L (chunk + N) H P) time.

    Args:
        x: values of H heads, P wide, ``(B, L, H, P)``.
        dt: step sizes of the two directions ``(B, L, 2, H)``.
        A: decay rate of each head ``(H,)``, or ``(2, H)``, negative.
        B: what is written into the states ``(B, L, 2, G, N)``; each group serves H/G consecutive heads.
        C: what is read from the states ``(B, L, 2, G, N)``.
        diagonal: the diagonal of the matrix ``(B, L, H)``, zero if None.
        dt_bias: added to ``dt`` first ``(H,)`` or ``(2, H)``.
        dt_softplus: apply softplus to ``dt`` next.
        dt_limit: clamp ``dt`` to this range last.
        initial_state: state before the first and after the last position ``(B, H, P, N)``; packed, one per sequence.
        cu_seqlens: bounds of packed sequences ``(S + 1,)``; nothing crosses them.
        mask: positions to keep ``(B, L)``, padding at either end; the others contribute nothing and give zero.
        chunk: positions per chunk; by default 64, in bfloat16 128. The result does not depend on it.
        impl: "reference", "torch", "native" (float32 on a CPU), or "auto". Derivatives after the first, and those in
            forward mode, are those of "reference", at its cost.

    Raises:
        ValueError: if an operand has a wrong shape, type or device, or ``cu_seqlens`` comes with a mask.

    Source: Hwang et al., 2024, arXiv:2407.09941, sec. 3.1. Differs from the original code in: no sequence is reversed,
    and packed sequences are exact.
    """
    check(x, dt, A, B, C, dt_bias, dt_limit, mask, chunk, ways=(2,), diagonal=diagonal)
    bounds = sequence_bounds(x, cu_seqlens, mask)
    hidden = None if mask is None else ~mask[..., None, None]
    dt = step_sizes(dt, dt_bias, dt_softplus, dt_limit, mask, x.dtype)
    values = x
    if hidden is not None:
        values = x.masked_fill(hidden, 0)
        B, C = (t.masked_fill(hidden.unsqueeze(-1), 0) for t in (B, C))
        diagonal = diagonal if diagonal is None else diagonal.masked_fill(hidden.squeeze(-1), 0)
    S = first_state(x, dt, B, initial_state, bounds)
    tensors = operands(values, dt, A, B, C)
    run = pick(impl, _IMPLS, tensors[0])
    run = _nothing if 0 in (*x.shape, B.shape[4]) else run
    with torch.autocast(x.device.type, enabled=False):
        y = run(*tensors, S, bounds, chunk)
    if diagonal is not None:
        y = torch.addcmul(y, values, diagonal.unsqueeze(-1).to(y.dtype))
    y = y.to(x.dtype)
    return y if hidden is None else y.masked_fill(hidden, 0)


def quasiseparable_matrix(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, diagonal: Tensor | None = None) -> Tensor:
    """The matrix of ``quasiseparable``, written out entry by entry.

    ``m_ij = exp(sum of dt_k A for k between i and j) <C_{i-1}, B_j> dt_j`` below the diagonal, ``C_{i+1}`` above.

    Shapes: ``(B, L, 2, H), (H,), (B, L, 2, G, N) -> (B, H, L, L)``. Cost: O(L^2).

    Args:
        dt: step sizes of the two directions ``(B, L, 2, H)``, zero at positions to leave out.
        A: decay rates ``(H,)`` or ``(2, H)``.
        B: what is written ``(B, L, 2, G, N)``.
        C: what is read ``(B, L, 2, G, N)``.
        diagonal: the diagonal ``(B, L, H)``, zero if None.
    """
    require_axes("dt", dt, "B L 2 H")
    check(dt[:, :, 0].unsqueeze(-1), dt, A, B, C, None, (0.0, float("inf")), None, None, ways=(2,), diagonal=diagonal)
    A = A.expand(2, -1)
    lower, upper = (
        ssd_matrix(dt[:, :, i], A[i], B[:, :, i], C[:, :, i], reverse=bool(i), strict=True) for i in range(2)
    )
    M = lower + upper
    return M if diagonal is None else M + torch.diag_embed(diagonal.transpose(1, 2))


def _nothing(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, bounds: list[int], chunk: int | None
) -> Tensor:
    return zeros_from(x.shape, dt, x, a, B, C, S)


# (x, dt, a, B, C, S, bounds, chunk) -> y, in the dtype of dt
_IMPLS = enter(
    "quasiseparable",
    {
        "reference": reference,
        "torch": chunked.quasiseparable,
        "native": native.quasiseparable,
        "triton": "seqmix.ops.ssd.triton:quasiseparable",
    },
)
