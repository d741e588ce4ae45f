"""Recurrence of sLSTM: operands are checked and prepared, then an implementation runs."""

import torch
from torch import Tensor

from seqmix.ops.dispatch import enter, pick
from seqmix.ops.operands import require_axes, require_operands, zeros_from
from seqmix.ops.slstm import native
from seqmix.ops.slstm.reference import reference

#: exponent of an empty memory: finite, so that differences of two are numbers
EMPTY = -1e30


def slstm(gates: Tensor, recurrent: Tensor, *, initial_state: Tensor | None = None, impl: str = "auto") -> Tensor:
    """Run the recurrence of sLSTM: scalar memories whose exponential gates hear the last output of their head.

    With ``i, f, z, o = gates_t + recurrent h_{t-1}``: ``c_t = sigmoid(f) c_{t-1} + exp(i) tanh(z)``,
    ``n_t = sigmoid(f) n_{t-1} + exp(i)`` and ``h_t = sigmoid(o) c_t / n_t``, where c and n are kept divided by the
    exponential of the largest exponent so far, m. Positions follow one another and cannot be computed in parallel.
    Arithmetic is float32 at least.

    Shapes: ``(Bt, L, 4, D) -> (Bt, L, 4, D)``. Cost: O(L D^2 / H) time, O(L D) memory.

    Args:
        gates: what the input gives to input gate, forget gate, memory and output gate ``(Bt, L, 4, D)``.
        recurrent: maps of H heads from the last output, ``(H, 4 D/H, D/H)``; the four gates are outermost.
        initial_state: states before the first step ``(Bt, 4, D)``. Default: empty memories.
        impl: ``"auto"``, ``"reference"``, ``"torch"`` or ``"native"``; the first two of these are the same loop.
            Derivatives after the first, and those in forward mode, are those of ``"reference"``, at its cost.

    Returns:
        output h, memory c, normalizer n and exponent m after each step, of the type of the arithmetic.

    Raises:
        ValueError: for an unknown implementation, or an operand of a wrong shape, type or device.

    Source: Beck et al., 2024, arXiv:2405.04517.
    """
    require_axes("gates", gates, "Bt L 4 D")
    require_axes("recurrent", recurrent, "H 4P P")
    (Bt, L, *_), (H, _, P) = gates.shape, recurrent.shape
    D = H * P
    require_operands(
        gates,
        ("gates", gates, (Bt, L, 4, D)),
        ("recurrent", recurrent, (H, 4 * P, P)),
        optional=[("initial_state", initial_state, (Bt, 4, D))],
    )
    dtype = torch.promote_types(gates.dtype, torch.float32)
    if initial_state is None:
        state = torch.cat([gates.new_zeros(Bt, 3, D, dtype=dtype), gates.new_full((Bt, 1, D), EMPTY, dtype=dtype)], 1)
    else:
        state = initial_state.to(dtype)
    gates, recurrent = gates.to(dtype), recurrent.to(dtype)
    if not gates.numel():
        return zeros_from(gates.shape, gates, recurrent, state)
    with torch.autocast(gates.device.type, enabled=False):
        states = pick(impl, _IMPLS, gates)(gates.unflatten(3, (H, P)), recurrent, state.unflatten(2, (H, P)))
    return states.flatten(3)


# (gates, recurrent, state) -> states, all of one type
_IMPLS = enter("slstm", {"reference": reference, "torch": reference, "native": native.recurrence})
