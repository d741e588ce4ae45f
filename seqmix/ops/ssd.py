"""State space dual (SSD): the scan of Mamba-2, by recurrence, as a matrix, and in chunks.

Dao and Gu, 2024, arXiv:2405.21060. The decay is one number per head and step, so that a chunk is a matrix product.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from seqmix.ops._chunk_forms import log_decays, shift
from seqmix.ops._chunks import scan_chunks
from seqmix.ops._dispatch import enter, pick
from seqmix.ops.native import ssd as _ssd_native
from seqmix.ops.packed import sequence_bounds


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
        impl: "reference", "torch", "native" (float32 on a CPU), or "auto".

    Raises:
        ValueError: if shapes do not fit together, or ``cu_seqlens`` comes with a mask.

    Source: Dao and Gu, 2024, arXiv:2405.21060, sec. 6. Differs from the original code in: portable chunks are in
    factored form, one product for all heads of a group; in compiled ones a decay is a product of those of single steps.
    """
    check_shapes(x, dt, A, B, C)
    bounds = sequence_bounds(x, cu_seqlens, mask)
    dt = step_sizes(dt, dt_bias, dt_softplus, dt_limit, mask)
    if mask is not None:
        x, B, C = (t.masked_fill(~mask[..., None, None], 0) for t in (x, B, C))
    S = first_state(x, dt, B, initial_state, bounds)
    values, *others = operands(x, dt, A, B, C)
    run = pick(impl, _IMPLS, values)
    # the caller chose the precision: products in the dtype of x, decays and states in that of dt
    with torch.autocast(x.device.type, enabled=False):
        y, state = run(values, *others, S, bounds, reverse, chunk)
    if D is not None:
        y = y + x * (D if D.ndim == 2 else D.unsqueeze(-1))
    if z is not None:
        y = y * F.silu(z)
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
    if strict:
        C = shift(C, reverse, 1)
    H, G = dt.shape[2], B.shape[2]
    scores = torch.einsum("blgn,bmgn->bglm", C, B).repeat_interleave(H // G, 1)  # (B, H, L, L)
    a = (dt * A).transpose(1, 2)
    M = scores * log_decays(a, reverse, strict).exp() * dt.transpose(1, 2).unsqueeze(2)
    return M if D is None else M + torch.diag_embed(D.unsqueeze(-1).expand(-1, M.shape[-1]))


def check_shapes(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    """Raise ``ValueError`` unless the operands of one direction fit together."""
    H, G = x.shape[2], B.shape[2]
    if dt.shape != x.shape[:3] or A.shape != (H,):
        raise ValueError(
            f"x {tuple(x.shape)} needs dt of {tuple(x.shape[:3])} and A of {(H,)}, "
            f"got {tuple(dt.shape)} and {tuple(A.shape)}; use (B, L, H, P), (B, L, H) and (H,)"
        )
    if B.shape != C.shape or B.shape[:2] != x.shape[:2] or H % G:
        raise ValueError(
            f"x {tuple(x.shape)} needs B and C of (B, L, G, N) where G divides H = {H}, "
            f"got {tuple(B.shape)} and {tuple(C.shape)}; use one group, G = 1, for B and C shared by all heads"
        )


def step_sizes(
    dt: Tensor, bias: Tensor | None, softplus: bool, limit: tuple[float, float], mask: Tensor | None
) -> Tensor:
    """Make step sizes of ``dt: (B, L, ...)``: bias, softplus, clamp; zero where masked. At least float32."""
    hidden = None if mask is None else ~mask.reshape(*mask.shape, *(1,) * (dt.ndim - 2))
    dt = dt.to(torch.promote_types(dt.dtype, torch.float32))
    if hidden is not None:
        # before the softplus as well: NaN there would come back in the gradient
        dt = dt.masked_fill(hidden, 0)
    if bias is not None:
        dt = dt + bias
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
    if state.shape != shape:
        raise ValueError(f"initial_state should be {shape}, got {tuple(state.shape)}; use one (H, P, N) per sequence")
    return state.to(dt.dtype)


def operands(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``x, dt, dt A, B, C`` with x, B and C in the dtype of the products: that of ``x``, or float32."""
    # float16 has too few exponents for the factored form
    dtype = torch.float32 if x.dtype == torch.float16 or _emulated(x) else x.dtype
    return x.to(dtype), dt, dt * A, B.to(dtype), C.to(dtype)


def _emulated(x: Tensor) -> bool:
    """Say whether bfloat16 products are emulated here: they take 25 times as long as those of float32."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu":
        return False
    # a compiled graph cannot ask the processor
    asks = not torch.compiler.is_compiling() and torch.backends.mkldnn.is_available()
    return not (asks and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _reference(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    bounds: list[int],
    reverse: bool,
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    B, C = (t.repeat_interleave(x.shape[2] // t.shape[2], 2).to(dt.dtype) for t in (B, C))
    keep = a.exp()[..., None, None].unbind(1)
    write = torch.einsum("blhp,blhn->lbhpn", dt.unsqueeze(-1) * x, B).unbind()
    read = C.unsqueeze(-1).unbind(1)
    ys: dict[int, Tensor] = {}
    ends = []
    for (first, last), state in zip(pairwise(bounds), S.chunk(len(bounds) - 1), strict=True):
        for t in reversed(range(first, last)) if reverse else range(first, last):
            state = keep[t] * state + write[t]  # (B, H, P, N)
            ys[t] = (state @ read[t]).squeeze(-1)
        ends.append(state)
    return torch.stack([ys[t] for t in range(len(ys))], 1), torch.cat(ends)


def _chunked(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    bounds: list[int],
    reverse: bool,
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    return scan_chunks(x, dt, a, B, C, S, bounds, chunk=chunk, reverse=reverse)


def _native(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    bounds: list[int],
    reverse: bool,
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    dt, a, B, C = (t.unsqueeze(2) for t in (dt, a, B, C))
    y, S = _ssd_native.scan_ways(x, dt, a, B, C, S.unsqueeze(1), bounds, chunk=chunk, reverse=reverse, strict=False)
    return y, S.squeeze(1)


_IMPLS = enter(
    "ssd",
    {"reference": _reference, "torch": _chunked, "native": _native, "triton": "seqmix.ops.triton.ssd:ssd"},
)
