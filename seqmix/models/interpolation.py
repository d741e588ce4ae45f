"""Simple imputation of windows: window mean, last value, linear and seasonal interpolation."""

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.models.forecast_model import ForecastModel, register_model
from seqmix.models.norm import window_moments
from seqmix.models.ridge import fill
from seqmix.series import Series


class Filler(ForecastModel):
    """Base of imputation without parameters, from the observed values of the same channel and window.

    A channel without any observed value in the window is 0, the mean of the training rows of standardized data.

    Shapes: ``(B, context, C) -> (B, context, C)``. Cost: O(context C).

    Raises:
        ConfigError: if the horizon is not the window itself.
    """

    linear = True
    masked = True
    reconstructs = True

    def __init__(self, series: Series):
        super().__init__(series)
        check_reconstructs(self)

    def forward(
        self,
        x: Tensor,
        *,
        future: Tensor | None = None,
        static: Tensor | None = None,
        past: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Fill ``x: (B, context, C)`` where ``mask``, of its shape, is False; observed values stay."""
        if mask is None:
            return x
        return torch.where(mask, x, self.filled(x.masked_fill(~mask, 0), mask))

    @abstractmethod
    def filled(self, x: Tensor, mask: Tensor) -> Tensor:
        """Values ``(B, context, C)``, of which those of missing cells are used; ``x`` is 0 in them."""


@register_model(paper="none: the mean of the window")
class WindowMean(Filler):
    """The mean of the observed values of the window and channel."""

    def filled(self, x: Tensor, mask: Tensor) -> Tensor:
        """The mean in every cell."""
        return window_moments(x, mask)[0].expand_as(x)


@register_model(paper="none: the last value, repeated")
class LastValue(Filler):
    """The last observed value before a gap, or the first one after it at the start of the window."""

    def filled(self, x: Tensor, mask: Tensor) -> Tensor:
        """The last observed value of every cell."""
        return fill(x, mask)


@register_model(paper="none: lines between neighbors")
class LinearInterpolation(Filler):
    """Linear interpolation between the observed values on both sides of a gap; at the ends the nearest one."""

    def filled(self, x: Tensor, mask: Tensor) -> Tensor:
        """Interpolated values of every cell."""
        return interpolate(x, mask)


@register_model(paper="none: lines between neighbors of one phase")
class SeasonalInterpolation(Filler):
    """Linear interpolation between the nearest observed values of the same phase of the season.

    A phase without any observed value in the window is interpolated in time.

    Raises:
        ConfigError: if the window does not hold two seasons.
    """

    repeats_season = True

    def __init__(self, series: Series):
        super().__init__(series)
        if not 1 < series.season <= series.context // 2:
            raise ConfigError(
                f"a window of {series.context} steps does not hold two seasons of {series.season}; use a longer "
                "context, or LinearInterpolation"
            )

    def filled(self, x: Tensor, mask: Tensor) -> Tensor:
        """Values interpolated along each phase."""
        B, L, C = x.shape
        rows = (0, 0, 0, -L % self.series.season)
        # (B, seasons, season, C): the phase is a channel of its own
        phases, seen = (F.pad(t, rows).unflatten(1, (-1, self.series.season)).flatten(2) for t in (x, mask))
        values = interpolate(phases, seen).view(B, -1, C)[:, :L]
        known = seen.any(1, keepdim=True).expand_as(seen).reshape(B, -1, C)[:, :L]
        return torch.where(known, values, interpolate(x, mask))


def interpolate(x: Tensor, mask: Tensor) -> Tensor:
    """Linear interpolation of ``x: (B, L, C)`` where ``mask`` is False, the nearest observed value at the ends.

    A channel without any observed value is 0.
    """
    L = x.shape[1]
    rows = torch.arange(L, device=x.device)[:, None]
    before = torch.where(mask, rows, -1).cummax(1).values  # -1: none
    after = torch.where(mask, rows, L).flip(1).cummin(1).values.flip(1)  # L: none
    first, last = torch.where(before < 0, after, before), torch.where(after == L, before, after)
    low, high = (x.gather(1, at.clamp(0, L - 1)) for at in (first, last))
    share = (rows - first) / (last - first).clamp(min=1)
    found = low + share.to(x.dtype) * (high - low)
    return torch.where(mask, x, found.masked_fill(before.amax(1, keepdim=True) < 0, 0))


def check_reconstructs(model: ForecastModel) -> None:
    """Raise ``ConfigError`` unless the horizon of a model that fills its own window is that window."""
    context, horizon = model.series.context, model.series.horizon
    if context != horizon:
        raise ConfigError(
            f"{type(model).__name__} fills the window it is given, got context = {context} and horizon = {horizon}; "
            "use it with the Imputation task"
        )
