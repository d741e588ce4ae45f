"""Naive2, the benchmark of the M4 competition: the naive forecast of the seasonally adjusted series."""

import numpy as np

# one-sided normal quantile of 95 percent: a two-sided test at 90 percent
_CRITICAL = 1.645


def naive2(y: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """Forecast one series ``y: (T,)`` by the last seasonally adjusted value times the season ahead.

    The season is that of the classical multiplicative decomposition.

    Args:
        y: the series.
        season: steps of the season m; 1 for none.
        horizon: steps to forecast.

    Source: Makridakis et al., 2020, International Journal of Forecasting 36(1), sec. 2.1, and the organizers' R code.
    Differs from the original code in: nothing.
    """
    if not is_seasonal(y, season):
        return np.full(horizon, y[-1])
    T, half = len(y), season // 2
    # centered moving average over one season; one of even length takes half of each end
    window = np.ones(season) if season % 2 else np.r_[0.5, np.ones(season - 1), 0.5]
    trend = np.convolve(y, window / season, "valid")  # (T - 2 half,)
    ratio, phase = y[half : T - half] / trend, np.arange(half, T - half) % season
    figure = np.array([ratio[phase == k].mean() for k in range(season)])
    figure /= figure.mean()
    return y[-1] / figure[(T - 1) % season] * figure[np.arange(T, T + horizon) % season]


def is_seasonal(y: np.ndarray, season: int) -> bool:
    """Whether ``y: (T,)`` has a season: three seasons long, its autocorrelation at ``season`` beyond the 90 % limit."""
    if season == 1 or len(y) < 3 * season:
        return False
    d = y - y.mean()
    power = d @ d
    if power == 0:
        return False
    r = np.array([d[k:] @ d[:-k] for k in range(1, season + 1)]) / power
    return bool(abs(r[-1]) > _CRITICAL * np.sqrt((1 + 2 * (r[:-1] ** 2).sum()) / len(y)))
