"""Positions of tokens, and the tables that hold one vector for each."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from seqmix.errors import check_choice

Positions = Literal["none", "learned", "sinusoidal"]


def places(tokens: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
    """Positions of ``tokens: (B, L)``, counted from the first kept one, or in each of the packed texts.

    Shapes: ``(L,)``, or ``(B, L)`` with a mask ``(B, L)``.
    """
    if mask is not None:
        return (mask.cumsum(1) - 1).clamp(min=0)
    place = torch.arange(tokens.shape[1], device=tokens.device)
    if cu_seqlens is None:
        return place
    return place - cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff(), output_size=tokens.shape[1])


def look_up(table: nn.Embedding, place: Tensor, longest: int) -> Tensor:
    """Vectors of positions ``place: (...)``, none of them over ``longest``: ``(..., D)``.

    Raises:
        ValueError: if a position is beyond those that the table holds.
    """
    size = table.num_embeddings
    # no look at the values, which may lie on a GPU, where they cannot be too large
    if longest > size and not torch.compiler.is_compiling() and (last := int(place.max()) + 1) > size:
        raise ValueError(
            f"length {last} is over max_len = {size}, the number of positions that the model holds; shorten the "
            f"sequences, or build it with max_len={last}"
        )
    return table(place)


class Place(nn.Module):
    """Positions: a vector for each, added to the tokens ``(B, N, D)``.

    Shapes: ``(B, N, D) -> (B, N, D)``. Cost: one pass.

    Args:
        kind: ``none``, ``learned``, or ``sinusoidal``.
        length: number of tokens N.
        d_model: width of a token D.

    Raises:
        ConfigError: if ``kind`` is not known.
    """

    def __init__(self, kind: Positions, length: int, d_model: int):
        super().__init__()
        check_choice("positions", kind, ("none", "learned", "sinusoidal"))
        if kind == "learned":
            self.vectors = nn.Parameter(0.02 * torch.randn(length, d_model))
        else:
            self.register_buffer("vectors", sines(length, d_model) if kind == "sinusoidal" else None)

    def forward(self, x: Tensor) -> Tensor:
        """Add the vectors to ``x: (B, N, D)``."""
        return x if self.vectors is None else x + self.vectors


def sines(length: int, d_model: int) -> Tensor:
    """Sines and cosines of positions in turn, at wave lengths from 2 pi to 20,000 pi; ``(length, d_model)``.

    Source: Vaswani et al., 2017, arXiv:1706.03762, sec. 3.5. Differs from the original code in: odd widths.
    """
    rate = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000) / d_model))
    angle = torch.arange(length).unsqueeze(1) * rate  # (length, D / 2)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :d_model]
