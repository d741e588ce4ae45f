"""Pooling along a sequence at three granularities, as PoNet uses it: global attention, segment max, sliding max."""

from seqmix.ops.pooling.pooling import MASKED, global_attention, local_max, masked_mean
from seqmix.ops.pooling.segment_max import segment_max

__all__ = ["MASKED", "global_attention", "local_max", "masked_mean", "segment_max"]
