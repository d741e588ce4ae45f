"""Ops: pure functions on tensors, each with a reference implementation that is its specification."""

from seqmix.ops._dispatch import explain
from seqmix.ops.allocator import tune_allocator
from seqmix.ops.conv import depthwise_conv1d, fft_conv, smooth_length
from seqmix.ops.quasiseparable import quasiseparable, quasiseparable_matrix
from seqmix.ops.scan import scan_matrix, selective_scan, selective_scan_step
from seqmix.ops.ssd import ssd, ssd_matrix

__all__ = [
    "depthwise_conv1d",
    "explain",
    "fft_conv",
    "quasiseparable",
    "quasiseparable_matrix",
    "scan_matrix",
    "selective_scan",
    "selective_scan_step",
    "smooth_length",
    "ssd",
    "ssd_matrix",
    "tune_allocator",
]
