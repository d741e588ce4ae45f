"""Padding for mixers that depend on absolute positions: kept tokens are moved to the left end, results back."""

from collections.abc import Callable

import torch
from torch import Tensor

from seqmix.mixers.mixer import check_mask, zero_masked


def mix_aligned(mix: Callable[[Tensor], Tensor], x: Tensor, mask: Tensor | None) -> Tensor:
    """Apply ``mix`` with the kept positions of every row at its left end, zeros after them.

    ``x: (B, L, D)``, ``mask: (B, L)`` bool. What ``mix`` gives at the masked positions is dropped.
    """
    if mask is None:
        return mix(x)
    x = zero_masked(x, mask)
    order = (~mask).byte().argsort(dim=1, stable=True)  # (B, L)
    y = mix(_take(x, order))
    return zero_masked(_take(y, order.argsort(dim=1)), mask)


def mix_by_length(mix: Callable[[Tensor], Tensor], x: Tensor, mask: Tensor | None) -> Tensor:
    """Apply ``mix``, which sees the length, to each sequence of ``x: (B, L, D)`` at its own, equal lengths together."""
    if mask is None:
        return mix(x)
    check_mask(x, mask)
    lengths = mask.sum(1)

    def by_length(x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for n in lengths[lengths > 0].unique().tolist():
            rows = lengths == n
            y[rows, :n] = mix(x[rows, :n])
        return y

    return mix_aligned(by_length, x, mask)


def _take(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(1, order.unsqueeze(-1).expand_as(x))
