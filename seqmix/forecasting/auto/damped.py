"""Exponential smoothing with a damped trend, for many series at once, without an optimizer."""

import numpy as np

from seqmix.forecasting.auto.seasons import adjust

_ALPHAS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 0.99)
_BETAS = (0.02, 0.1, 0.25, 0.5)
_PHIS = (0.8, 0.9, 0.95, 0.98, 1.0)
# level, trend, damping: rows of a grid; without a trend first, which has two parameters fewer
_GRID = np.array(
    [(a, 0.0, 0.0) for a in _ALPHAS] + [(a, a * b, phi) for a in _ALPHAS for b in _BETAS for phi in _PHIS]
).T
# smoothing parameters and initial states, and the variance
_SIZES = np.where(_GRID[2] == 0, 3, np.where(_GRID[2] == 1, 5, 6))


def damped(y: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """Forecasts of simple, linear and damped exponential smoothing, the best by AICc, ``(n, horizon)``.

    The initial level and trend of each point of a grid of parameters follow from least squares on the one-step errors.

    Args:
        y: values, aligned at the end, NaN before the first, ``(n, T)``.
        season: steps of the season, 1 for none.
        horizon: steps to forecast.

    Source: Gardner and McKenzie, 1985, Management Science 31(10); AICc after Hyndman et al., 2002. Differs from the
    original code in: a grid in place of an optimizer; series are seasonally adjusted before.
    """
    adjusted = adjust(y, season)
    return adjusted.restored(_forecast(adjusted.y, horizon))


def _forecast(y: np.ndarray, horizon: int) -> np.ndarray:
    n, T = y.shape
    alpha, beta, phi = _GRID
    start = np.isnan(y).sum(1)  # (n,)
    size = T - start
    first = y[np.arange(n), np.minimum(start, T - 1)]
    # relative to the first value, so that the level does not use up the digits
    d = np.nan_to_num(y - first[:, None])
    # response of the state and of the next forecast to an initial level, and trend, of 1
    level_of, trend_of = _responses(T)
    u, v = level_of + phi * trend_of  # (T + 1, G)
    level, trend = np.zeros((2, n, len(alpha)))
    # one-step errors are e - l0 u - b0 v: sums of their products
    ue, ve, ee = np.zeros((3, n, len(alpha)))
    for t in range(int(start.min()), T):
        i = t - start
        on = i >= 0
        step = phi * trend
        e = (d[:, t, None] - level - step) * on[:, None]
        ee += e * e
        ue += e * u[i.clip(min=0)]
        ve += e * v[i.clip(min=0)]
        level += step + alpha * e
        trend = step + beta * e
    # a series has one initial level and trend for each length
    uu, uv, vv = (np.concatenate([np.zeros((1, len(alpha))), np.cumsum(x, 0)])[size] for x in (u * u, u * v, v * v))
    # a trend that the data hardly shows stays small
    vv = vv + 1e-3 * uu + 1e-12
    det = uu * vv - uv**2
    with np.errstate(divide="ignore", invalid="ignore"):
        l0, b0 = (ue * vv - ve * uv) / det, (ve * uu - ue * uv) / det
    flat = (phi == 0) | ~(det > 1e-9 * uu * vv)
    l0, b0 = np.where(flat, ue / uu.clip(min=1e-300), l0), np.where(flat, 0.0, b0)
    error = ee - 2 * (l0 * ue + b0 * ve) + l0**2 * uu + 2 * l0 * b0 * uv + b0**2 * vv
    best = _chosen(error, size[:, None])
    at = (np.arange(n), best)
    phi = phi[best]
    # effect of the initial states, then of the trend
    level = level[at] + l0[at] * level_of[0, size, best] + b0[at] * level_of[1, size, best]
    trend = trend[at] + l0[at] * trend_of[0, size, best] + b0[at] * trend_of[1, size, best]
    growth = np.cumsum(phi[:, None] ** np.arange(1, horizon + 1), 1)
    return (first + level)[:, None] + trend[:, None] * growth


def _responses(T: int) -> tuple[np.ndarray, np.ndarray]:
    """Level and trend after each step that an initial level of 1, or trend of 1, leaves, ``(2, T + 1, G)`` each."""
    alpha, beta, phi = _GRID
    level, trend = np.zeros((2, 2, T + 1, len(alpha)))
    level[0, 0] = trend[1, 0] = 1.0
    for t in range(T):
        step = phi * trend[:, t]
        forecast = level[:, t] + step
        level[:, t + 1] = (1 - alpha) * forecast
        trend[:, t + 1] = step - beta * forecast
    return level, trend


def _chosen(error: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The point of the grid with the lowest AICc, ``(n,)``."""
    room = size - _SIZES - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        penalty = np.where(room > 0, 2 * _SIZES * size / room, np.where(_SIZES.min() == _SIZES, 1e6, np.inf))
        aicc = size * np.log((error / size).clip(min=1e-300)) + penalty
    return np.nan_to_num(aicc, nan=np.inf, posinf=np.inf).argmin(1)
