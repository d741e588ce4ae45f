"""Wrapping of a recurrence over whole rows: packed sequences and direction."""

from itertools import pairwise

import torch
from torch import Tensor

from seqmix.ops.packed import gather, shift_within, slots, spread
from seqmix.ops.ssd.reference import reference


def one_way(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, bounds: list[int], reverse: bool
) -> tuple[Tensor, Tensor]:
    """Run the reference on each packed sequence in a row of its own, mirrored if ``reverse``."""
    along = [t.to(dt.dtype) for t in (x, dt, a, B, C)]
    L = max(j - i for i, j in pairwise(bounds))
    starts, length = slots(bounds, multiple=L)
    if len(starts) > 1:
        # rows are padded with steps of size zero, which leave a state unchanged in either direction
        along = [spread(t, bounds, starts, length).unflatten(1, (-1, L)).flatten(0, 1) for t in along]
    along = [t.flip(1) for t in along] if reverse else along
    x, dt, a, B, C = along
    y, S = reference(x, dt, a, B, C, S)
    y = y.flip(1) if reverse else y
    return gather(y.unflatten(0, (-1, len(starts))).flatten(1, 2), bounds, starts) if len(starts) > 1 else y, S


def many_ways(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    bounds: list[int],
    *,
    reverse: bool,
    strict: bool,
) -> tuple[Tensor, Tensor]:
    """Sum the W = 1 or 2 opposite directions that are stacked on axis 2 of ``dt, a, B, C`` and axis 1 of ``S``.

    The first runs backward if ``reverse``; if ``strict`` position i reads the state after the position before it, with
    the C of that.
    """
    ys, ends = [], []
    for i in range(dt.shape[2]):
        backward = reverse != bool(i)
        y, end = one_way(x, dt[:, :, i], a[:, :, i], B[:, :, i], C[:, :, i], S[:, i], bounds, backward)
        ys.append(shift_within(y, bounds, reverse=backward) if strict else y)
        ends.append(end)
    return sum(ys[1:], ys[0]), torch.stack(ends, 1)
