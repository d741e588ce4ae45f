"""Diagonal linear recurrence: operands are checked and prepared, then an implementation runs."""

from itertools import pairwise
from typing import Literal, overload

import torch
from torch import Tensor

from seqmix.ops.dispatch import enter, pick
from seqmix.ops.operands import require_mask, require_numbers, require_operands, zeros_from
from seqmix.ops.packed import sequence_bounds
from seqmix.ops.recurrence import native
from seqmix.ops.recurrence import torch as stretches
from seqmix.ops.recurrence.reference import reference


# fmt: off
@overload
def linear_recurrence(
    x: Tensor, decay: Tensor, *, initial_state: Tensor | None = None, return_state: Literal[False] = False,
    reverse: bool = False, mask: Tensor | None = None, cu_seqlens: Tensor | None = None, impl: str = "auto",
) -> Tensor: ...
@overload
def linear_recurrence(
    x: Tensor, decay: Tensor, *, initial_state: Tensor | None = None, return_state: Literal[True],
    reverse: bool = False, mask: Tensor | None = None, cu_seqlens: Tensor | None = None, impl: str = "auto",
) -> tuple[Tensor, Tensor]: ...
# fmt: on
def linear_recurrence(
    x: Tensor,
    decay: Tensor,
    *,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    reverse: bool = False,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Run a diagonal linear recurrence: ``h_t = decay_t h_{t-1} + x_t`` in every channel by itself.

    Arithmetic is float32 at least, whatever the dtype of ``x``. Decays of 0 (forget all) and of 1 (forget nothing) are
    exact: there are no logarithms and no divisions.

    Shapes: ``(Bt, L, D) -> (Bt, L, D)``. Cost: O(L D) time and memory.

    Args:
        x: input ``(Bt, L, D)``.
        decay: factors on the state ``(Bt, L, D)``, or ``(D,)`` for the same at every step. Both may be complex.
        initial_state: state before the first step ``(Bt, D)``, zero by default; one per sequence if packed.
        return_state: return ``(h, state)`` with the state after the last step, of the type of the arithmetic.
        reverse: run from the last position to the first.
        mask: ``(Bt, L)`` bool, True = keep. The state passes a masked position unchanged and the output there is zero.
        cu_seqlens: bounds ``(S + 1,)`` of S sequences packed into a batch of one; excludes ``mask``.
        impl: ``"auto"``, ``"reference"``, ``"torch"`` or ``"native"``. Derivatives after the first, and those in
            forward mode, are those of ``"reference"``, at its cost.

    Returns:
        the states h, of the dtype of ``x``, or complex if an operand is.

    Raises:
        ValueError: for an unknown implementation, an operand of a wrong shape, type or device, or bounds that do not
            rise from 0 to L.

    Source: Martin and Cundy, 2018, arXiv:1709.04057.
    """
    require_numbers("x", x, complex=True)
    require_numbers("decay", decay, complex=True)
    if x.ndim != 3:
        raise ValueError(f"x should have the axes (Bt, L, D), got shape {tuple(x.shape)}")
    Bt, _, D = x.shape
    require_mask(x, mask)
    bounds = sequence_bounds(x, cu_seqlens, mask)
    packed = len(bounds) > 2
    items = len(bounds) - 1 if cu_seqlens is not None else Bt
    complex = x.is_complex() or decay.is_complex()
    require_operands(x, ("decay", decay, (D,) if decay.ndim == 1 else x.shape), complex=complex)
    require_operands(x, optional=[("initial_state", initial_state, (items, D))], complex=complex)
    dtype = torch.promote_types(x.dtype, torch.float32)
    dtype = torch.promote_types(dtype, torch.complex64) if complex else dtype
    given = dtype if complex else x.dtype
    x, a = x.to(dtype), decay.to(dtype).expand(x.shape)
    h = x.new_zeros(items, D) if initial_state is None else initial_state.to(dtype)
    if mask is not None:
        skipped = ~mask.unsqueeze(-1)
        x, a = x.masked_fill(skipped, 0), a.masked_fill(skipped, 1)
    if not x.numel():
        y = zeros_from(x.shape, x, a, h).to(given)
        return (y, h) if return_state else y
    if packed:
        # a sequence begins where the decay is zero; its initial state is added to its first input
        first = torch.tensor([j - 1 for j in bounds[1:]] if reverse else bounds[:-1], device=x.device)
        x = x.index_add(1, first, (a[:, first] * h).to(dtype))
        a, h = a.index_fill(1, first, 0), x.new_zeros(1, D)
    y = pick(impl, _IMPLS, x)(x, a, h, reverse)
    ends = torch.tensor([i if reverse else j - 1 for i, j in pairwise(bounds)], device=x.device)
    last = y[0, ends] if packed else y[:, 0 if reverse else -1]
    y = (y if mask is None else y.masked_fill(~mask.unsqueeze(-1), 0)).to(given)
    return (y, last) if return_state else y


def recurrence_matrix(decay: Tensor, *, reverse: bool = False) -> Tensor:
    """Return the matrices that ``linear_recurrence`` multiplies the channels of ``x`` by, from ``decay: (Bt, L, D)``.

    ``M[t, s] = decay_{s+1} ... decay_t`` for s <= t. Lower triangular, or mirrored if ``reverse``. To look at and to
    test with: O(L^2 D) time and memory.

    Shapes: ``(Bt, L, D) -> (Bt, D, L, L)``.
    """
    Bt, L, D = decay.shape
    unit = torch.eye(L, dtype=decay.dtype, device=decay.device).repeat_interleave(D, 1)  # (L, L D)
    M = linear_recurrence(unit.expand(Bt, L, L * D), decay.repeat(1, 1, L), reverse=reverse)
    return M.view(Bt, L, L, D).permute(0, 3, 1, 2)


# (x, a, h, reverse) -> states, all of one type
_IMPLS = enter(
    "linear_recurrence", {"reference": reference, "torch": stretches.recurrence, "native": native.recurrence}
)
