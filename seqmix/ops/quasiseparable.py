"""Hydra's bidirectional product: an N-quasiseparable matrix times the values, both triangles without reversals.

Hwang et al., 2024, arXiv:2407.09941, sec. 3. Tensors of the two directions are stacked: index 0 runs forward (lower
triangle), index 1 backward (upper triangle).
"""

from itertools import pairwise

import torch
from torch import Tensor

from seqmix.ops._chunks import scan_chunks
from seqmix.ops._dispatch import enter, pick
from seqmix.ops._shapes import require_shapes
from seqmix.ops.native import ssd as _ssd_native
from seqmix.ops.packed import sequence_bounds, shift_within
from seqmix.ops.ssd import check_shapes, first_state, operands, ssd_matrix, step_sizes


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
        impl: "reference", "torch", "native" (float32 on a CPU), or "auto".

    Raises:
        ValueError: if shapes do not fit together, or ``cu_seqlens`` comes with a mask.

    Source: Hwang et al., 2024, arXiv:2407.09941, sec. 3.1. Differs from the original code in: no sequence is reversed,
    and packed sequences are exact.
    """
    if dt.ndim != 4 or B.ndim != 5 or dt.shape[2] != 2 or B.shape[2] != 2:
        raise ValueError(
            f"dt and B should stack two directions, (B, L, 2, H) and (B, L, 2, G, N), "
            f"got {tuple(dt.shape)} and {tuple(B.shape)}; use torch.stack((forward, backward), 2)"
        )
    require_shapes(("C", C, B.shape))
    check_shapes(x, dt[:, :, 0], A if A.ndim == 1 else A[0], B[:, :, 0], C[:, :, 0])
    bounds = sequence_bounds(x, cu_seqlens, mask)
    hidden = None if mask is None else ~mask[..., None, None]
    dt = step_sizes(dt, dt_bias, dt_softplus, dt_limit, mask)
    values = x
    if hidden is not None:
        values = x.masked_fill(hidden, 0)
        B, C = (t.masked_fill(hidden.unsqueeze(-1), 0) for t in (B, C))
    S = first_state(x, dt, B, initial_state, bounds)
    tensors = operands(values, dt, A, B, C)
    run = pick(impl, _IMPLS, tensors[0])
    with torch.autocast(x.device.type, enabled=False):
        y = run(*tensors, S, bounds, chunk)
    if diagonal is not None:
        y = torch.addcmul(y, values, diagonal.unsqueeze(-1))
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
    A = A.expand(2, -1)
    lower, upper = (
        ssd_matrix(dt[:, :, i], A[i], B[:, :, i], C[:, :, i], reverse=bool(i), strict=True) for i in range(2)
    )
    M = lower + upper
    return M if diagonal is None else M + torch.diag_embed(diagonal.transpose(1, 2))


def _reference(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, bounds: list[int], chunk: int | None
) -> Tensor:
    B, C = (t.repeat_interleave(x.shape[2] // t.shape[3], 3).to(dt.dtype) for t in (B, C))
    keep = a.exp()[..., None, None].unbind(1)
    write = torch.einsum("bldh,blhp,bldhn->lbdhpn", dt, x.to(dt.dtype), B).unbind()
    read = C.unsqueeze(-1).unbind(1)
    ys: list[Tensor] = []
    for (first, last), state in zip(pairwise(bounds), S.chunk(len(bounds) - 1), strict=True):
        y = dict.fromkeys(range(first, last), torch.zeros_like(state[..., 0]))
        for i, step, steps in ((0, 1, range(first, last - 1)), (1, -1, range(last - 1, first, -1))):
            R = state
            for t in steps:
                R = keep[t][:, i] * R + write[t][:, i]  # (B, H, P, N)
                y[t + step] = y[t + step] + (R @ read[t][:, i]).squeeze(-1)
        ys.extend(y.values())
    return torch.stack(ys, 1)


def _chunked(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, bounds: list[int], chunk: int | None
) -> Tensor:
    lower, upper = (
        scan_chunks(
            x,
            dt[:, :, i],
            a[:, :, i],
            B[:, :, i],
            shift_within(C[:, :, i], bounds, reverse=bool(i)),
            S,
            bounds,
            chunk=chunk,
            reverse=bool(i),
            strict=True,
        )[0]
        for i in range(2)
    )
    return lower + upper


def _native(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, bounds: list[int], chunk: int | None
) -> Tensor:
    S = S.unsqueeze(1).expand(-1, 2, -1, -1, -1)
    return _ssd_native.scan_ways(x, dt, a, B, C, S, bounds, chunk=chunk, reverse=False, strict=True)[0]


_IMPLS = enter(
    "quasiseparable",
    {
        "reference": _reference,
        "torch": _chunked,
        "native": _native,
        "triton": "seqmix.ops.triton.ssd:quasiseparable",
    },
)
