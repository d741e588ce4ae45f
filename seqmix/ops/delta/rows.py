"""Packed sequences as rows of their own, around the recurrence."""

from itertools import pairwise

from torch import Tensor

from seqmix.ops.delta.reference import reference
from seqmix.ops.packed import gather, slots, spread


def by_rows(
    q: Tensor, erase: Tensor | None, write: Tensor, v: Tensor, decay: Tensor, S: Tensor, bounds: list[int]
) -> tuple[Tensor, Tensor]:
    """Run the reference on each packed sequence in a row of its own; ``S`` has a state for each."""
    if len(bounds) == 2:
        return reference(q, erase, write, v, decay, S)
    L = max(j - i for i, j in pairwise(bounds))
    starts, length = slots(bounds, multiple=L)
    # rows are padded with steps that write nothing and leave the state unchanged

    def rows(t: Tensor) -> Tensor:
        return spread(t, bounds, starts, length).unflatten(1, (-1, L)).flatten(0, 1)

    y, S = reference(rows(q), None if erase is None else rows(erase), rows(write), rows(v), rows(decay), S)
    return gather(y.unflatten(0, (-1, len(starts))).flatten(1, 2), bounds, starts), S


def definition(
    q: Tensor, erase: Tensor, write: Tensor, v: Tensor, decay: Tensor, S: Tensor, bounds: list[int]
) -> tuple[Tensor, Tensor]:
    """Results of the kernels in the layout ``S: (B, sequences, H, K, V)``; a key without channels erases nothing."""
    y, last = by_rows(q, erase if erase.shape[-1] else None, write, v, decay, S.flatten(0, 1), bounds)
    return y, last.view(S.shape)
