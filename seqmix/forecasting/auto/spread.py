"""Intervals of an ensemble from the backtest errors of its parts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seqmix.errors import ConfigError

# coverage in percent that is learned; others are interpolated
COVERAGES = np.array([0.0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98])
#: their bounds, all low ones and then all high ones
BOUNDS = tuple(round(0.5 + side * c / 200, 9) for side in (-1, 1) for c in COVERAGES[1:].tolist())
# the quantiles of WQL, and where they are in the bounds; the point forecast is the median
_DECILES = [(k / 10, BOUNDS.index(k / 10)) for k in range(1, 10) if k != 5]
# number of windows at which the empirical spread has the weight of the prior
_DOUBT = 20.0
# the same of absolute errors of a normal distribution of mean absolute error 1
_NORMAL = np.array([0.0, 0.157, 0.318, 0.483, 0.657, 0.845, 1.055, 1.299, 1.606, 2.062, 2.456, 2.916])


class Spread(NamedTuple):
    """Errors of a point forecast in units of each series: a width for each coverage times a growth for each step.

    Args:
        width: absolute errors over the growth, at ``COVERAGES``.
        growth: mean absolute error of each step of the horizon, ``(horizon,)``.
    """

    width: np.ndarray
    growth: np.ndarray

    def quantiles(self, point: np.ndarray, unit: np.ndarray, wanted: Sequence[float]) -> np.ndarray:
        """Quantiles ``wanted`` around forecasts ``(..., horizon)`` of series with units ``(...)``, ``(..., Q)``."""
        levels = 2 * np.array(wanted, float) - 1
        side = np.sign(levels) * np.interp(np.abs(levels) * 100, COVERAGES, self.width)
        steps = np.arange(1, point.shape[-1] + 1)
        growth = self.growth[: len(steps)] if len(self.growth) > 1 else self.growth * np.sqrt(steps)
        return point[..., None] + unit[..., None, None] * growth[:, None] * side


#: prior spread: normal errors that grow with the square root of the steps
NORMAL = Spread(_NORMAL, np.ones(1))


def learn_spread(errors: np.ndarray) -> Spread:
    """The spread of errors ``(n, K, horizon)`` in units of the series, NaN where unknown.

    With few windows the widths are shrunk to those of a normal distribution, and the growth to the square root.
    """
    size, horizon = np.abs(errors).reshape(-1, errors.shape[-1]), errors.shape[-1]
    windows = (~np.isnan(size)).any(1).sum()
    if not windows:
        return NORMAL
    trust, root = windows / (windows + _DOUBT), np.sqrt(np.arange(1, horizon + 1))
    mean = np.nanmean(size)
    found = np.array([np.nanmean(step) if (~np.isnan(step)).any() else mean for step in size.T])
    growth = trust * found + (1 - trust) * root * mean / root.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        standard = size / growth
    standard = standard[np.isfinite(standard)]
    width = np.quantile(standard, COVERAGES / 100) if len(standard) else _NORMAL
    return Spread(np.where(COVERAGES > 0, trust * width + (1 - trust) * _NORMAL, 0.0), growth)


def learn_stretch(quantiles: np.ndarray, point: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Factor by which the interval of each coverage is widened to reach that coverage in the backtest.

    Args:
        quantiles: forecasts of ``BOUNDS``, ``(..., horizon, Q)``.
        point: point forecasts, ``(..., horizon)``.
        truth: observed values, NaN where missing, ``(..., horizon)``.
    """
    windows = (~np.isnan(truth)).any(-1).sum()
    error, n = (truth - point)[..., None], len(COVERAGES) - 1
    side = np.where(error < 0, quantiles[..., :n], quantiles[..., n:]) - point[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (error / side).reshape(-1, n)
    stretch = np.ones(len(COVERAGES))
    for k, coverage in enumerate(COVERAGES[1:], 1):
        known = ratio[np.isfinite(ratio[:, k - 1]), k - 1]
        if len(known):
            stretch[k] = max(np.quantile(known, coverage / 100), 1e-3) ** (windows / (windows + _DOUBT))
    return stretch


def stretched(quantiles: np.ndarray, point: np.ndarray, wanted: Sequence[float], stretch: np.ndarray) -> np.ndarray:
    """Calibrated quantiles ``(..., Q)`` around the point forecast, rising."""
    order = np.argsort(wanted)
    factor = np.interp(np.abs(2 * np.array(wanted, float) - 1) * 100, COVERAGES, stretch)
    moved = point[..., None] + (quantiles - point[..., None]) * factor
    found = np.empty_like(moved)
    found[..., order] = np.sort(moved, -1)
    return found


def quantile_loss(quantiles: np.ndarray, point: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean quantile loss over the deciles of each value, ``(..., horizon)``; that of the median alone is its error.

    Args:
        quantiles: forecasts of ``BOUNDS``, ``(..., horizon, Q)``.
        point: forecasts of the median, ``(..., horizon)``.
        truth: observed values, NaN where missing, ``(..., horizon)``.
    """
    losses = np.abs(truth - point)
    for q, at in _DECILES:
        error = truth - quantiles[..., at]
        losses = losses + 2 * np.maximum(q * error, (q - 1) * error)
    return losses / (1 + len(_DECILES))


def check_wanted(wanted: Sequence[float]) -> None:
    """Refuse quantiles beyond the learned ones.

    Raises:
        ConfigError: if a quantile is beyond them.
    """
    least = 0.5 - COVERAGES[-1] / 200
    for q in wanted:
        if not least - 1e-9 <= q <= 1 - least + 1e-9:
            raise ConfigError(
                f"auto learns intervals of up to {COVERAGES[-1]:g} percent, quantiles {least:.2g} to {1 - least:.2g}, "
                f"got {q:g}; use a narrower one, or one model"
            )
