"""Normalization of windows: level and scale are removed before the model and put back into its forecast."""

from typing import Literal

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least, check_choice
from seqmix.models.forecasters import repeat_season
from seqmix.models.norm import window_moments
from seqmix.series import Series

Normalize = Literal["none", "window", "last", "season"]
Stats = tuple[Tensor, Tensor]


class WindowNorm(nn.Module):
    """Normalization of each window by its own observed values: ``z = (x - level) / scale * w + b``.

    The scale is the standard deviation, the level the mean, or the last observed value with ``last``. With ``season``
    the seasonal naive forecast takes the place of the mean in what is put back: the model predicts the residual.
    A missing value is at the level. Outside of training the scale of a window that does not vary is 0 in what is put
    back: its forecast is the level, whatever the model says. Statistics are constants for the gradient; nothing is kept
    between calls.

    Shapes: ``(B, context, C) -> (B, context, C)``. Cost: O(context C).

    Args:
        kind: ``none``, ``window``, ``last`` or ``season``.
        series: the facts of the data.
        season: length of the season, in time steps.
        affine: learn the scale w and the shift b of each channel.
        counts: values are counts: the level is 0 and the scale 1 + their mean.

    Raises:
        ConfigError: if options contradict each other or are out of range.

    Source: Kim et al., ICLR 2022 (RevIN). Differs from the original code in: masks, ``last``, ``season``, counts.
    """

    def __init__(self, kind: Normalize, series: Series, *, season: int, affine: bool, counts: bool):
        super().__init__()
        check_choice("normalize", kind, ("none", "window", "last", "season"))
        check_at_least(1, season=season)
        if affine and kind == "none":
            raise ConfigError("normalize_affine = True goes with normalized windows, got normalize = 'none'; drop one")
        if counts and kind in ("last", "season"):
            raise ConfigError(
                f"normalize = {kind!r} forecasts differences, and counts have none (loss = 'negative_binomial'); "
                "use normalize='window'"
            )
        if kind == "season" and season > series.context:
            raise ConfigError(
                f"season = {season} does not fit context = {series.context}; use a season of 1 to {series.context}"
            )
        self.kind, self.season, self.horizon, self.counts = kind, season, series.horizon, counts
        self.weight = nn.Parameter(torch.ones(series.n_channels)) if affine else None  # (C,)
        self.bias = nn.Parameter(torch.zeros(series.n_channels)) if affine else None  # (C,)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Stats | None]:
        """Return the normalized window, and shift and scale of its forecast, ``(B, 1, C)`` or ``(B, horizon, C)``."""
        x = x if mask is None else x.masked_fill(~mask, 0)
        if self.kind == "none":
            return x, None
        level, scale = window_moments(x, mask)
        if self.counts:
            level, scale = torch.zeros_like(level), 1 + level
        if self.kind == "last":
            level = _last(x, level, mask)
        z = (x - level) / scale
        z = z if mask is None else z.masked_fill(~mask, 0)
        if not (self.training or self.counts):
            # constant windows (up to rounding) are forecast as constant
            flat = scale * z.abs().amax(1, keepdim=True) <= 1e-6 * (1 + level.abs())
            scale = scale.masked_fill(flat, 0)
        if self.kind == "season":
            # where nothing was observed in a phase, its forecast is the mean
            level = level + scale * repeat_season(z, self.season, self.horizon, mask)
        if self.weight is not None and self.bias is not None:
            z = z * self.weight + self.bias
        return z, (level, scale)

    def undo_affine(self, outputs: Tensor) -> Tensor:
        """Outputs of the model, ``(B, horizon, C)`` or ``(B, horizon, C, K)``, without the learned scale and shift."""
        if self.weight is None or self.bias is None:
            return outputs
        weight, bias = self.weight, self.bias
        if outputs.ndim == 4:
            weight, bias = weight.unsqueeze(-1), bias.unsqueeze(-1)
        # the guard of the original, eps^2 there
        return (outputs - bias) / (weight + 1e-10)


def _last(x: Tensor, mean: Tensor, mask: Tensor | None) -> Tensor:
    """The last observed value of each window, ``(B, 1, C)``; the mean, which is 0, where nothing was observed."""
    if mask is None:
        return x[:, -1:]
    # the first step of the reversed window that was observed
    steps = x.shape[1] - 1 - mask.flip(1).int().argmax(1, keepdim=True)
    return torch.where(mask.any(1, keepdim=True), x.gather(1, steps), mean)
