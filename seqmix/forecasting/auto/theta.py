"""The dynamic optimized Theta model for many series at once, without an optimizer."""

from typing import NamedTuple

import numpy as np

from seqmix.forecasting.auto.seasons import adjust

_ALPHAS = np.linspace(0.1, 0.99, 24)


def theta(y: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """Forecasts of the dynamic optimized Theta model, ``(n, horizon)``; NaN for series without a value.

    A step's forecast is linear in the initial level and in ``w = 1 - 1 / theta``: for each smoothing parameter of a
    grid both follow from least squares on the one-step errors, and the best parameter is kept.

    Args:
        y: values, aligned at the end, NaN before the first, ``(n, T)``.
        season: steps of the season, 1 for none.
        horizon: steps to forecast.

    Source: Fiorucci et al., 2016, International Journal of Forecasting 32(4), eq. 8 to 13. Differs from the original
    code in: a grid and least squares in place of Nelder-Mead.
    """
    adjusted = adjust(y, season)
    return adjusted.restored(_forecast(adjusted.y, horizon))


def _forecast(y: np.ndarray, horizon: int) -> np.ndarray:
    n, T = y.shape
    start = np.isnan(y).sum(1)  # (n,)
    rest = 1 - _ALPHAS  # (G,)
    # relative to the first value, so that the level does not use up the digits
    first = y[np.arange(n), np.minimum(start, T - 1)]
    d = np.nan_to_num(y - first[:, None])
    level = np.zeros((n, len(rest)))
    line = _Line(np.zeros(n), np.zeros(n), np.zeros(n))
    # one-step errors are e - initial g - w c: sums of their products
    gg, gc, cc, ge, ce, ee = np.zeros((6, n, len(rest)))
    for t in range(T):
        i = t - start  # steps since the first
        on = (i >= 0)[:, None]
        g = np.where(on, rest ** i.clip(min=0)[:, None], 0.0)
        c = np.where(on & (i > 0)[:, None], line.drift(g, _ALPHAS), 0.0)
        e = np.where(on, d[:, t, None] - level, 0.0)
        gg, gc, cc, ge, ce, ee = gg + g * g, gc + g * c, cc + c * c, ge + g * e, ce + c * e, ee + e * e
        level += _ALPHAS * e
        line = line.after(d[:, t], i)
    with np.errstate(divide="ignore", invalid="ignore"):
        w = ((gg * ce - gc * ge) / (gg * cc - gc**2)).clip(0, 1)
    w = np.nan_to_num(w)
    initial = (ge - w * gc) / gg.clip(min=1e-300)
    error = ee - 2 * (initial * ge + w * ce) + initial**2 * gg + 2 * initial * w * gc + w**2 * cc
    best = (np.arange(n), error.argmin(1))
    alpha, w, size = _ALPHAS[best[1]], w[best], T - start
    level = level[best] + initial[best] * (1 - alpha) ** size
    found = np.zeros((n, horizon))
    for h in range(horizon):
        found[:, h] = level + w * line.drift((1 - alpha) ** (size + h), alpha)
        level += alpha * (found[:, h] - level)
        line = line.after(found[:, h], size + h)
    return first[:, None] + found


class _Line(NamedTuple):
    """The regression line of the values so far, ``(n,)`` each."""

    mean: np.ndarray
    intercept: np.ndarray
    slope: np.ndarray

    def drift(self, g: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Increment of the line at the next step; ``g`` is ``1 - alpha`` to the number of values."""
        shape = (-1, *(1,) * (g.ndim - 1))
        return self.intercept.reshape(shape) * g + self.slope.reshape(shape) * (1 - (1 - alpha) * g) / alpha

    def after(self, y: np.ndarray, i: np.ndarray) -> "_Line":
        """The line with one more value each, the one of number ``i`` from 0; negative numbers are no values."""
        i, on = i.clip(min=0), i >= 0
        slope = np.where(i > 0, ((i - 1) * self.slope + 6 * (y - self.mean) / (i + 1)) / (i + 2), 0.0)
        mean = (i * self.mean + y) / (i + 1)
        new = (mean, mean - slope * (i + 2) / 2, slope)
        return _Line(*(np.where(on, value, before) for value, before in zip(new, self, strict=True)))
