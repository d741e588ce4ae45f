"""The selective scan and its single step: operands are checked and prepared, then an implementation runs.

Source: Gu and Dao, *Mamba*, 2023, arXiv:2312.00752, sec. 3; ``selective_scan_interface.py`` of state-spaces/mamba.
"""

from typing import Literal, overload

from torch import Tensor

from seqmix.ops.dispatch import enter, pick
from seqmix.ops.operands import require_axes, require_operands, zeros_from
from seqmix.ops.scan import native
from seqmix.ops.scan import torch as chunked
from seqmix.ops.scan.prepare import check, keep, prepare
from seqmix.ops.scan.reference import reference
from seqmix.ops.scan.rows import all_states, either_way, on_rows, skip_and_gate

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
        impl: ``"auto"``, ``"reference"``, ``"torch"`` or ``"native"``. Derivatives after the first, and those in
            forward mode, are those of ``"reference"``, at its cost.

    Raises:
        ValueError: for an unknown implementation or discretization, an operand of a wrong shape, type or device, if G
            does not divide D, or for ``cu_seqlens`` with a mask, with a batch of more than one, or not rising from 0 to
            L.

    Source: Gu and Dao, 2023, arXiv:2312.00752, sec. 3.2. Differs from the original code in: layout ``(Bt, L, D)``,
    groups, mask, packed sequences, ``reverse``, ``"zoh"`` and gradients through the states.
    """
    bounds, N, dtype = check(u, dt, A, B, C, D, z, dt_bias, initial_state, discretization, mask, cu_seqlens)
    dt, bias, B, C = prepare(dt, B, C, dt_bias, dt_softplus, mask, dtype)
    A, x = A.to(dtype), keep(u, mask)
    # only on request: for short sequences states cost as much as the scan
    h = dt.new_zeros(0, *A.shape) if initial_state is None else initial_state.to(dtype)
    h = all_states(h, x, bounds) if return_state else h
    skip = dt.new_empty(0) if D is None else D.to(dtype)
    z = dt.new_empty(*dt.shape[:2], 0) if z is None else keep(z, mask)
    run = pick(impl, _IMPLS, dt)
    run = _nothing if 0 in (*u.shape, N) else run
    y, h = run(x, dt, A, B, C, h, bias, skip, z, discretization == "zoh", reverse, bounds)
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
    require_axes("u", u, "Bt D")
    require_axes("A", A, "D N")
    require_operands(u, ("dt", dt, u.shape), ("state", state, (*u.shape, A.shape[1])), optional=[("z", z, u.shape)])
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


def _nothing(
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
    """Results for operands with an empty axis: states unchanged, and without states the skip alone."""
    u = u.to(dt.dtype)
    y = zeros_from(u.shape, dt, u, A, B, C, h, bias, skip, z)
    return skip_and_gate(y, u, skip, z), all_states(h, u, bounds)


# (u, dt, A, B, C, h, bias, skip, z, zoh, reverse, bounds) -> y and the last states, in the dtype of dt; bias, skip and
# z as in `rows`; h may have no rows: a state of zero, and no wish for the last ones
_IMPLS = enter(
    "selective_scan",
    {
        "reference": on_rows(either_way(reference)),
        "torch": on_rows(chunked.scan),
        "native": native.scan,
        "triton": "seqmix.ops.scan.triton:scan",
    },
)
