"""Pooling along a sequence at three granularities, as PoNet uses it: global attention, segment max, sliding max."""

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from seqmix.ops._dispatch import enter, pick

# what a masked position holds before a maximum; finite, and in the range of float16, as in the PoNet code
MASKED = -10000.0


def segment_max(x: Tensor, segments: int | Tensor, *, mask: Tensor | None = None, impl: str = "auto") -> Tensor:
    """Maximum over the segment of each position, feature by feature.

    ``y[t] = max over t' in the segment of t of x[t']``; masked positions take part with -10000.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D) time and memory for segments of one length; for ids
    O(L D log L) time at worst, O(L D) memory.

    Args:
        x: features (B, L, D).
        segments: length of all segments in positions, counted from the first kept position of each row; or the id of
            the segment of each position, (B, L) integers in any order.
        mask: (B, L) bool, True = keep.
        impl: ``"reference"``, ``"torch"`` or ``"auto"``.

    Source: Tan et al., 2021, arXiv:2110.02442, sec. 3.2. Differs from the original code in: a gradient is shared
    evenly by equal maxima, where the original picks one of them.
    """
    if mask is not None:
        x = x.masked_fill(~mask.unsqueeze(-1), MASKED)
    return pick(impl, _IMPLS, x)(x, segments, mask)


def local_max(x: Tensor, window: int = 3) -> Tensor:
    """Maximum over ``window`` positions around each one, an odd number; nothing lies outside the sequence.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(window L D) time, O(L D) memory.
    """
    reach = window // 2
    L = x.shape[1]
    padded = torch.nn.functional.pad(x, (0, 0, reach, reach), value=float("-inf"))
    y = padded[:, :L]
    for k in range(1, window):
        y = torch.maximum(y, padded[:, k : k + L])
    return y


def masked_mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of the kept positions, ``(B, L, D) -> (B, D)``; zero for a row that keeps none."""
    if mask is None:
        return x.mean(1)
    kept = mask.sum(1, keepdim=True).clamp(min=1)
    return x.masked_fill(~mask.unsqueeze(-1), 0).sum(1) / kept


def global_attention(
    q: Tensor, k: Tensor, v: Tensor, *, n_heads: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of the mean query to all positions, per head of width P = D / n_heads.

    ``g = mean_t q[t]``, ``p = softmax_t(g k[t] / sqrt(P))``, ``g' = sum_t p[t] v[t]``.

    Shapes: three times ``(B, L, D) -> (B, D)`` and the weights ``(B, n_heads, L)``. Cost: O(L D) time and memory.
    """
    g = rearrange(masked_mean(q, mask), "b (h p) -> b h p", h=n_heads)
    k, v = (rearrange(t, "b l (h p) -> b h l p", h=n_heads) for t in (k, v))
    scores = torch.einsum("bhp,bhlp->bhl", g, k) / g.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(1), MASKED)
    p = scores.softmax(-1)  # (B, G, L)
    return torch.einsum("bhl,bhlp->bhp", p, v).flatten(1), p


def _reference(x: Tensor, segments: int | Tensor, mask: Tensor | None) -> Tensor:
    B, L, _ = x.shape
    ids = segments
    if isinstance(ids, int):
        t = torch.arange(L, device=x.device).expand(B, L)
        ids = (t - _first_kept(x, mask)).div(ids, rounding_mode="floor")  # (B, L)
    return torch.stack(
        [torch.stack([x[b, ids[b] == ids[b, t]].amax(0) for t in range(L)]) for b in range(B)]
    )  # (B, L, D)


def _torch(x: Tensor, segments: int | Tensor, mask: Tensor | None) -> Tensor:
    if isinstance(segments, Tensor):
        return _max_by_id(x, segments)
    first = _first_kept(x, mask)
    if mask is None or not first.any():
        return _max_by_length(x, segments)
    # rows are turned until they begin with a kept position; what goes round is masked
    L = x.shape[1]
    order = (torch.arange(L, device=x.device) + first) % L  # (B, L)
    y = _max_by_length(_take(x, order), segments)
    return _take(y, order.argsort(1))


_IMPLS = enter("segment_max", {"reference": _reference, "torch": _torch})


def _first_kept(x: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.zeros(x.shape[0], 1, dtype=torch.long, device=x.device)
    return mask.byte().argmax(1, keepdim=True)  # (B, 1)


def _take(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(1, order.unsqueeze(-1).expand_as(x))


def _max_by_length(x: Tensor, length: int) -> Tensor:
    L = x.shape[1]
    length = min(length, L)
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
