"""Adapters from sequence mixers to grid mixers: Raster, Axial, CrossScan."""

from typing import Literal

import torch
from torch import Tensor, nn

from seqmix.errors import check_choice
from seqmix.mixers import Mixer, MixerFactory
from seqmix.mixers.mask import mix_aligned
from seqmix.vision.grid_mixer import Grid, GridMixer, check_grid_mask


class Raster(GridMixer):
    """Adapter with one sequence mixer in raster order: the rows of a grid, one after another.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``. Cost: that of the mixer at length H W.

    Args:
        d_model: width D.
        grid: largest height and width, in tokens; needed by mixers with a ``max_len``, which is their product.
        mixer: factory of the sequence mixer.

    Source: Dosovitskiy et al., 2020, arXiv:2010.11929, sec. 3.1. Differs from the original code in: any mixer in
    place of attention.
    """

    def __init__(self, d_model: int, grid: Grid | None = None, *, mixer: MixerFactory):
        super().__init__()
        self.mixer = mixer(d_model, None if grid is None else grid[0] * grid[1])

    @property
    def label(self) -> str:
        """Its class, and that of the sequence mixer."""
        return f"Raster({type(self.mixer).__name__})"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix ``x: (B, H, W, D)`` in raster order."""
        if mask is not None:
            check_grid_mask(x, mask)
            mask = mask.flatten(1)
        return _mix_kept(self.mixer, x.flatten(1, 2), mask).view(x.shape)


class Axial(GridMixer):
    """Adapter with two sequence mixers: one along every row, then one along every column.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``. Cost: that of the mixer at W, H times, and at H, W times.

    Args:
        d_model: width D.
        grid: largest height and width, in tokens; needed by mixers with a ``max_len``: the width, then the height.
        mixer: factory of the two sequence mixers.

    Source: Ho et al., 2019, arXiv:1912.12180, sec. 3. Differs from the original code in: any mixer in place of
    attention, no residual in between.
    """

    def __init__(self, d_model: int, grid: Grid | None = None, *, mixer: MixerFactory):
        super().__init__()
        height, width = grid or (None, None)
        self.rows, self.columns = mixer(d_model, width), mixer(d_model, height)

    @property
    def label(self) -> str:
        """Its class, and that of the sequence mixer."""
        return f"Axial({type(self.rows).__name__})"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix ``x: (B, H, W, D)`` along W, then along H."""
        if mask is not None:
            check_grid_mask(x, mask)
        y = self._along_width(self.rows, x, mask)
        turned = None if mask is None else mask.transpose(1, 2)
        return self._along_width(self.columns, y.transpose(1, 2), turned).transpose(1, 2)

    def _along_width(self, mixer: Mixer, x: Tensor, mask: Tensor | None) -> Tensor:
        y = _mix_kept(mixer, x.flatten(0, 1), None if mask is None else mask.flatten(0, 1))
        return y.unflatten(0, x.shape[:2])


class CrossScan(GridMixer):
    """Adapter with four sequence mixers, one per scan order: rows, columns, and both backwards.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``. Cost: four times that of the mixer at length H W.

    Args:
        d_model: width D.
        grid: largest height and width, in tokens; needed by mixers with a ``max_len``, which is their product.
        mixer: factory of the four sequence mixers.
        merge: ``sum`` or ``mean`` of the four outputs.

    Raises:
        ConfigError: if ``merge`` is not known.

    Source: Liu et al., 2024, arXiv:2401.10166, sec. 4.2. Differs from the original code in: any mixer in place of S6,
    nothing is shared between the orders.
    """

    def __init__(
        self, d_model: int, grid: Grid | None = None, *, mixer: MixerFactory, merge: Literal["sum", "mean"] = "sum"
    ):
        super().__init__()
        check_choice("merge", merge, ("sum", "mean"))
        self.merge = merge
        self.mixers = nn.ModuleList(mixer(d_model, None if grid is None else grid[0] * grid[1]) for _ in range(4))

    @property
    def label(self) -> str:
        """Its class, and that of the sequence mixer."""
        return f"CrossScan({type(self.mixers[0]).__name__})"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix ``x: (B, H, W, D)`` in four orders."""
        if mask is not None:
            check_grid_mask(x, mask)
        scans = cross_scan(x)
        masks = [None] * 4 if mask is None else cross_scan(mask)
        mixed = [_mix_kept(m, scan, kept) for m, scan, kept in zip(self.mixers, scans, masks, strict=True)]
        y = cross_merge(mixed, x.shape[1], x.shape[2])
        return y if self.merge == "sum" else y / 4


def cross_scan(x: Tensor) -> list[Tensor]:
    """Read ``(B, H, W, ...)`` as four sequences ``(B, H W, ...)``: rows, columns, rows backwards, columns backwards."""
    rows, columns = x.flatten(1, 2), x.transpose(1, 2).flatten(1, 2)
    return [rows, columns, rows.flip(1), columns.flip(1)]


def cross_merge(scans: list[Tensor], H: int, W: int) -> Tensor:
    """Put four sequences ``(B, H W, D)`` of ``cross_scan`` back in place and add them: ``(B, H, W, D)``."""
    rows = scans[0] + scans[2].flip(1)
    columns = scans[1] + scans[3].flip(1)
    return rows.unflatten(1, (H, W)) + columns.unflatten(1, (W, H)).transpose(1, 2)


def _mix_kept(mixer: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Mix the kept positions of ``x: (B, L, D)`` as if the others were not there.

    Padding of an image is not at an end of its raster but in every row, where a mixer would count it as distance.
    """
    if mask is None:
        return mixer(x)
    lengths = mask.sum(1, keepdim=True)
    kept = torch.arange(x.shape[1], device=x.device) < lengths  # (B, L)
    return mix_aligned(lambda aligned: mixer(aligned, kept), x, mask)
