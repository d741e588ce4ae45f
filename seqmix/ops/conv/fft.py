"""Convolutions as long as the sequence, by FFT."""

import torch
from torch import Tensor

from seqmix.ops.operands import require_axes, require_operands, zeros_from


def fft_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve every channel with a kernel as long as the sequence, causally: ``y[t] = sum_k kernel[:, k] x[t - k]``.

    Both are padded to a smooth length, so that nothing wraps around. Arithmetic is float32 at least. Mind the order of
    the taps: ``kernel[:, 0]`` meets the present position, as is usual for long kernels.

    Shapes: ``(B, L, D), (D, K) -> (B, L, D)``. Cost: O(D L log L) time, O(L D) memory.
    """
    require_axes("x", x, "B L D")
    require_axes("kernel", kernel, "D K")
    require_operands(x, ("kernel", kernel, (x.shape[2], kernel.shape[1])))
    if 0 in (*x.shape, *kernel.shape):
        return zeros_from(x.shape, x, kernel)
    L, dtype = x.shape[1], torch.promote_types(x.dtype, torch.float32)
    kernel = kernel[:, :L].mT
    n = smooth_length(L + kernel.shape[0] - 1)
    spectrum = torch.fft.rfft(x.to(dtype), n, dim=1) * torch.fft.rfft(kernel.to(dtype), n, dim=0)
    return torch.fft.irfft(spectrum, n, dim=1)[:, :L].to(x.dtype)


def smooth_length(n: int) -> int:
    """Smallest 2^a 3^b 5^c that is at least ``n``: FFTs of other lengths take up to three times as long.

    A symbolic ``n``, in a graph for every length, stays as it is.
    """
    if isinstance(n, torch.SymInt):
        return n
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
