"""Root mean square norm, with the gate that state space models put before or after it."""

from seqmix.ops.norm.rms_norm import rms_norm

__all__ = ["rms_norm"]
