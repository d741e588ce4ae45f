"""Masks for mixers that have to know where an image begins and ends."""

from collections.abc import Callable

import torch
from torch import Tensor

from seqmix.vision.grid_mixer import zero_masked_grid


def mix_boxes(mix: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, mask: Tensor | None) -> Tensor:
    """Mix each image of ``x: (B, H, W, D)`` on the smallest rectangle around its kept cells, as if cropped to it."""
    if mask is None:
        return mix(x, None)
    x = zero_masked_grid(x, mask)
    y = torch.zeros_like(x)
    for i, kept in enumerate(mask):
        if kept.any():
            rows, columns = (slice(int(n.min()), int(n.max()) + 1) for n in kept.nonzero(as_tuple=True))
            y[i, rows, columns] = mix(x[i : i + 1, rows, columns], mask[i : i + 1, rows, columns])[0]
    return zero_masked_grid(y, mask)
