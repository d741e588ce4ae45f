"""Root mean square norm, with the gate that state space models put before or after it."""

import torch
from torch import Tensor

from seqmix.ops.dispatch import enter, pick
from seqmix.ops.norm import native
from seqmix.ops.norm import torch as builtin
from seqmix.ops.norm.reference import reference
from seqmix.ops.operands import require_channels, require_groups, require_operands, zeros_from


def rms_norm(
    x: Tensor,
    weight: Tensor,
    z: Tensor | None = None,
    *,
    eps: float = 1e-5,
    gate_first: bool = False,
    groups: int = 1,
    impl: str = "auto",
) -> Tensor:
    """Divide by the root mean square over the channels: ``x / sqrt(mean(x^2) + eps) * weight``.

    With ``z`` the result is multiplied by ``SiLU(z)``; with ``gate_first`` it is ``x`` that is, before the norm.
    Arithmetic is float32 at least, whatever the dtype of ``x``, which is the dtype of the result.

    Shapes: ``(..., D) -> (..., D)``. Cost: O(D) per position.

    Args:
        x: input ``(..., D)``.
        weight: scale per channel ``(D,)``.
        z: gate, of the shape of ``x``.
        eps: added to the mean square.
        gate_first: gate before the norm, not after it.
        groups: number of runs of channels that are normed by themselves.
        impl: ``"auto"``, ``"reference"``, ``"torch"`` or ``"native"``.

    Raises:
        ValueError: for an unknown implementation, an operand of a wrong shape, type or device, or if ``groups`` does
            not divide D.

    Source: Zhang and Sennrich, 2019, arXiv:1910.07467; gates as in ``RMSNormGated`` of state-spaces/mamba. Differs from
    the original code in: none.
    """
    require_channels("x", x)
    D = x.shape[-1]
    require_operands(x, ("weight", weight, (D,)), optional=[("z", z, x.shape)])
    require_groups("D", D, groups)
    dtype = torch.promote_types(x.dtype, torch.float32)
    weight, run = weight.to(dtype), pick(impl, _IMPLS, x)
    if 0 in x.shape:
        return zeros_from(x.shape, x, weight.to(x.dtype), *(() if z is None else (z.to(x.dtype),)))

    def apart(t: Tensor) -> Tensor:
        return t.unflatten(-1, (groups, -1)) if t.ndim == 3 else t.reshape(1, -1, groups, D // groups)

    y = apart(x)  # (B, L, G, W)
    z = y.new_empty(*y.shape[:-1], 0) if z is None else apart(z)
    return run(y, weight.view(groups, -1), z.to(dtype), eps, gate_first).reshape(x.shape).to(x.dtype)


# (x, weight, z, eps, gate_first) -> y, for x and z (B, L, G, W) and weight (G, W); weight and z are float32 or float64,
# x may be of a half type, the last axis of z empty
_IMPLS = enter("rms_norm", {"reference": reference, "torch": builtin.norm, "native": native.norm})
