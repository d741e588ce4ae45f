"""Causal convolutions as long as the sequence, exactly causal: no rounding reaches an earlier position."""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqmix.ops.derivatives import differentiable
from seqmix.ops.dispatch import enter, pick
from seqmix.ops.operands import require_axes, require_operands, zeros_from
from seqmix.ops.vmap import map_into_channels

# positions whose mutual influence is one triangular product
_BLOCK = 32


def causal_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve every channel with a kernel as long as the sequence: ``y[t] = sum_k kernel[:, k] x[t - k]``.

    Unlike ``fft_conv``, whose rounding spreads over all positions, a result depends on earlier positions bit by bit:
    blocks are convolved by a triangular product, and Fourier transforms carry each block to the one after it, at every
    power of two. Arithmetic is float32 at least.

    Shapes: ``(B, L, D), (D, K) -> (B, L, D)``, ``K >= L``. Cost: O(D L log^2 L) time, O(L D) memory.

    Args:
        x: input ``(B, L, D)``.
        kernel: ``kernel[:, 0]`` meets the present position.

    Raises:
        ValueError: if an operand has a wrong shape, type or device, or the kernel is shorter than the sequence.
    """
    require_axes("x", x, "B L D")
    require_axes("kernel", kernel, "D K")
    require_operands(x, ("kernel", kernel, (x.shape[2], kernel.shape[1])))
    if kernel.shape[1] < x.shape[1]:
        raise ValueError(f"kernel has {kernel.shape[1]} taps for {x.shape[1]} positions; pad it with zeros")
    if not x.numel():
        return zeros_from(x.shape, x, kernel)
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, given = x.to(dtype), x.dtype
    return pick("auto", _IMPLS, x)(x, kernel[:, : x.shape[1]].to(dtype)).to(given)


def _in_blocks(x: Tensor, kernel: Tensor) -> Tensor:
    """The convolution of ``x: (B, L, D)`` with ``kernel: (D, L)``."""
    L = x.shape[1]
    block = size = min(_BLOCK, L)
    while size < L:
        size *= 2
    u, k = F.pad(x.mT, (0, size - L)), F.pad(kernel, (0, size - L))  # (B, D, size), (D, size)
    i = torch.arange(block, device=x.device)
    lag = i.unsqueeze(1) - i
    inside = k[:, lag.clamp(min=0)].masked_fill(lag < 0, 0)  # (D, block, block)
    # autocast would lower the product to half precision
    with torch.autocast(x.device.type, enabled=False):
        y = torch.einsum("dij,bdnj->bdni", inside, u.unflatten(2, (-1, block))).flatten(2)
    while block < size:
        # contribution of each even block to the odd block after it
        pairs = u.unflatten(2, (-1, 2, block))
        spectrum = torch.fft.rfft(pairs[..., 0, :], 2 * block) * torch.fft.rfft(k[:, None, : 2 * block])
        carried = torch.fft.irfft(spectrum, 2 * block)[..., block:]
        y = y + torch.stack([torch.zeros_like(carried), carried], -2).flatten(2)
        block *= 2
    return y[..., :L].mT.contiguous()


@torch.library.custom_op("seqmix::causal_conv", mutates_args=())
def _conv(x: Tensor, kernel: Tensor) -> Tensor:
    return _in_blocks(x, kernel)


@torch.library.custom_op("seqmix::causal_conv_backward", mutates_args=())
def _backward(grad: Tensor, x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients to x and to the kernel, by the same convolution from the end."""
    B, L, D = x.shape
    from_end = grad.flip(1)
    # each sequence is a kernel with channels of its own
    rows = from_end.transpose(0, 1).reshape(1, L, B * D)
    of_kernel = _in_blocks(rows, x.mT.reshape(B * D, L)).view(L, B, D).sum(1)
    return _in_blocks(from_end, kernel).flip(1), of_kernel.flip(0).t().contiguous()


_conv.register_fake(lambda x, kernel: x.new_empty(x.shape))
map_into_channels(_conv, (2, 0), (2,))
map_into_channels(_backward, (2, 2, 0), (2, 0))
_differentiable = differentiable(_conv, _backward, _in_blocks, tensors=2)
# the definition has derivatives in forward mode
_IMPLS = enter("causal_conv", {"reference": _in_blocks, "torch": _differentiable})
