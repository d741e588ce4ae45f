"""Short depthwise convolutions along the sequence, without transposes."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.ops.conv import native
from seqmix.ops.conv import torch as channels_last
from seqmix.ops.conv.reference import reference
from seqmix.ops.dispatch import enter, pick
from seqmix.ops.operands import require_axes, require_operands, zeros_from

Padding = Literal["causal", "anticausal", "same"]


def depthwise_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: Padding = "causal",
    activation: Literal["silu"] | None = None,
    impl: str = "auto",
) -> Tensor:
    """Convolve every channel with its own short kernel: ``nn.Conv1d(groups=D)`` on sequences in ``(B, L, D)``.

    ``y[t] = sum_k weight[:, k] x[t - left + k] + bias`` with zeros outside, where ``left`` is K - 1 for ``"causal"``
    and (K - 1) // 2 for ``"same"``, as in ``nn.Conv1d(padding="same")``: an even kernel looks one position further
    ahead than back. ``"anticausal"`` is the mirror image of ``"causal"``, ``flip(causal(flip(x)))`` without the flips.
    Arithmetic is float32 at least, whatever the dtype of ``x``, which is the dtype of the result.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D K) time, O(L D) memory; the compiled kernel keeps no input of SiLU.

    Args:
        x: sequences ``(B, L, D)``.
        weight: kernels ``(D, K)``; K may be larger than L.
        bias: ``(D,)``.
        padding: ``"causal"``, ``"anticausal"`` or ``"same"``.
        activation: ``"silu"`` returns SiLU of the sum, as Mamba and its kin have it.
        impl: ``"auto"``, ``"reference"``, ``"torch"`` or ``"native"``.

    Raises:
        ValueError: for an unknown padding, activation or implementation, an operand of a wrong shape, type or device,
            or a kernel without taps.
    """
    require_axes("x", x, "B L D")
    require_axes("weight", weight, "D K")
    D, K = x.shape[2], weight.shape[1]
    require_operands(x, ("weight", weight, (D, K)), optional=[("bias", bias, (D,))])
    if padding not in ("causal", "anticausal", "same"):
        raise ValueError(f"padding = {padding!r} is not known; use 'causal', 'anticausal' or 'same'")
    if activation not in ("silu", None):
        raise ValueError(f"activation = {activation!r} is not known; use 'silu' or None")
    if not K:
        raise ValueError(f"weight of shape {tuple(weight.shape)} has no taps; use a kernel of at least one")
    left = {"causal": K - 1, "anticausal": 0, "same": (K - 1) // 2}[padding]
    weight = weight.flip(-1) if padding == "anticausal" else weight
    dtype = torch.promote_types(x.dtype, torch.float32)
    weight = weight.to(dtype)
    bias = weight.new_empty(0) if bias is None else bias.to(dtype)
    run = pick(impl, _IMPLS, weight)
    run = _nothing if 0 in x.shape else run
    return run(x, weight, bias, left, activation == "silu").to(x.dtype)


def _nothing(x: Tensor, weight: Tensor, bias: Tensor, left: int, silu: bool) -> Tensor:
    return zeros_from(x.shape, weight, x, bias)


def _widened(convolve: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a convolution in the dtype of its parameters take inputs of half types, and SiLU come after it."""

    def run(x: Tensor, weight: Tensor, bias: Tensor, left: int, silu: bool) -> Tensor:
        y = convolve(x.to(weight.dtype), weight, bias, left)
        return F.silu(y) if silu else y

    return run


# (x, weight, bias, left, silu) -> y; parameters are float32 or float64, x may be of a half type, the bias empty
_IMPLS = enter(
    "depthwise_conv1d",
    {
        "reference": _widened(reference),
        "torch": _widened(channels_last.convolve),
        "native": native.convolve,
    },
)
