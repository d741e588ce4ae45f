"""Root mean square norm, with the gate that state space models put before or after it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.ops._dispatch import enter, pick
from seqmix.ops._shapes import require_shapes
from seqmix.ops.native import norm as _native_norm


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
        ValueError: for an unknown implementation, a wrong shape, or if ``groups`` does not divide D.

    Source: Zhang and Sennrich, 2019, arXiv:1910.07467; gates as in ``RMSNormGated`` of state-spaces/mamba. Differs from
    the original code in: none.
    """
    D = x.shape[-1]
    require_shapes(("weight", weight, (D,)), ("z", z, x.shape))
    if D % groups:
        raise ValueError(f"groups = {groups} does not divide D = {D}; use a divisor")

    def apart(t: Tensor) -> Tensor:
        return t.unflatten(-1, (groups, -1)) if t.ndim == 3 else t.reshape(1, -1, groups, D // groups)

    y = apart(x)  # (B, L, G, W)
    z = y.new_empty(*y.shape[:-1], 0) if z is None else apart(z)
    return pick(impl, _IMPLS, x)(y, weight.view(groups, -1), z, eps, gate_first).reshape(x.shape)


def _reference(x: Tensor, weight: Tensor, z: Tensor, eps: float, gate_first: bool) -> Tensor:
    gate = F.silu(z) if z.shape[-1] else torch.ones_like(x)
    x = x * gate if gate_first else x
    y = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight
    return y if gate_first else y * gate


def _torch(x: Tensor, weight: Tensor, z: Tensor, eps: float, gate_first: bool) -> Tensor:
    if z.shape[-1] and gate_first:
        x = x * F.silu(z)
    if len(weight) == 1 and weight.dtype == x.dtype:
        y = F.rms_norm(x, x.shape[-1:], weight[0], eps)
    else:
        # the scale apart: each group has its own, and under autocast it is float32 and ``x`` is not
        y = F.rms_norm(x, x.shape[-1:], eps=eps) * weight
    return y * F.silu(z) if z.shape[-1] and not gate_first else y


def _native(x: Tensor, weight: Tensor, z: Tensor, eps: float, gate_first: bool) -> Tensor:
    return _native_norm.norm(x, weight.float(), z.float(), eps, gate_first)


# (x, weight, z, eps, gate_first) -> y, for x and z (B, L, G, W) and weight (G, W); the last axis of z may be empty
_IMPLS = enter("rms_norm", {"reference": _reference, "torch": _torch, "native": _native})
