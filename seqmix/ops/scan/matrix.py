"""The matrix of the selective scan."""

import torch
from torch import Tensor

from seqmix.ops.operands import require_axes, zeros_from
from seqmix.ops.scan.prepare import check, prepare
from seqmix.ops.scan.rows import step_sizes
from seqmix.ops.scan.selective_scan import Discretization


def scan_matrix(
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    reverse: bool = False,
    discretization: Discretization = "euler",
    mask: Tensor | None = None,
) -> Tensor:
    """Return the matrix that ``selective_scan`` multiplies ``u`` by.

    ``M[t, s] = sum_n C[t, n] exp(A_n (dt_{s+1} + .. + dt_t)) B_bar[s, n]`` for s <= t, plus D where s = t: lower
    triangular, or mirrored to upper triangular if ``reverse``. To look at and to test with: O(L^2 D N) time, O(L^2 D)
    memory, in float64 because the sums of steps are differences of longer ones. Arguments as in ``selective_scan``.

    Shapes: ``dt (Bt, L, D) -> (Bt, D, L, L)``, in float32 or, for a float64 ``dt``, float64.
    """
    require_axes("dt", dt, "Bt L D")
    check(dt, dt, A, B, C, D, None, dt_bias, None, discretization, mask, None)
    dtype = torch.promote_types(dt.dtype, torch.float32)
    if not dt.numel():
        return zeros_from(
            (dt.shape[0], dt.shape[2], dt.shape[1], dt.shape[1]), dt.to(dtype), *(t.to(dtype) for t in (A, B, C))
        )
    dt, bias, B, C = prepare(dt, B, C, dt_bias, dt_softplus, mask, torch.float64)
    dt = step_sizes(dt, bias)
    A, B, C = (x.to(torch.float64) for x in (A, B, C))
    P = dt.shape[2] // B.shape[2]
    B, C = B.repeat_interleave(P, 2), C.repeat_interleave(P, 2)  # (Bt, L, D, N)
    passed = dt.cumsum(1) - dt if reverse else dt.cumsum(1)
    distance = (passed.mT.unsqueeze(-1) - passed.mT.unsqueeze(-2)).abs()  # (Bt, D, L, L)
    M = torch.zeros_like(distance)
    for A_n, B_n, C_n in zip(A.unbind(-1), B.unbind(-1), C.unbind(-1), strict=True):
        B_bar = torch.expm1(dt * A_n) / A_n * B_n if discretization == "zoh" else dt * B_n
        M = M + C_n.mT.unsqueeze(-1) * torch.exp(A_n[:, None, None] * distance) * B_bar.mT.unsqueeze(-2)
    M = M.triu() if reverse else M.tril()
    if D is not None:
        kept = torch.ones_like(dt[..., 0]) if mask is None else mask.to(M.dtype)
        M = M + torch.diag_embed(kept.unsqueeze(1) * D.to(M.dtype).unsqueeze(-1))
    return M.to(dtype)
