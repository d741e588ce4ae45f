"""Ridge, linear forecasts in closed form: no gradient steps, no seed, one eigendecomposition for all penalties."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_choice
from seqmix.models._moments import Moments
from seqmix.models._ridge_search import Level, Search, judge
from seqmix.models.forecast_model import ForecastModel, register_model
from seqmix.series import Series

Batch = dict[str, Tensor]

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
_LEVELS: tuple[Level, ...] = ("last", "mean", "season", "none")


@register_model(paper="Hoerl and Kennard, 1970, Technometrics 12(1)", weights="own")
class Ridge(ForecastModel):
    """Ridge: the linear map of the window with the least penalized squared error, in closed form.

    The level of the window is taken from window and horizon, the map of the rest is
    ``W = (X'X / n + ridge * tr(X'X / n) / L * I)^-1 X'Y / n`` over all training windows, and level and map are folded
    into one matrix. Without training the forecast is the last value. Sums are accumulated in float64 over streamed
    batches, so that the data may be larger than memory, and one eigendecomposition serves every ``ridge``.

    Everything left open is chosen by the squared error of the validation windows, channel by channel where weights are
    ``own``, and the map stays the one of the training windows. Without validation windows it is chosen by generalized
    cross-validation on the training windows. Missing values of a window are those before them, or after them at its
    start; so are missing targets, and a window with some weighs the share of its targets that was observed.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, or ``(B, horizon, C, K)``, all K equal.
    Cost: O(n context (context + horizon)) to fit n windows, O(C context horizon) to forecast one.

    Args:
        lookback: steps of the window that are used. Default: the context.
        ridge: penalty, in units of the mean square of a step of the window. Default: chosen from 1e-4 to 100.
        level: what is taken from window and horizon: the ``last`` value, the ``mean`` of the window, its last
            ``season`` repeated, or nothing with ``none``; ``auto`` chooses.
        weights: one matrix for all channels (``shared``), one for each (``own``), or for each channel the better of the
            two (``auto``).

    Raises:
        ConfigError: if an option is out of range or not known.

    Source: Hoerl and Kennard, 1970; as a forecaster Toner and Darlow, 2024, arXiv:2403.14587. Differs from the original
    code in: the penalty, the level, and that options are chosen on validation windows.
    """

    linear = True
    repeats_season = True
    closed_form = True
    masked = True

    def __init__(
        self,
        series: Series,
        *,
        lookback: int | None = None,
        ridge: float | None = None,
        level: Literal["auto", "last", "mean", "season", "none"] = "last",
        weights: Literal["auto", "shared", "own"] = "shared",
    ):
        super().__init__(series)
        L = series.context
        check_choice("level", level, ("auto", *_LEVELS))
        check_choice("weights", weights, ("auto", "shared", "own"))
        if lookback is not None and not 1 <= lookback <= L:
            raise ConfigError(f"lookback = {lookback} does not fit context = {L}; use 1 to {L}")
        if ridge is not None and not 0 < ridge < math.inf:
            raise ConfigError(f"ridge must be above 0, got {ridge}; use for example 0.1, or leave it out")
        lookbacks = [lookback or L]
        levels = _LEVELS if level == "auto" else (level,)
        self.search = Search(levels, lookbacks, (ridge,) if ridge else _RIDGES, series.season)
        self.weights = weights
        copies = 1 if weights == "shared" else series.n_channels
        #: the level and the map of the rest, as one matrix for all channels or one for each
        self.weight = nn.Parameter(torch.zeros(copies, series.horizon, L))
        with torch.no_grad():
            self.weight[..., -1] = 1

    def forward(
        self,
        x: Tensor,
        *,
        future: Tensor | None = None,
        static: Tensor | None = None,
        past: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Forecast from ``x: (B, context, C)``, observed where ``mask`` is True."""
        x = fill(x, mask).transpose(1, 2)  # (B, C, L)
        if len(self.weight) == 1:
            y = nn.functional.linear(x, self.weight[0]).transpose(1, 2)
        else:
            y = torch.einsum("bcl,chl->bhc", x, self.weight)
        K = self.series.n_outputs
        return y if K == 1 else y.unsqueeze(-1).expand(-1, -1, -1, K)

    @torch.no_grad()
    def fit_closed_form(self, train: Iterable[Batch], val: Iterable[Batch]) -> None:
        """Fit the map to the training windows, and choose what is left open on the validation windows."""
        moments, held = self._moments(train), self._moments(val)
        copies = len(self.weight)
        fits = [self.search.best(moments, held, c) for c in range(copies)] if self.weights != "shared" else []
        if self.weights != "own":
            shared = self.search.best(moments.pooled(), held.pooled(), 0)
            fits = fits or [shared]
            for c, own in enumerate(fits):
                error = judge(moments, held, c, shared.weight, shared.freedom)
                fits[c] = own if own.error < error else shared
        self.weight.copy_(torch.stack([fit.weight.T for fit in fits]))

    def _moments(self, batches: Iterable[Batch]) -> Moments:
        """Sums over the batches, for each channel where there are weights of its own."""
        s, device = self.series, self.weight.device
        where = device if device.type == "cuda" else torch.device("cpu")
        return Moments(len(self.weight), s.context, s.horizon, where).add(map(_rows, batches))


def _rows(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Window, horizon and weight of every channel, without missing values."""
    x, y, weight = batch["x"], batch["y"], batch.get("weight")
    weight = x.new_ones(x.shape[0], x.shape[2]) if weight is None else weight
    if "y_mask" in batch:
        both = fill(torch.cat([x, y], 1), torch.cat([batch["x_mask"], batch["y_mask"]], 1))
        weight = weight * batch["y_mask"].to(x.dtype).mean(1)
        return both[:, : x.shape[1]], both[:, x.shape[1] :], weight
    return fill(x, batch.get("x_mask")), y, weight


def fill(x: Tensor, mask: Tensor | None) -> Tensor:
    """The values of ``x: (B, L, C)`` where ``mask`` is True; elsewhere the one before, or the first after it, or 0."""
    if mask is None:
        return x
    x = x.masked_fill(~mask, 0)
    for turned in (False, True):
        if turned:
            x, mask = x.flip(1), mask.flip(1)
        # doubling steps: operations that every exported graph has
        step = 1
        while step < x.shape[1]:
            before, seen = (nn.functional.pad(t, (0, 0, step, 0))[:, : x.shape[1]] for t in (x, mask))
            x, mask = torch.where(mask, x, before), mask | seen
            step *= 2
    return x.flip(1)
