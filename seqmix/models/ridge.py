"""Ridge, linear forecasts in closed form: no gradient steps, no seed, one eigendecomposition for all penalties."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_choice
from seqmix.models._cycle import Cycle
from seqmix.models._moments import Moments, Rows
from seqmix.models._ridge_search import Fit, Level, best_ridge, level_map, significant
from seqmix.models.forecast_model import ForecastModel, register_model
from seqmix.series import Series

Batch = dict[str, Tensor]

_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
# bytes of sums for each channel that are kept to choose between one map for all and one for each
_MOST_BYTES = 2 << 30
# values of past inputs that are used, of all of them together
_MOST_LAGS = 512


@register_model(paper="Hoerl and Kennard, 1970, Technometrics 12(1)", weights="own")
class Ridge(ForecastModel):
    """Ridge: the linear map of the window with the least penalized squared error, in closed form.

    The level of the window is taken from window and horizon, the map of the rest is
    ``W = (X'X / n + ridge * tr(X'X / n) / L * I)^-1 X'Y / n`` over all training windows, and level and map are folded
    into one matrix. Before the fit the forecast is the last value. Sums are accumulated in float64 over streamed
    batches, so that the data may be larger than memory, and one eigendecomposition serves every ``ridge``.

    What is left open is chosen by the squared error of the validation windows, and the map stays that of the training
    windows. Without validation windows ``ridge`` is chosen by generalized cross-validation on the training windows. A
    missing value is the one before it in its window, or the first after it at the start; so are missing targets, and a
    window with some weighs the share of its targets that was observed.

    Covariates are further columns, penalized a hundredth as much: static inputs, the last values of past inputs, the
    last value and the mean of known-future inputs in the window, and for each step their values at that step.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, or ``(B, horizon, C, K)``, all K equal.
    Cost: O(n context (context + horizon)) to fit n windows, O(C context horizon) to forecast one.

    Args:
        ridge: penalty, in units of the mean square of a step of the window. Default: chosen from 1e-3 to 1e5, for each
            matrix.
        level: what is taken from window and horizon: the ``last`` value, the ``mean`` of the window, its last
            ``season`` repeated, or nothing with ``none``.
        weights: one matrix for all channels (``shared``), or one for each (``own``). With ``auto`` channels have their
            own where it is better on validation windows, if the relative gain of all channels together is above chance:
            t > 2 over ten blocks of time, none shorter than the horizon. It is ``shared`` where sums for each channel
            would take over 2 GB.
        cycle: take the mean course of the season from window and horizon as well, if that is better on validation
            windows by the same test. The phase of a window is the one that fits its own values best.

    Raises:
        ConfigError: if an option is out of range or not known, or the season is longer than the context.
        ValueError: if covariates are missing that the model was built for.

    Source: Hoerl and Kennard, 1970; as a forecaster Toner and Darlow, 2024, arXiv:2403.14587. Differs from the original
    code in: the penalty in units of the data, the level, and what is chosen on validation windows.
    """

    covariates = "used"
    linear = True
    repeats_season = True
    closed_form = True
    masked = True

    def __init__(
        self,
        series: Series,
        *,
        ridge: float | None = None,
        level: Level = "last",
        weights: Literal["auto", "shared", "own"] = "auto",
        cycle: bool = False,
    ):
        super().__init__(series)
        L, H, C = series.context, series.horizon, series.n_channels
        check_choice("level", level, ("last", "mean", "season", "none"))
        check_choice("weights", weights, ("auto", "shared", "own"))
        if ridge is not None and not 0 < ridge < math.inf:
            raise ConfigError(f"ridge must be above 0, got {ridge}; use for example 0.1, or leave it out")
        if series.season > L and (cycle or level == "season"):
            remedy = "leave out cycle" if cycle else "level=last"
            raise ConfigError(f"season = {series.season} does not fit context = {L}; use a longer context, or {remedy}")
        #: how many values of each past input are used, the last ones
        self.lags = min(L, max(1, _MOST_LAGS // max(1, series.n_past)))
        D = L + series.n_static + self.lags * series.n_past + 2 * series.n_future
        if weights == "auto" and (C == 1 or 16 * C * D * (D + H * (1 + series.n_future)) > _MOST_BYTES):
            weights = "shared"
        self.level: Level = level
        self.ridges, self.weights = (ridge,) if ridge else _RIDGES, weights
        copies = 1 if weights == "shared" else C
        #: the level and the map of the rest, as one matrix for all channels or one for each
        self.weight = nn.Parameter(torch.zeros(copies, H, D))
        #: the effect of known-future inputs on the step they are of
        self.effect = nn.Parameter(torch.zeros(copies, H, series.n_future)) if series.n_future else None
        #: the mean course of the season; 0 where it was not better
        self.cycle = Cycle(C, series.season, H) if cycle else None
        with torch.no_grad():
            self.weight[..., L - 1] = 1

    def forward(
        self,
        x: Tensor,
        *,
        future: Tensor | None = None,
        static: Tensor | None = None,
        past: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Forecast from ``x: (B, context, C)``, observed where ``mask`` is True, and the covariates of the data."""
        x, base = self._without_cycle(fill(x, mask))
        z, ahead = self._inputs(x, future=future, static=static, past=past)
        y = _mapped(z, ahead, self.weight, self.effect)
        y = y if base is None else y + base
        K = self.series.n_outputs
        return y if K == 1 else y.unsqueeze(-1).expand(-1, -1, -1, K)

    @torch.no_grad()
    def fit_closed_form(self, train: Iterable[Batch], val: Iterable[Batch]) -> None:
        """Fit the map to the training windows, and choose what is left open on the validation windows."""
        plain = self._fitted(train, val)
        self._take(plain)
        if self.cycle is not None:
            errors = [_errors(rows, *plain) for rows in map(self._rows, val)]
            self.cycle.learn(lambda: (fill(batch["x"], batch.get("x_mask")) for batch in train))
            found = self._fitted(train, val)
            rows = map(self._rows, val)
            both = [torch.stack([before, _errors(each, *found)]) for before, each in zip(errors, rows, strict=True)]
            if _better(both, self.series.horizon, self.series.n_channels).any():
                self._take(found)
            else:
                self.cycle.course.zero_()

    def _fitted(self, train: Iterable[Batch], val: Iterable[Batch]) -> list[Tensor]:
        """Weights and effects with the best penalty, of one matrix or of one for each channel."""
        s, copies = self.series, len(self.weight)
        moments, held = self._moments(train), self._moments(val)
        level = level_map(self.level, s.context, s.horizon, s.season)
        found = [best_ridge(moments, held, c, level, self.ridges) for c in range(copies)]
        own = self._stacked(found)
        if self.weights == "auto":
            shared = self._stacked([best_ridge(moments.pooled(), held.pooled(), 0, level, self.ridges)])
            errors = [torch.stack([_errors(rows, *fit) for fit in (shared, own)]) for rows in map(self._rows, val)]
            better = _better(errors, s.horizon, copies).to(self.weight.device)[:, None, None]
            own = [torch.where(better, mine, theirs) for mine, theirs in zip(own, shared, strict=True)]
        return own

    def _take(self, fitted: list[Tensor]) -> None:
        self.weight.copy_(fitted[0])
        if self.effect is not None:
            self.effect.copy_(fitted[1])

    @torch.no_grad()
    def left_out(
        self, train: Iterable[Batch], blocks: Sequence[tuple[Iterable[Batch], Iterable[Batch]]]
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Forecasts of the windows of each block, fitted as without validation windows to the others alone."""
        s, total = self.series, self._moments(train)
        level = level_map(self.level, s.context, s.horizon, s.season)
        for inside, near in blocks:
            rest = total.without(self._moments(near))
            if self.weights == "auto":
                rest = rest.pooled()
            none = rest.without(rest)
            copies = range(len(rest.weight))
            fit = self._stacked([best_ridge(rest, none, c, level, self.ridges) for c in copies])
            for batch in inside:
                rows = self._rows(batch)
                # what the course took from the truth is part of the forecast
                yield batch, _mapped(rows.x, rows.ahead, *fit) + (batch["y"] - rows.y)

    def _stacked(self, fits: list[Fit]) -> list[Tensor]:
        """Weights and effects of several fits in the type of the parameters."""
        weight, effect = torch.stack([fit.weight.T for fit in fits]), torch.stack([fit.effect for fit in fits])
        return [weight.to(self.weight), effect.to(self.weight)]

    def _moments(self, batches: Iterable[Batch]) -> Moments:
        """Sums over the batches, for each channel where there may be a matrix for each."""
        copies, H, D = self.weight.shape
        device = self.weight.device if self.weight.is_cuda else torch.device("cpu")
        return Moments(copies, D, H, self.series.n_future, device).add(map(self._rows, batches))

    def _rows(self, batch: Batch) -> Rows:
        """Inputs, targets and weight of every channel, without missing values."""
        x, y, weight = batch["x"], batch["y"], batch["weight"]
        if "y_mask" in batch:
            both = fill(torch.cat([x, y], 1), torch.cat([batch["x_mask"], batch["y_mask"]], 1))
            x, y = both.split([x.shape[1], y.shape[1]], 1)
            weight = weight * batch["y_mask"].to(x.dtype).mean(1)
        x, base = self._without_cycle(x)
        y = y if base is None else y - base
        z, ahead = self._inputs(x, future=batch.get("future"), static=batch.get("static"), past=batch.get("past"))
        return Rows(z, ahead, y, weight)

    def _without_cycle(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Windows without the course of the season, and that of the horizon."""
        if self.cycle is None:
            return x, None
        window, base = self.cycle(x).to(x.dtype).split([self.series.context, self.series.horizon], 1)
        return x - window, base

    def _inputs(
        self, x: Tensor, *, future: Tensor | None, static: Tensor | None, past: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Inputs of all steps ``(B, C, D)``, and those of each step ``(B, H, F)``."""
        s, (B, L, C) = self.series, x.shape
        columns, ahead = [x.transpose(1, 2)], x.new_zeros(B, s.horizon, 0)
        if s.n_static:
            columns.append(self.given("static", static))
        if s.n_past:
            columns.append(self.given("past", past)[:, -self.lags :].flatten(1).unsqueeze(1).expand(-1, C, -1))
        if s.n_future:
            window, ahead = self.given("future", future).split([L, s.horizon], 1)
            columns.append(torch.cat([window[:, -1], window.mean(1)], 1).unsqueeze(1).expand(-1, C, -1))
        return torch.cat(columns, 2), ahead


def _mapped(z: Tensor, ahead: Tensor, weight: Tensor, effect: Tensor | None) -> Tensor:
    """Forecasts ``(B, H, C)`` from ``z: (B, C, D)`` and ``ahead: (B, H, F)``, by one matrix or one per channel."""
    if len(weight) == 1:
        y = nn.functional.linear(z, weight[0]).transpose(1, 2)
    else:
        y = torch.einsum("bcd,chd->bhc", z, weight)
    return y if effect is None else y + torch.einsum("bhf,chf->bhc", ahead, effect)


def _errors(rows: Rows, weight: Tensor, effect: Tensor) -> Tensor:
    """Weighted squared error of each window and channel, ``(B, C)``."""
    return (_mapped(rows.x, rows.ahead, weight, effect) - rows.y).square().mean(1) * rows.weight


def _better(errors: list[Tensor], horizon: int, channels: int) -> Tensor:
    """The channels for which the second of two fits is better, none if that may be chance, ``(C,)``.

    Args:
        errors: squared errors of the fits on batches of consecutive windows, each ``(2, B, C)``.
        horizon: steps of the horizon.
        channels: number of channels C.
    """
    if not errors:
        return torch.zeros(channels, dtype=torch.bool)
    first, second = torch.cat(errors, 1)
    # relative, so that no channel decides for all by its scale
    gains = (first - second) / first.mean(0).clamp(min=torch.finfo(first.dtype).tiny)
    return (gains.mean(0) > 0) & significant(gains.sum(1), horizon)


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
