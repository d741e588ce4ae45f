"""The maximum over segments by stacks of pieces, on any device."""

import torch
from einops import reduce, repeat
from torch import Tensor

from seqmix.ops.pooling.reference import first_kept


def segment_max(x: Tensor, segments: int | Tensor, mask: Tensor | None) -> Tensor:
    """Return the maximum over the segment of each position; arguments as ``reference``."""
    L = x.shape[1]
    if isinstance(L, torch.SymInt):
        if not isinstance(segments, Tensor):
            segments = (torch.arange(L, device=x.device) - first_kept(x, mask)).div(segments, rounding_mode="floor")
        return _max_of_any_length(x, segments)
    if isinstance(segments, Tensor):
        return _max_by_id(x, segments)
    length = min(segments, L)
    first = first_kept(x, mask)
    if mask is None or not first.any():
        return _max_by_length(x, length)
    # rows move on until a segment begins with their first kept position
    shift = -first % length  # (B, 1)
    origin = torch.arange(L + length - 1, device=x.device) - shift
    outside = (origin < 0) | (origin >= L)
    moved = _take(x, origin.clamp(0, L - 1)).masked_fill(outside.unsqueeze(-1), float("-inf"))
    return _take(_max_by_length(moved, length), torch.arange(L, device=x.device) + shift)


def _take(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[2]))


def _max_by_length(x: Tensor, length: int) -> Tensor:
    L = x.shape[1]
    padded = torch.nn.functional.pad(x, (0, 0, 0, -L % length), value=float("-inf"))
    top = reduce(padded, "b (s w) d -> b s d", "max", w=length)
    return repeat(top, "b s d -> b (s w) d", w=length)[:, :L]


def _max_by_id(x: Tensor, ids: Tensor) -> Tensor:
    B, L, _ = x.shape
    ids = ids - ids.min()
    # the same id in two rows is two segments
    ids = ids + torch.arange(B, device=x.device).unsqueeze(1) * (ids.max() + 1)
    _, group = ids.flatten().unique(return_inverse=True)  # (B L,)
    order = group.argsort(stable=True)
    top = _max_of_groups(x.flatten(0, 1)[order], group[order])  # (S, D)
    return top[group].unflatten(0, (B, L))


def _max_of_any_length(x: Tensor, ids: Tensor) -> Tensor:
    """The same for ids that differ by less than L, in a graph for every length: one scatter, slow on a CPU."""
    index = (ids - ids.amin(1, keepdim=True)).unsqueeze(-1).expand_as(x)
    return torch.full_like(x, float("-inf")).scatter_reduce(1, index, x, "amax").gather(1, index)


def _max_of_groups(x: Tensor, group: Tensor) -> Tensor:
    """Maximum of each group of rows of ``x: (N, D)``, where ``group: (N,)`` is 0, ..., 0, 1, ..., 1, 2, ...

    Groups are cut into pieces of the average size, pieces are stacked and reduced, and the same again until every
    group is one piece. A stack never has more than 4 N rows, however uneven the groups are.
    """
    N, D = x.shape
    size = group.bincount()  # (S,)
    S = len(size)
    if S == N:
        return x
    W = max(2, -(-N // S))
    pieces = (size + W - 1) // W
    rank = torch.arange(N, device=x.device) - (size.cumsum(0) - size)[group]
    piece = (pieces.cumsum(0) - pieces)[group] + rank // W
    P = int(pieces.sum())
    stack = x.new_full((P * W, D), float("-inf")).index_copy(0, piece * W + rank % W, x)
    owner = torch.arange(S, device=x.device).repeat_interleave(pieces, output_size=P)
    return _max_of_groups(stack.unflatten(0, (P, W)).amax(1), owner)
