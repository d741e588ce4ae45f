"""Seasonal adjustment of many series at once: a seasonality test and classical decomposition."""

from typing import NamedTuple

import numpy as np

# one-sided normal quantile of 95 percent
_CRITICAL = 1.645


class Adjusted(NamedTuple):
    """Seasonally adjusted series.

    Args:
        y: the adjusted values, NaN before the first, ``(n, T)``.
        indices: the season of the steps after the last, from the first of them on, ``(n, season)``.
        factor: whether the season is multiplicative, ``(n,)``.
    """

    y: np.ndarray
    indices: np.ndarray
    factor: np.ndarray

    def restored(self, forecast: np.ndarray) -> np.ndarray:
        """Forecasts ``(n, horizon)`` of the adjusted series with their season."""
        horizon, season = forecast.shape[1], self.indices.shape[1]
        ahead = np.tile(self.indices, (1, -(-horizon // season)))[:, :horizon]
        return np.where(self.factor[:, None], forecast * ahead, forecast + ahead)


def adjust(y: np.ndarray, season: int) -> Adjusted:
    """Adjust the series that are seasonal.

    A series has one if it is two seasons long and its autocorrelation at the season is above the limit of 90 percent
    for white noise with the autocorrelations before it. The season is a factor where all values, and all factors, are
    positive.

    Args:
        y: values, aligned at the end, NaN before the first, ``(n, T)``.
        season: steps of the season.

    Source: the seasonal test and decomposition of the Theta method, Assimakopoulos and Nikolopoulos, 2000, as Fiorucci
    et al., 2016, describe them. Differs from the original code in: all series at once.
    """
    n, T = y.shape
    length = (~np.isnan(y)).sum(1)
    none = Adjusted(y, np.zeros((n, 1)), np.zeros(n, bool))
    tested = _seasonal(y, season, length) if 1 < season <= T // 2 else np.zeros(n, bool)
    if not tested.any():
        return none
    width = -(-T // season) * season
    wide = np.concatenate([np.full((n, width - T), np.nan), y], 1)
    trend = _moving_average(wide, season)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = _phases(wide / trend, season)
        ratio /= ratio.mean(1, keepdims=True)
    shift = _phases(wide - trend, season)
    shift -= shift.mean(1, keepdims=True)
    positive = np.nanmin(np.where(np.isnan(y), np.inf, y), axis=1) > 0
    with np.errstate(invalid="ignore"):
        factor = tested & positive & (ratio.min(1) > 0.01)
    indices = np.where(factor[:, None], ratio, np.where(tested[:, None], shift, 0.0))
    past = np.tile(indices, (1, width // season))[:, width - T :]
    with np.errstate(divide="ignore", invalid="ignore"):
        adjusted = np.where(factor[:, None], y / past, y - past)
    return Adjusted(adjusted, indices, factor)


def _seasonal(y: np.ndarray, season: int, length: np.ndarray) -> np.ndarray:
    """Whether each series has a season, ``(n,)``."""
    count = length.clip(min=1)
    d = np.nan_to_num(y - (np.nansum(y, axis=1) / count)[:, None])
    power = (d**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.stack([(d[:, k:] * d[:, :-k]).sum(1) / power for k in range(1, season + 1)], 1)
        limit = _CRITICAL * np.sqrt((1 + 2 * (r[:, :-1] ** 2).sum(1)) / count)
        # the residual of a constant is rounding
        return (length >= 2 * season) & (power > 1e-18 * np.nansum(y**2, axis=1)) & (np.abs(r[:, -1]) > limit)


def _moving_average(y: np.ndarray, season: int) -> np.ndarray:
    """Centered average over a season, NaN where it is not whole, ``(n, T)``."""
    weights = np.ones(season + 1 - season % 2)
    if season % 2 == 0:
        weights[[0, -1]] = 0.5
    half, found = len(weights) // 2, np.full_like(y, np.nan)
    views = np.lib.stride_tricks.sliding_window_view(y, len(weights), axis=1)
    found[:, half : half + views.shape[1]] = views @ (weights / season)
    return found


def _phases(y: np.ndarray, season: int) -> np.ndarray:
    """Mean of each phase of the season, ``(n, season)``; 0 where there is none."""
    cycles = y.reshape(len(y), -1, season)
    seen = np.isfinite(cycles)
    return np.where(seen, cycles, 0.0).sum(1) / seen.sum(1).clip(min=1)
