"""The depthwise convolution as a sum: the definition of the others."""

import torch
from torch import Tensor
from torch.nn import functional as F


def reference(x: Tensor, weight: Tensor, bias: Tensor, left: int) -> Tensor:
    """Sum K shifted copies, each times its tap: ``y[t] = sum_k weight[:, k] x[t - left + k] + bias``.

    Args:
        x: sequences ``(B, L, D)``, zero outside.
        weight: kernels ``(D, K)``.
        bias: ``(D,)``, or empty.
        left: number of taps before the position.
    """
    L, K = x.shape[1], weight.shape[1]
    x = F.pad(x, (0, 0, left, K - 1 - left))  # (B, L + K - 1, D)
    y = sum((x[:, k : k + L] * weight[:, k] for k in range(K)), torch.zeros_like(x[:, :L]))
    return y + bias if len(bias) else y
