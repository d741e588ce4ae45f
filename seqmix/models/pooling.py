"""Pooling of a sequence into one vector."""

from typing import Literal

import torch
from torch import Tensor, nn

from seqmix.errors import check_at_least, check_choice
from seqmix.ops import masked_mean

How = Literal["mean", "max", "last", "attention"]


class Pooling(nn.Module):
    """One vector of a sequence: the mean, the maximum or the last of the kept positions, or a learned mean of them.

    ``attention`` weighs position t by ``softmax_t(max_h (w_h x[t] + b_h))`` with ``n_heads`` learned vectors; it starts
    as the mean. A sequence without a kept position becomes zeros.

    Shapes: ``(B, L, D) -> (B, D)``. Cost: O(L D), times ``n_heads`` for ``attention``.

    Args:
        d_model: width D.
        how: ``mean``, ``max``, ``last`` or ``attention``.
        n_heads: number of learned vectors H of ``attention``.

    Raises:
        ConfigError: if ``how`` is not known, or ``n_heads`` is below 1.

    Source: attention: MambaSL, arXiv:2604.15174, sec. 3. Differs from the original code in: padding has no weight.
    """

    def __init__(self, d_model: int, how: How = "mean", *, n_heads: int = 8):
        super().__init__()
        check_choice("pool", how, ("mean", "max", "last", "attention"))
        check_at_least(1, n_heads=n_heads)
        self.how = how
        self.score = nn.Linear(d_model, n_heads) if how == "attention" else None
        if self.score is not None:
            nn.init.zeros_(self.score.weight)
            nn.init.ones_(self.score.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool ``x: (B, L, D)``; ``mask: (B, L)`` bool, True = keep."""
        if self.how == "mean":
            return masked_mean(x, mask)
        if self.score is not None:
            # one of several equal scores gets the gradient, so that ties break
            weights = self.score(x).max(-1).values  # (B, L)
            weights = weights if mask is None else weights.masked_fill(~mask, torch.finfo(x.dtype).min)
            return torch.einsum("bl,bld->bd", weights.softmax(1), x if mask is None else _kept(x, mask, 0.0))
        if mask is None:
            return x.amax(1) if self.how == "max" else x[:, -1]
        if self.how == "max":
            return _kept(x, mask, float("-inf")).amax(1).masked_fill(~mask.any(1, keepdim=True), 0.0)
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
        return _kept(x, mask, 0.0)[torch.arange(len(x), device=x.device), last]


def _kept(x: Tensor, mask: Tensor, fill: float) -> Tensor:
    return x.masked_fill(~mask.unsqueeze(-1), fill)
