"""Ops: pure functions on tensors, each with a reference implementation that is its specification."""

from seqmix.ops.allocator import tune_allocator
from seqmix.ops.conv import causal_conv, depthwise_conv1d, fft_conv, smooth_length
from seqmix.ops.delta import delta_matrix, delta_product, delta_product_matrix, dplr_delta, dplr_matrix, gated_delta
from seqmix.ops.dispatch import explain
from seqmix.ops.norm import rms_norm
from seqmix.ops.pooling import global_attention, local_max, masked_mean, segment_max
from seqmix.ops.quasiseparable import quasiseparable, quasiseparable_matrix
from seqmix.ops.recurrence import linear_recurrence, recurrence_matrix
from seqmix.ops.scan import scan_matrix, selective_scan, selective_scan_step
from seqmix.ops.slstm import slstm
from seqmix.ops.ssd import ssd, ssd_matrix
from seqmix.ops.vq import nearest_code, straight_through, update_codebook, vq_attention

__all__ = [
    "causal_conv",
    "delta_matrix",
    "delta_product",
    "delta_product_matrix",
    "depthwise_conv1d",
    "dplr_delta",
    "dplr_matrix",
    "explain",
    "fft_conv",
    "gated_delta",
    "global_attention",
    "linear_recurrence",
    "local_max",
    "masked_mean",
    "nearest_code",
    "quasiseparable",
    "quasiseparable_matrix",
    "recurrence_matrix",
    "rms_norm",
    "scan_matrix",
    "segment_max",
    "selective_scan",
    "selective_scan_step",
    "slstm",
    "smooth_length",
    "ssd",
    "ssd_matrix",
    "straight_through",
    "tune_allocator",
    "update_codebook",
    "vq_attention",
]


def __dir__() -> list[str]:
    return sorted(__all__)
