"""Simple forecasts of many series at once: the seasonal naive one, and drift."""

import numpy as np


def seasonal_naive(y: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """Seasonal naive forecasts, ``(n, horizon)``; the last value where there is no whole season.

    Args:
        y: values, aligned at the end, NaN before the first, ``(n, T)``.
        season: steps of the season.
        horizon: steps to forecast.

    Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice, sec. 5.2.
    """
    last = y[:, -1:]
    if season > y.shape[1]:
        return last.repeat(horizon, 1)
    found = np.tile(y[:, -season:], (1, -(-horizon // season)))[:, :horizon]
    return np.where(np.isnan(y[:, -season : y.shape[1] - season + 1]), last, found)


def drift(y: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """Forecasts of the random walk with drift: the line from the first to the last value, ``(n, horizon)``.

    Args:
        y: values, aligned at the end, NaN before the first, ``(n, T)``.
        season: steps of the season; ignored.
        horizon: steps to forecast.

    Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice, sec. 5.2.
    """
    n, T = y.shape
    start = np.minimum(np.isnan(y).sum(1), T - 1)
    first, last, steps = y[np.arange(n), start], y[:, -1], (T - 1 - start).clip(min=1)
    return last[:, None] + ((last - first) / steps)[:, None] * np.arange(1, horizon + 1)
