"""The mean, the sliding maximum and the attention of one query, along a sequence with a mask."""

import torch
from einops import rearrange
from torch import Tensor

from seqmix.ops.operands import require_axes, require_groups, require_mask, require_operands

# value of masked positions before a maximum; finite, and in the range of float16, as in the PoNet code
MASKED = -10000.0


def local_max(x: Tensor, window: int = 3) -> Tensor:
    """Maximum over ``window`` positions around each one, an odd number; nothing lies outside the sequence.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(window L D) time, O(L D) memory.
    """
    require_axes("x", x, "B L D")
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window should be odd and at least 1, got {window}")
    reach = window // 2
    L = x.shape[1]
    padded = torch.nn.functional.pad(x, (0, 0, reach, reach), value=float("-inf"))
    y = padded[:, :L]
    for k in range(1, window):
        y = torch.maximum(y, padded[:, k : k + L])
    return y


def masked_mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of the kept positions, ``(B, L, D) -> (B, D)``; zero for a row that keeps none."""
    require_axes("x", x, "B L D")
    require_mask(x, mask)
    if mask is None:
        return x.mean(1) if x.shape[1] else x.sum(1)
    kept = mask.sum(1, keepdim=True).clamp(min=1)
    return x.masked_fill(~mask.unsqueeze(-1), 0).sum(1) / kept


def global_attention(
    q: Tensor, k: Tensor, v: Tensor, *, n_heads: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of the mean query to all positions, per head of width P = D / n_heads.

    ``g = mean_t q[t]``, ``p = softmax_t(g k[t] / sqrt(P))``, ``g' = sum_t p[t] v[t]``.

    Shapes: three times ``(B, L, D) -> (B, D)`` and the weights ``(B, n_heads, L)``. Cost: O(L D) time and memory.
    """
    require_axes("q", q, "B L D")
    require_mask(q, mask)
    require_operands(q, ("k", k, q.shape), ("v", v, q.shape))
    require_groups("D", q.shape[2], n_heads)
    g = rearrange(masked_mean(q, mask), "b (h p) -> b h p", h=n_heads)
    k, v = (rearrange(t, "b l (h p) -> b h l p", h=n_heads) for t in (k, v))
    scores = torch.einsum("bhp,bhlp->bhl", g, k) / max(g.shape[-1], 1) ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(1), MASKED)
    p = scores.softmax(-1)  # (B, G, L)
    return torch.einsum("bhl,bhlp->bhp", p, v).flatten(1), p
