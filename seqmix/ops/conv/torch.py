"""The depthwise convolution by PyTorch's, on any device."""

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.ops.conv.reference import reference
from seqmix.ops.derivatives import differentiable
from seqmix.ops.vmap import map_into_channels

# elements of a block: 512 kB in float32
_BLOCK = 2**17


def convolve(x: Tensor, weight: Tensor, bias: Tensor, left: int) -> Tensor:
    """Return the convolution; arguments as ``reference``."""
    return _differentiable(x, weight, bias, left)


@torch.library.custom_op("seqmix::depthwise_conv1d", mutates_args=())
def _channels_last(x: Tensor, weight: Tensor, bias: Tensor, left: int) -> Tensor:
    """Convolve as an image of height 1 in channels-last layout, which ``(B, L, D)`` already is: no copy of ``x``."""
    L, K = x.shape[1], weight.shape[1]
    pad = max(left, K - 1 - left)
    image = x.mT.unsqueeze(2)  # (B, D, 1, L)
    # autocast would lower the convolution to half precision
    with torch.autocast(x.device.type, enabled=False):
        given = bias if len(bias) else None
        y = F.conv2d(image, weight[:, None, None], given, padding=(0, pad), groups=weight.shape[0])
    return y[..., pad - left : pad - left + L].squeeze(2).mT.contiguous()


@torch.library.custom_op("seqmix::depthwise_conv1d_backward", mutates_args=())
def _backward(g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, left: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients to x, weight and bias.

    That to x is the convolution with the mirrored kernel. That to the weight sums ``g[t] x[t - left + k]`` over t, in
    blocks of time that stay in the cache of a CPU.
    """
    (B, L, D), K = x.shape, weight.shape[1]
    dx = _channels_last._init_fn(g, weight.flip(-1), weight.new_empty(0), K - 1 - left)
    steps = min(L, max(1, _BLOCK // (B * D))) if x.device.type == "cpu" and x.numel() else L
    total = x.new_zeros(K, B, steps, D)
    for k, total_k in enumerate(total):
        back, ahead = max(0, left - k), max(0, k - left)
        gs, xs = g[:, back : max(0, L - ahead)], x[:, ahead : max(0, L - back)]
        for g_t, x_t in zip(gs.split(steps, 1), xs.split(steps, 1), strict=True):
            total_k[:, : g_t.shape[1]].addcmul_(g_t, x_t)
    dbias = g.sum((0, 1)) if len(bias) else bias.new_empty(0)
    return dx, total.sum((1, 2)).mT.contiguous(), dbias


_channels_last.register_fake(lambda x, weight, bias, left: x.new_empty(x.shape))
map_into_channels(_channels_last, (2, 0, 0), (2,))
map_into_channels(_backward, (2, 2, 0, 0), (2, 0, 0))
_differentiable = differentiable(_channels_last, _backward, reference, tensors=3)
