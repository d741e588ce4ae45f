"""The contract of mixers on a grid of tokens, and the masks of grids."""

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

Grid = tuple[int, int]


class GridMixer(nn.Module, ABC):
    """Base of mixers on a grid of tokens: ``(B, H, W, D) -> (B, H, W, D)``.

    Members are built as ``GridMixer(d_model, grid=None, *, options)`` and are final; ``grid`` is the height and the
    width, in tokens, for mixers that store something per position. ``mask`` is ``(B, H, W)`` bool, True where a token
    is real. Masked tokens contribute nothing and their output is zero.
    """

    @property
    def label(self) -> str:
        """Name of the mixer in results: its class, with the sequence mixer inside for adapters."""
        return type(self).__name__

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix ``x: (B, H, W, D)`` over H and W; ``mask: (B, H, W)`` bool, True = keep."""


class GridMixerFactory(Protocol):
    """Factory of grid mixers: a class, ``functools.partial`` or config entry, called with a width and a grid."""

    def __call__(self, d_model: int, grid: Grid | None = None) -> GridMixer:
        """Build a grid mixer."""
        ...


def check_grid_mask(x: Tensor, mask: Tensor) -> None:
    """Raise ``ValueError`` unless ``mask`` is bool of shape ``(B, H, W)`` for ``x: (B, H, W, D)``."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask should be bool (True = keep), got {mask.dtype}; use mask.bool()")
    if mask.shape != x.shape[:3]:
        raise ValueError(f"mask should be (B, H, W) = {tuple(x.shape[:3])} to go with x, got {tuple(mask.shape)}")


def zero_masked_grid(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set masked tokens of ``x: (B, H, W, D)`` to zero, also if they are NaN."""
    if mask is None:
        return x
    check_grid_mask(x, mask)
    return x.masked_fill(~mask.unsqueeze(-1), 0)
