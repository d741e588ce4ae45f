"""Helpers of mixers with a short two-sided convolution."""

from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.ops import depthwise_conv1d


def require_odd(name: str, value: int) -> int:
    """Return ``value``, or raise ``ConfigError`` if a kernel of that size has no middle."""
    if value < 1 or value % 2 == 0:
        raise ConfigError(f"{name} = {value} has no middle; use a positive odd number")
    return value


def convolve(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """Apply the weights of a depthwise ``conv`` to both sides of each position of ``x: (B, L, D)``."""
    return depthwise_conv1d(x, conv.weight.squeeze(1), conv.bias, padding="same")
