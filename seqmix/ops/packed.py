"""Packed sequences: several sequences concatenated along the length of a batch of one, with bounds ``cu_seqlens``.

``cu_seqlens`` holds the first position of every sequence and the total length, ``[0, 3, 8]`` for lengths 3 and 5.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seqmix.ops.conv import Padding, depthwise_conv1d
from seqmix.ops.operands import holds_integers, kind_of


def sequence_bounds(x: Tensor, cu_seqlens: Tensor | None, mask: Tensor | None = None) -> list[int]:
    """Return the bounds of the sequences in ``x: (B, L, ...)``, ``[0, L]`` where there is no ``cu_seqlens``.

    Args:
        x: the tensor that is packed.
        cu_seqlens: integer bounds ``(S + 1,)`` of S sequences, or None.
        mask: the mask given by the caller; it excludes ``cu_seqlens``.

    Raises:
        ValueError: if ``cu_seqlens`` comes with a mask or with a batch of more than one, or does not rise from 0 to L.
    """
    if cu_seqlens is None:
        return [0, x.shape[1]]
    if mask is not None:
        raise ValueError("got both cu_seqlens and mask; drop the masked positions from x and keep cu_seqlens")
    if x.shape[0] != 1:
        raise ValueError(f"cu_seqlens needs a batch of one, got {x.shape[0]}; use x.flatten(0, 1).unsqueeze(0)")
    if not holds_integers(cu_seqlens) or cu_seqlens.ndim != 1 or cu_seqlens.device.type == "meta":
        raise ValueError(
            f"cu_seqlens should be a vector of integers, got {kind_of(cu_seqlens)}; use the cumulative lengths, "
            "starting with 0"
        )
    bounds = cu_seqlens.tolist()
    require_bounds(bounds, x.shape[1])
    return bounds


def require_bounds(bounds: list[int], L: int) -> None:
    """Raise ``ValueError`` unless ``bounds`` rise from 0 to ``L``."""
    if len(bounds) < 2 or (bounds[0], bounds[-1]) != (0, L) or any(i >= j for i, j in pairwise(bounds)):
        raise ValueError(f"cu_seqlens should rise from 0 to L = {L}, got {bounds}; drop empty sequences")


def slots(bounds: list[int], *, multiple: int = 1, gap: int = 0) -> tuple[list[int], int]:
    """Give every sequence room: new starts, each a ``multiple``, at least ``gap`` free places apart, and the length."""
    starts, end = [], 0
    for first, last in pairwise(bounds):
        starts.append(end)
        end += -(-(last - first + gap) // multiple) * multiple
    return starts, end


def spread(x: Tensor, bounds: list[int], starts: list[int], length: int) -> Tensor:
    """Move the sequences of ``x: (B, L, ...)`` to ``starts`` in a row of ``length``, zeros between them."""
    if length == x.shape[1]:
        return x
    if len(starts) == 1:
        return F.pad(x, (0, 0) * (x.ndim - 2) + (0, length - x.shape[1]))
    return x.new_zeros(x.shape[0], length, *x.shape[2:]).index_copy(1, _places(bounds, starts, x.device), x)


def gather(x: Tensor, bounds: list[int], starts: list[int]) -> Tensor:
    """Undo ``spread``."""
    if len(starts) == 1:
        return x[:, : bounds[-1]]
    return x.index_select(1, _places(bounds, starts, x.device))


def shift_within(x: Tensor, bounds: list[int], *, reverse: bool) -> Tensor:
    """Move each sequence of ``x: (B, L, ...)`` one step later, earlier if ``reverse``, zero where it begins."""
    x = F.pad(x, (0, 0) * (x.ndim - 2) + ((-1, 1) if reverse else (1, -1)))
    if len(bounds) == 2:
        return x
    begins = [last - 1 for last in bounds[1:]] if reverse else bounds[:-1]
    return x.index_fill(1, torch.tensor(begins, device=x.device), 0)


def packed_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    bounds: list[int],
    *,
    padding: Padding,
    activation: Literal["silu"] | None = None,
) -> Tensor:
    """``depthwise_conv1d`` on packed sequences: each sees zeros, not its neighbor, beyond its ends."""
    starts, length = slots(bounds, gap=weight.shape[-1] - 1)
    if len(starts) == 1:
        return depthwise_conv1d(x, weight, bias, padding=padding, activation=activation)
    y = depthwise_conv1d(spread(x, bounds, starts, length), weight, bias, padding=padding, activation=activation)
    return gather(y, bounds, starts)


def _places(bounds: list[int], starts: list[int], device: torch.device) -> Tensor:
    runs = [torch.arange(s, s + j - i) for s, (i, j) in zip(starts, pairwise(bounds), strict=True)]
    return torch.cat(runs).to(device)
