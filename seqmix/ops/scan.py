"""Selective scan S6: the loop that defines it, a fast portable form, its matrix and its single step.

Source: Gu and Dao, *Mamba*, 2023, arXiv:2312.00752, sec. 3; ``selective_scan_interface.py`` of state-spaces/mamba.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, overload

import torch
from torch import Tensor

from seqmix.ops import _scan_chunked
from seqmix.ops._dispatch import enter, pick
from seqmix.ops._scan_autograd import all_states, skip_and_gate, step_sizes
from seqmix.ops._shapes import require_shapes
from seqmix.ops.native import scan as _scan_native
from seqmix.ops.packed import gather, sequence_bounds, slots, spread

Discretization = Literal["euler", "zoh"]


# fmt: off
@overload
def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None, *,
    dt_bias: Tensor | None = None, dt_softplus: bool = False, initial_state: Tensor | None = None,
    return_state: Literal[False] = False, reverse: bool = False, discretization: Discretization = "euler",
    mask: Tensor | None = None, cu_seqlens: Tensor | None = None, impl: str = "auto",
) -> Tensor: ...
@overload
def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None, *,
    dt_bias: Tensor | None = None, dt_softplus: bool = False, initial_state: Tensor | None = None,
    return_state: Literal[True], reverse: bool = False, discretization: Discretization = "euler",
    mask: Tensor | None = None, cu_seqlens: Tensor | None = None, impl: str = "auto",
) -> tuple[Tensor, Tensor]: ...
# fmt: on
def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    reverse: bool = False,
    discretization: Discretization = "euler",
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Run a diagonal state space model whose step size, input map and output map change with the position.

    ``h_t = exp(dt_t A) h_{t-1} + B_bar_t u_t``, ``y_t = C_t h_t + D u_t`` per channel (eq. 2), ``B_bar_t = dt_t B_t``.
    Arithmetic is float32 at least, whatever the dtype of ``u``, which is the dtype of ``y``. Each of the G groups of
    ``B`` and ``C`` serves D / G consecutive channels.

    Shapes: ``(Bt, L, D) -> (Bt, L, D)``. Cost: O(L D N) time; O(L D) memory, as one state in 32 is kept and
    the others are recomputed in the backward pass; O(L D N) in training with ``impl="reference"``.

    Args:
        u: input ``(Bt, L, D)``.
        dt: step sizes ``(Bt, L, D)``, before bias and softplus if those are given.
        A: rates ``(D, N)``, below zero.
        B: input map ``(Bt, L, N)`` or ``(Bt, L, G, N)``.
        C: output map, of the shape of ``B``.
        D: skip ``(D,)``.
        z: gate ``(Bt, L, D)``: the result is multiplied by ``SiLU(z)``.
        dt_bias: added to ``dt``, ``(D,)``.
        dt_softplus: apply softplus to ``dt``, after the bias.
        initial_state: state before the first step, ``(Bt, D, N)``, zero by default; one per sequence if packed.
        return_state: return ``(y, state)`` with the state after the last step.
        reverse: scan from the last position to the first.
        discretization: ``"euler"`` as all published code, or ``"zoh"``: ``B_bar_t = (exp(dt_t A) - 1) / A B_t``, eq. 4.
        mask: ``(Bt, L)`` bool, True = keep. The state passes a masked position unchanged and the output there is zero.
        cu_seqlens: bounds ``(S + 1,)`` of S sequences packed into a batch of one, ``[0, 3, 8]`` for lengths 3 and 5;
            each starts from a state of its own. Excludes ``mask``.
        impl: ``"auto"``, ``"reference"``, ``"torch"`` or ``"native"``; all but ``"reference"`` have first derivatives
            only.

    Raises:
        ValueError: for an unknown implementation or discretization, a wrong shape, if G does not divide D, or for
            ``cu_seqlens`` with a mask, with a batch of more than one, or not rising from 0 to L.

    Source: Gu and Dao, 2023, arXiv:2312.00752, sec. 3.2. Differs from the original code in: layout ``(Bt, L, D)``,
    groups, mask, packed sequences, ``reverse``, ``"zoh"`` and gradients through the states.
    """
    bounds = sequence_bounds(u, cu_seqlens, mask)
    (Bt, L, channels), N = u.shape, A.shape[-1]
    items = len(bounds) - 1 if cu_seqlens is not None else Bt
    require_shapes(
        ("dt", dt, u.shape),
        ("A", A, (channels, N)),
        ("B", B, (Bt, L, *B.shape[2:-1], N)),
        ("C", C, B.shape),
        ("D", D, (channels,)),
        ("z", z, u.shape),
        ("dt_bias", dt_bias, (channels,)),
        ("initial_state", initial_state, (items, channels, N)),
    )
    dtype = torch.promote_types(u.dtype, torch.float32)
    dt, bias, B, C = _prepare(dt, B, C, dt_bias, dt_softplus, mask, discretization, dtype)
    A, x = A.to(dtype), _keep(u, mask)
    # none where nobody asks for them: of short sequences states cost as much as the scan
    h = dt.new_zeros(0, *A.shape) if initial_state is None else initial_state.to(dtype)
    h = all_states(h, x, bounds) if return_state else h
    skip = dt.new_empty(0) if D is None else D.to(dtype)
    z = dt.new_empty(*dt.shape[:2], 0) if z is None else _keep(z, mask)
    y, h = pick(impl, _IMPLS, dt)(x, dt, A, B, C, h, bias, skip, z, discretization == "zoh", reverse, bounds)
    y = y.to(u.dtype)
    return (y, h) if return_state else y


def selective_scan_step(
    state: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    discretization: Discretization = "euler",
) -> tuple[Tensor, Tensor]:
    """Advance ``selective_scan`` by one position.

    Shapes: ``state (Bt, D, N)``; ``u, dt, z (Bt, D)``; ``B, C (Bt, N)`` or ``(Bt, G, N)`` -> ``y (Bt, D)``, state.
    """
    y, state = selective_scan(
        u.unsqueeze(1),
        dt.unsqueeze(1),
        A,
        B.unsqueeze(1),
        C.unsqueeze(1),
        D,
        z if z is None else z.unsqueeze(1),
        dt_bias=dt_bias,
        dt_softplus=dt_softplus,
        initial_state=state,
        return_state=True,
        discretization=discretization,
        impl="reference",
    )
    return y.squeeze(1), state


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
    dtype = torch.promote_types(dt.dtype, torch.float32)
    dt, bias, B, C = _prepare(dt, B, C, dt_bias, dt_softplus, mask, discretization, torch.float64)
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


def _prepare(
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    mask: Tensor | None,
    discretization: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what ``step_sizes`` takes, in ``dtype``, and ``B, C (Bt, L, G, N)``; zero where masked."""
    if discretization not in ("euler", "zoh"):
        raise ValueError(f"discretization = {discretization!r} is not known; use 'euler' or 'zoh'")
    B, C = (_keep(x.unsqueeze(2) if x.ndim == 3 else x, mask) for x in (B, C))
    if dt.shape[-1] % B.shape[2]:
        raise ValueError(f"D = {dt.shape[-1]} channels do not divide into G = {B.shape[2]} groups; B is (Bt, L, G, N)")
    dt = dt.to(dtype)
    if dt_softplus:
        bias = dt.new_zeros(dt.shape[-1]) if dt_bias is None else dt_bias.to(dtype)
        # a step of zero after the softplus; filling before it keeps NaN out of the gradients
        return _keep(dt, mask, -torch.inf), bias, B, C
    dt = dt if dt_bias is None else dt + dt_bias.to(dtype)
    return _keep(dt, mask), dt.new_empty(0), B, C


def _keep(x: Tensor, mask: Tensor | None, fill: float = 0.0) -> Tensor:
    if mask is None:
        return x
    return x.masked_fill(~mask.view(*mask.shape, *[1] * (x.ndim - 2)), fill)


def _reference(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, zoh: bool, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Walk along the sequence, position by position."""
    G = B.shape[2]
    A, h = A.unflatten(0, (G, -1)), h.unflatten(1, (G, -1))  # (G, P, N), (Bt, G, P, N)
    u, dt = (x.unflatten(2, (G, -1)).unsqueeze(-1) for x in (u, dt))  # (Bt, L, G, P, 1)
    # unbind once: indexing inside the loop makes the backward pass quadratic in L
    steps = list(zip(*(x.unbind(1) for x in (u, dt, B.unsqueeze(3), C.unsqueeze(3))), strict=True))
    ys = []
    for u_t, dt_t, B_t, C_t in reversed(steps) if reverse else steps:
        A_bar = torch.exp(dt_t * A)
        B_bar = torch.expm1(dt_t * A) / A * B_t if zoh else dt_t * B_t
        h = A_bar * h + B_bar * u_t
        ys.append((h * C_t).sum(-1).flatten(1))
    return torch.stack(ys[::-1] if reverse else ys, 1), h.flatten(1, 2)


def _apart(scan: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Let a scan over whole rows take packed sequences, each in a row of its own, inputs of half types, no states."""

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
        if len(bounds) > 2:
            # rows end in steps of size zero, through which a state passes unchanged in either direction
            L = max(j - i for i, j in pairwise(bounds))
            starts, length = slots(bounds, multiple=L)
            along = [spread(x, bounds, starts, length).reshape(-1, L, *x.shape[2:]) for x in along]
        y, h = scan(*along[:2], A, *along[2:], h, zoh, reverse)
        y = gather(y.reshape(1, -1, y.shape[2]), bounds, starts) if len(bounds) > 2 else y
        return skip_and_gate(y, u, skip, z), h

    return run


# (u, dt, A, B, C, h, bias, skip, z, zoh, reverse, bounds) -> y and the last states, in the dtype of dt; dt and bias as
# in `step_sizes`, skip and z as in `skip_and_gate`; h may have no rows: a state of zero, and no wish for the last ones
_IMPLS = enter(
    "selective_scan",
    {
        "reference": _apart(_reference),
        "torch": _apart(_scan_chunked.scan),
        "native": _scan_native.scan,
        "triton": "seqmix.ops.triton.scan:scan",
    },
)
