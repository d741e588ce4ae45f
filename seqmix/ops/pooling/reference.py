"""The maximum over segments, position by position: the definition of the other."""

import torch
from torch import Tensor


def reference(x: Tensor, segments: int | Tensor, mask: Tensor | None) -> Tensor:
    """Return ``y[t] = max over t' in the segment of t of x[t']``; segments of one length begin with the first kept."""
    B, L, _ = x.shape
    ids = segments
    if isinstance(ids, int):
        t = torch.arange(L, device=x.device).expand(B, L)
        ids = (t - first_kept(x, mask)).div(ids, rounding_mode="floor")  # (B, L)
    return torch.stack(
        [torch.stack([x[b, ids[b] == ids[b, t]].amax(0) for t in range(L)]) for b in range(B)]
    )  # (B, L, D)


def first_kept(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the first kept position of each row ``(B, 1)``, 0 where there is none."""
    if mask is None:
        return torch.zeros(x.shape[0], 1, dtype=torch.long, device=x.device)
    return mask.byte().argmax(1, keepdim=True)  # (B, 1)
