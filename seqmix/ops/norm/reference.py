"""The root mean square norm by its formula: the definition of the others."""

import torch
from torch import Tensor
from torch.nn import functional as F


def reference(x: Tensor, weight: Tensor, z: Tensor, eps: float, gate_first: bool) -> Tensor:
    """Return ``x / sqrt(mean(x^2) + eps) * weight``, times ``SiLU(z)`` after it or, if ``gate_first``, before it.

    Args:
        x: input ``(B, L, G, W)``.
        weight: scales ``(G, W)``.
        z: gate, of the shape of ``x``; the last axis may be empty.
        eps: added to the mean square.
        gate_first: gate ``x`` instead of the result.
    """
    x = x.to(weight.dtype)
    gate = F.silu(z) if z.shape[-1] else torch.ones_like(x)
    x = x * gate if gate_first else x
    y = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight
    return y if gate_first else y * gate
