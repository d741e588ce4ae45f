"""Attention to quantized keys as one matrix: the definition of the other."""

import torch
from torch import Tensor

from seqmix.ops.vq.codebook import straight_through
from seqmix.ops.vq.scores import NEVER, Kind, bias_at, laplace


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    codes: Tensor,
    z: Tensor,
    bias: Tensor,
    window: int,
    causal: bool,
    kind: Kind,
    block: int,
    kept: Tensor,
) -> Tensor:
    """Return ``y[i] = sum_j softmax_j(q[i] c[z[j]] + bias[i - j]) v[j]``, with the gradient of near codes to the keys.

    Args:
        q: queries ``(B, L, P)``.
        k: keys ``(B, L, P)``.
        v: values ``(B, L, V)``.
        codes: codebook ``(S, P)``.
        z: code of each key ``(B, L)``.
        bias: added inside of the window.
        window: farthest distance with a bias.
        causal: earlier positions and the own only.
        kind: ``"softmax"`` or ``"laplace"``.
        block: ignored.
        kept: mask ``(B, L)``.
    """
    return weights(q, straight_through(k, codes, z), codes, z, bias, window, causal, kind, kept) @ v


def weights(
    q: Tensor,
    keys: Tensor,
    codes: Tensor,
    z: Tensor,
    bias: Tensor,
    window: int,
    causal: bool,
    kind: Kind,
    kept: Tensor,
) -> Tensor:
    """Return the weights ``(B, L, L)``; arguments as ``reference``, ``keys`` for the window."""
    i = torch.arange(q.shape[1], device=q.device)
    lag = i.unsqueeze(1) - i  # (L, L)
    near = q @ keys.mT + bias_at(bias, lag, window, causal)
    s = torch.where(lag.abs() <= window, near, q @ codes[z].mT)  # (B, L, L)
    allowed = kept.unsqueeze(1) & ((lag >= 0) | (not causal))
    if kind == "softmax":
        return s.masked_fill(~allowed, NEVER).softmax(-1)
    return laplace(s).masked_fill(~allowed, 0)
