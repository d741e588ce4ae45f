"""Convolutions along the sequence: short depthwise ones without transposes, and long ones by FFT."""

from seqmix.ops.conv.depthwise import Padding, depthwise_conv1d
from seqmix.ops.conv.fft import fft_conv, smooth_length
from seqmix.ops.conv.long import causal_conv

__all__ = ["Padding", "causal_conv", "depthwise_conv1d", "fft_conv", "smooth_length"]
