"""Positions of tokens, and the tables that hold one vector for each."""

import torch
from torch import Tensor, nn


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
