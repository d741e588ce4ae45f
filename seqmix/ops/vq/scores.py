"""Shared parts of the attention: biases of near keys, the Laplace function, near keys and codes together."""

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["softmax", "laplace"]

# stands for minus infinity in scores; finite, so that gradients stay finite
NEVER = -1e30


def combine(near: Tensor, allowed: Tensor, far: Tensor, v: Tensor, table: Tensor, kind: Kind) -> Tensor:
    """Attend to single keys and to codes at once.

    near (..., Q, K) scores of the keys, allowed alike, far (..., Q, S) scores of the codes, v (..., K, V),
    table (..., S, V + 1) sums of values and counts -> (..., Q, V).
    """
    sums, counts = table[..., :-1], table[..., -1]  # (..., S, V), (..., S)
    if kind == "laplace":
        return laplace(near).masked_fill(~allowed, 0) @ v + laplace(far) @ sums
    some = counts.clamp(min=1)
    # n equal scores s have the weight of one score s + log n
    far = (far + some.log().unsqueeze(-2)).masked_fill((counts == 0).unsqueeze(-2), NEVER)
    a = torch.cat([near.masked_fill(~allowed, NEVER), far], -1).softmax(-1)
    a_near, a_far = a.split([near.shape[-1], far.shape[-1]], -1)
    return a_near @ v + a_far @ (sums / some.unsqueeze(-1))


def bias_at(bias: Tensor, lag: Tensor, window: int, causal: bool) -> Tensor:
    """Entries of ``bias: (W,)`` or ``(..., Q, W)`` for ``lag: (Q, K)``; anything where there is none."""
    index = (lag if causal else lag + window).clamp(0, bias.shape[-1] - 1)
    if bias.ndim == 1:
        return bias[index]
    return bias.gather(-1, index.expand(*bias.shape[:-1], index.shape[-1]))


def in_sight(kept: Tensor, causal: bool) -> Tensor:
    """Return the number of keys that each query sees, at least 1."""
    n = kept.cumsum(1) if causal else kept.sum(1, keepdim=True)
    return n.clamp(min=1)


def laplace(s: Tensor) -> Tensor:
    """Return the Laplace function of the scores, in place of a softmax."""
    # mean sqrt(1/2) and deviation sqrt(1 / (4 pi)) fit the squared ReLU
    return 0.5 * (1 + torch.erf((s - 0.5**0.5) * (2 * torch.pi) ** 0.5))
