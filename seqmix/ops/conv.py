"""Convolutions along the sequence: short depthwise ones without transposes, and long ones by FFT."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.ops._conv_autograd import differentiable
from seqmix.ops._dispatch import enter, pick
from seqmix.ops._shapes import require_shapes
from seqmix.ops.native import conv as _native_conv

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
        ValueError: for an unknown padding, activation or implementation, or a wrong shape.
    """
    D, K = x.shape[-1], weight.shape[-1]
    require_shapes(("weight", weight, (D, K)), ("bias", bias, (D,)))
    if padding not in ("causal", "anticausal", "same"):
        raise ValueError(f"padding = {padding!r} is not known; use 'causal', 'anticausal' or 'same'")
    if activation not in ("silu", None):
        raise ValueError(f"activation = {activation!r} is not known; use 'silu' or None")
    left = {"causal": K - 1, "anticausal": 0, "same": (K - 1) // 2}[padding]
    weight = weight.flip(-1) if padding == "anticausal" else weight
    dtype = torch.promote_types(x.dtype, torch.float32)
    weight, bias = weight.to(dtype), bias if bias is None else bias.to(dtype)
    return pick(impl, _IMPLS, weight)(x, weight, bias, left, activation == "silu").to(x.dtype)


def fft_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve every channel with a kernel as long as the sequence, causally: ``y[t] = sum_k kernel[:, k] x[t - k]``.

    Both are padded to a smooth length, so that nothing wraps around. Arithmetic is float32 at least. Mind the order of
    the taps: ``kernel[:, 0]`` meets the present position, as is usual for long kernels.

    Shapes: ``(B, L, D), (D, K) -> (B, L, D)``. Cost: O(D L log L) time, O(L D) memory.
    """
    L, dtype = x.shape[1], torch.promote_types(x.dtype, torch.float32)
    kernel = kernel[:, :L].mT
    n = smooth_length(L + kernel.shape[0] - 1)
    spectrum = torch.fft.rfft(x.to(dtype), n, dim=1) * torch.fft.rfft(kernel.to(dtype), n, dim=0)
    return torch.fft.irfft(spectrum, n, dim=1)[:, :L].to(x.dtype)


def smooth_length(n: int) -> int:
    """Smallest 2^a 3^b 5^c that is at least ``n``: FFTs of other lengths take up to three times as long."""
    best = 1 << max(n - 1, 0).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            # the power of two that lifts three to n or just above
            best = min(best, three << max(-(-n // three) - 1, 0).bit_length())
            three *= 3
        five *= 5
    return best


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None, left: int) -> Tensor:
    """Sum K shifted copies of ``x``, each times its tap."""
    L, K = x.shape[1], weight.shape[-1]
    x = F.pad(x, (0, 0, left, K - 1 - left))  # (B, L + K - 1, D)
    y = sum((x[:, k : k + L] * weight[:, k] for k in range(K)), torch.zeros_like(x[:, :L]))
    return y if bias is None else y + bias


def _widened(convolve: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a convolution in the dtype of its parameters take inputs of half types, and SiLU come after it."""

    def run(x: Tensor, weight: Tensor, bias: Tensor | None, left: int, silu: bool) -> Tensor:
        y = convolve(x.to(weight.dtype), weight, bias, left)
        return F.silu(y) if silu else y

    return run


def _native(x: Tensor, weight: Tensor, bias: Tensor | None, left: int, silu: bool) -> Tensor:
    convolve = _native_conv.convolve_silu if silu else _native_conv.convolve
    return convolve(x, weight, bias, left)


@torch.library.custom_op("seqmix::depthwise_conv1d", mutates_args=())
def _channels_last(x: Tensor, weight: Tensor, bias: Tensor | None, left: int) -> Tensor:
    """Convolve as an image of height 1 in channels-last layout, which ``(B, L, D)`` already is: no copy of ``x``."""
    L, K = x.shape[1], weight.shape[-1]
    pad = max(left, K - 1 - left)
    image = x.mT.unsqueeze(2)  # (B, D, 1, L)
    # autocast would lower the convolution to half precision
    with torch.autocast(x.device.type, enabled=False):
        y = F.conv2d(image, weight[:, None, None], bias, padding=(0, pad), groups=weight.shape[0])
    return y[..., pad - left : pad - left + L].squeeze(2).mT.contiguous()


@torch.library.custom_op("seqmix::depthwise_conv1d_grads", mutates_args=())
def _grads(g: Tensor, x: Tensor, left: int, K: int) -> tuple[Tensor, Tensor]:
    """Sum ``g[t] x[t - left + k]`` over t, in blocks of time that stay in the cache of a CPU, and ``g[t]`` itself."""
    B, L, D = x.shape
    steps = min(L, max(1, _BLOCK // (B * D))) if x.device.type == "cpu" and x.numel() else L
    total = x.new_zeros(K, B, steps, D)
    for k, total_k in enumerate(total):
        back, ahead = max(0, left - k), max(0, k - left)
        gs, xs = g[:, back : max(0, L - ahead)], x[:, ahead : max(0, L - back)]
        for g_t, x_t in zip(gs.split(steps, 1), xs.split(steps, 1), strict=True):
            total_k[:, : g_t.shape[1]].addcmul_(g_t, x_t)
    return total.sum((1, 2)).mT.contiguous(), g.sum((0, 1))


differentiable(_channels_last, _grads)

# elements of a block: 512 kB in float32
_BLOCK = 2**17

# (x, weight, bias, left, silu) -> y; parameters are float32 or float64, x may be of a half type
_IMPLS = enter(
    "depthwise_conv1d",
    {"reference": _widened(_reference), "torch": _widened(_channels_last), "native": _native},
)
