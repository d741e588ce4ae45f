"""The maximum over segments: operands are checked, then an implementation runs."""

import torch
from torch import Tensor

from seqmix.ops.dispatch import enter, pick
from seqmix.ops.operands import holds_integers, kind_of, require_at_least_one, require_axes, require_mask
from seqmix.ops.pooling import torch as stacked
from seqmix.ops.pooling.pooling import MASKED
from seqmix.ops.pooling.reference import reference


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
    require_axes("x", x, "B L D")
    require_mask(x, mask)
    _check_segments(x, segments)
    run = pick(impl, _IMPLS, x)
    if not x.numel() or x.is_meta:
        return x.clone()
    if mask is not None:
        x = x.masked_fill(~mask.unsqueeze(-1), MASKED)
    return run(x, segments, mask)


def _check_segments(x: Tensor, segments: int | Tensor) -> None:
    if isinstance(segments, int | torch.SymInt):
        require_at_least_one(segments=segments)
    elif not holds_integers(segments):
        raise ValueError(f"segments should be integers, one id per position, got {kind_of(segments)}")
    elif segments.shape != x.shape[:2] or segments.device != x.device:
        raise ValueError(
            f"segments should have shape {tuple(x.shape[:2])} on {x.device}, "
            f"got {tuple(segments.shape)} on {segments.device}"
        )


# (x, segments, mask) -> y
_IMPLS = enter("segment_max", {"reference": reference, "torch": stacked.segment_max})
