"""Split-conformal intervals around any forecast, in numpy.

Residuals have axes ``(..., n, horizon)``: n calibration windows that the model was not fitted on. Every step of the
horizon is calibrated by itself, and so is every index of the leading axes, for example series; concatenate series along
n to pool them.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from seqmix.errors import ConfigError, DataError

#: least local scale; a series that has stopped to vary for a while may begin again: coverage is the same from 0.05 to
#: 0.3 (LOG.md)
CALMEST = 0.2
#: fewer calibration windows than these tell less about errors than the differences of the series
FEWEST = 4
# windows that do not overlap from which on the errors of a series count more than those of all series (LOG.md)
_WINDOWS = 2.0


def fit_conformal(residuals: np.ndarray) -> np.ndarray:
    """Scores of split-conformal prediction: absolute residuals, sorted along the windows.

    Shapes: ``(..., n, horizon) -> (..., n, horizon)``. Cost: O(n log n) for each step.

    Args:
        residuals: truth less forecast on calibration windows; NaN where the truth is missing.

    Source: Lei et al., 2018, arXiv:1604.04173, algorithm 2. Differs from the original code in: one score set per step.
    """
    return np.sort(np.abs(residuals), axis=-2)


def fit_cqr(y: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """Scores of conformalized quantile regression: how far the truth lies outside of two forecast quantiles.

    ``max(lo - y, y - hi)``, negative inside, sorted along the windows. With ``lo = hi`` these are those of
    ``fit_conformal``.

    Shapes: three ``(..., n, horizon) -> (..., n, horizon)``. Cost: O(n log n) for each step.

    Args:
        y: truth on calibration windows; NaN where it is missing.
        lo: forecast quantile (1 - level) / 2 on the same windows.
        hi: forecast quantile (1 + level) / 2 on the same windows.

    Source: Romano et al., 2019, arXiv:1905.03222, eq. 6. Differs from the original code in: one score set per step.
    """
    return np.sort(np.maximum(lo - y, y - hi), axis=-2)


def conformal_bounds(yhat: np.ndarray, scores: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Conformal interval around a forecast: it covers the truth ``level`` percent of the time.

    The half width is the score of rank ``ceil((n + 1) level / 100)``: coverage is at least ``level`` for one new window
    exchangeable with the n of the calibration. Where n is too small for that rank it is the root of their mean square
    times the quantile of Student's t with n degrees of freedom, and at least the largest score. Half widths rise with
    the level, so that intervals are nested.

    Shapes: ``yhat (..., horizon)``, ``scores (..., n, horizon)`` -> two ``(..., horizon)``. Cost: O(1) for each value.

    Args:
        yhat: forecasts; leading axes are those of ``scores``, or any where scores are pooled.
        scores: what ``fit_conformal`` returned.
        level: coverage in percent, for example 90.

    Raises:
        ConfigError: if the level is not a percentage.
        DataError: if there is no calibration window.
    """
    half = half_widths(scores, level)
    return yhat - half, yhat + half


def cqr_bounds(lo: np.ndarray, hi: np.ndarray, scores: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Conformalized quantile interval: two forecast quantiles, moved to reach a coverage of ``level`` percent.

    Bounds that would cross stay at their mean. Use ``nest`` for the results of several levels.

    Shapes: two ``(..., horizon)``, ``scores (..., n, horizon)`` -> two ``(..., horizon)``. Cost: O(1) for each value.

    Args:
        lo: forecast quantile (1 - level) / 2.
        hi: forecast quantile (1 + level) / 2.
        scores: what ``fit_cqr`` returned for the same quantiles.
        level: coverage in percent, for example 90.

    Raises:
        ConfigError: if the level is not a percentage.
        DataError: if there are too few calibration windows for the level.
    """
    margin = np.maximum(margins(scores, level), (lo - hi) / 2)
    return lo - margin, hi + margin


def nest(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Widen intervals of K rising levels, ``(K, ...)`` twice, until each holds those before it.

    Coverage never falls.
    """
    return np.minimum.accumulate(lo, axis=0), np.maximum.accumulate(hi, axis=0)


def local_scale(x: np.ndarray, season: int) -> np.ndarray:
    """Mean absolute seasonal difference of each window, at least a fifth of the unit of its series.

    Errors grow with it: scores of conformal prediction in units of it hold when a series has become calmer or wilder.
    One of few differences is larger by ``small_sample``.

    Shapes: ``(N, L, C) -> (N, C)``. Cost: O(N L C).

    Args:
        x: windows in units of the scale of their series, NaN where missing.
        season: steps of the season.

    Source: Lei et al., 2018, arXiv:1604.04173, sec. 5.2. Differs from the original code in: the scale is not a model.
    """
    apart = np.abs(x[:, season:] - x[:, :-season])
    known = ~np.isnan(apart)
    count = known.sum(1)
    mean = np.where(known, apart, 0).sum(1) / count.clip(min=1)
    # windows without a difference have the unit, the deviation of their values
    freedom = np.where(count, count, (~np.isnan(x)).sum(1) - 1)
    return np.where(count, mean.clip(min=CALMEST), 1.0) * small_sample(freedom.clip(min=1), season, x.shape[1])


def small_sample(freedom: Any, season: int, length: int) -> Any:
    """What a scale from few values is larger by: the 90 % quantile of Student's t, over that of a whole window.

    The ratio to the normal distribution is within 3 percent for any number of degrees of freedom.

    Args:
        freedom: degrees of freedom of the scale, at least 1.
        season: steps of the season.
        length: steps of the window.
    """
    whole = length - season if length > season else max(length - 1, 1)
    return (1 + 0.66 / freedom + 0.74 / freedom**2) / (1 + 0.66 / whole + 0.74 / whole**2)


def series_sizes(scores: np.ndarray, series: np.ndarray, n: int) -> np.ndarray:
    """Size of the errors of each of n series relative to other series, ``(n,)``, shrunk where its windows are few.

    The mean over windows and steps, each step in units of its mean over all, to the power ``k / (k + 2)`` of its ratio
    to the geometric mean of all series: k windows that do not overlap.

    Args:
        scores: absolute errors, those that are not finite do not count, ``(m, horizon)``.
        series: number of the series of each window, ``(m,)``.
        n: number of series; those without a window have the geometric mean.
    """
    known = np.isfinite(scores)
    clean = np.where(known, scores, 0.0)
    step = clean.sum(0) / known.sum(0).clip(min=1)
    seen, used = known.sum(1), known.any(1)
    each = (clean / np.where(step > 0, step, 1.0)).sum(1)[used] / seen[used]
    count = np.bincount(series[used], minlength=n)
    mean = np.bincount(series[used], weights=each, minlength=n) / count.clip(min=1)
    # errors near zero, of a series that does not vary, are no unit
    told = mean > (1e-4 * np.median(mean[count > 0]) if count.any() else 0)
    typical = np.exp(np.log(mean[told]).mean()) if told.any() else 1.0
    alone = np.where(told, 1 + (count - 1) / scores.shape[1], 0.0)
    return typical * np.where(told, mean / typical, 1.0) ** (alone / (alone + _WINDOWS))


def naive_scores(x: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """Scores of the seasonal naive forecast of single series that are too short for calibration windows.

    Seasonal differences are those of a random walk with noise: the variance after k seasons is
    ``v (k + 2 (k - 1) r)``, with their mean square v and autocorrelation r, shrunk to 0 where they are few. The scores
    are the quantiles 1/200 to 199/200 of Student's t with that scale, as many degrees of freedom as differences.

    Shapes: ``(N, L) -> (199, horizon)``, pooled over the series; empty where no difference is known.

    Args:
        x: series in their units, NaN where missing.
        season: steps of the season; 1 where no value is known a season after another.
        horizon: steps to forecast.

    Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., sec. 5.5. Differs from the book
    in: Student's t, and the autocorrelation.
    """
    from scipy.special import stdtrit

    apart = x[:, season:] - x[:, :-season]
    known = ~np.isnan(apart)
    if not known.any():
        return np.zeros((0, horizon)) if season == 1 else naive_scores(x, 1, horizon)
    apart, n = np.where(known, apart, 0.0), known.sum()
    variance = np.square(apart).sum() / n
    both = (apart[:, season:] * apart[:, :-season]).sum() / n
    share = both / variance * (n - 1) / (n + 3) if variance > 0 else 0.0
    k = -(-np.arange(1, horizon + 1) // season)
    scale = np.sqrt(variance * (k + 2 * (k - 1) * np.clip(share, -0.5, 0.5)))
    return stdtrit(n, 0.5 + np.arange(1, 200) / 400)[:, None] * scale


def check_windows(scores: np.ndarray, levels: Iterable[float]) -> None:
    """Raise ``DataError`` if a level needs more windows than ``scores`` or residuals ``(..., n, horizon)`` hold."""
    n = int((~np.isnan(scores)).sum(-2).min())
    for level in levels:
        if not enough(n, level):
            needed = int(np.ceil(level / (100 - level) - 1e-9))
            raise DataError(
                f"intervals of level {level:g} need {needed} calibration windows, got {n}; "
                "use more windows, pool the series, or lower the level"
            )


def enough(n: int, level: float) -> bool:
    """Whether n calibration windows have a score of the rank of a level."""
    return bool(np.ceil((n + 1) * level / 100 - 1e-9) <= n)


def margins(scores: np.ndarray, level: float) -> np.ndarray:
    """Score of rank ``ceil((n + 1) level / 100)`` of the n that are not NaN, ``(..., horizon)``."""
    _check_level(level)
    check_windows(scores, [level])
    return _ranked(scores, level)[0]


def half_widths(scores: np.ndarray, level: float) -> np.ndarray:
    """Half width of the interval of a point forecast, ``(..., horizon)``; see ``conformal_bounds``."""
    _check_level(level)
    n = (~np.isnan(scores)).sum(-2)  # (..., horizon)
    if not n.size or n.min() < 1:
        raise DataError("intervals need a calibration window, got none; give longer series, or leave out levels")
    half, rank = _ranked(scores, level)
    if (rank <= n).all():
        return half

    from scipy.special import stdtrit

    size = np.sqrt(np.nansum(np.square(scores), -2) / n)
    return np.where(rank <= n, half, np.maximum(half, size * stdtrit(n, 0.5 + level / 200)))


def _ranked(scores: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The score of the rank of a level, or the largest, and that rank, each ``(..., horizon)``."""
    n = (~np.isnan(scores)).sum(-2, keepdims=True)  # (..., 1, horizon)
    # 0.95 * 20 may come out a rounding error above 19
    rank = np.ceil((n + 1) * level / 100 - 1e-9).astype(int)
    return np.take_along_axis(scores, np.minimum(rank, n) - 1, -2).squeeze(-2), rank.squeeze(-2)


def _check_level(level: float) -> None:
    if not 1 < level < 100:
        raise ConfigError(f"a level is a percentage between 1 and 100, got {level}; use for example 90")
