"""Ensemble weights as pure functions of forecasts and truth."""

from typing import NamedTuple

import numpy as np

# chosen on development panels (LOG.md): weights fall with this power of the error, and the errors of all series count
# as much as this many windows of a series of its own
_POWER = 10
_WINDOWS = 6.0
# errors in units of their series that are those of a break in the data, if all models make them
_BREAK = 100.0
# parts with less are left out: they cost time
_LEAST = 0.02


class Weights(NamedTuple):
    """Weights of M models, none below 0, that sum to 1.

    Args:
        panel: for series that were not tested, ``(M,)``.
        series: for each of those that were, ``(M, n)``.
    """

    panel: np.ndarray
    series: np.ndarray

    def of(self, at: np.ndarray) -> np.ndarray:
        """Weights of the tested series at the positions ``at``, -1 for others, ``(M, N)``."""
        return np.concatenate([self.series, self.panel[:, None]], 1)[:, at]

    def kept(self, which: list[int]) -> "Weights":
        """The weights of some of the models alone."""
        return Weights(*(x[which] / x[which].sum(0) for x in self))


def learn(points: np.ndarray, truth: np.ndarray, unit: np.ndarray, prior: np.ndarray) -> Weights:
    """Learn weights from the errors on each series, shrunk towards those on all series.

    The error of a model on a series is taken relative to the mean of the models, and averaged with its relative error
    on all series, which counts like a few windows. So a model that was trained is preferred to the others only where
    the windows agree that it is better; with few windows all that are about as good share the weight.

    Args:
        points: forecasts, without NaN, ``(M, n, K, horizon)``.
        truth: observed values, NaN where missing, ``(n, K, horizon)``.
        unit: unit of the errors of each series, NaN where there is none, ``(n,)``.
        prior: weights of models that are equally good, ``(M,)``; they need not sum to 1.
    """
    errors = np.abs(points - truth) / unit[:, None, None]
    known = _known(errors)  # (n, K, horizon)
    values, windows = known.sum((1, 2)), known.any(-1).sum(1)
    sums = np.where(known, errors, 0.0).sum((2, 3))  # (M, n)
    if not values.any():
        panel = np.ones((len(prior), 1))
    else:
        panel = sums.sum(1, keepdims=True) / values.sum() + 1e-9
        panel /= panel.mean(0)
    own = sums / values.clip(min=1) + 1e-9 * (values > 0)
    own /= own.mean(0).clip(min=1e-300)
    mixed = (windows * own + _WINDOWS * panel) / (windows + _WINDOWS)
    found = _inverse(np.concatenate([panel, mixed], 1), prior)
    keep = np.flatnonzero(found.mean(1) >= _LEAST)
    pruned = np.zeros_like(found)
    pruned[keep] = (found[keep] + 1e-12) / (found[keep] + 1e-12).sum(0)
    return Weights(pruned[:, 0], pruned[:, 1:])


def errors_of(points: np.ndarray, truth: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Mean absolute error of each model over the unit of the series, ``(M,)``; NaN where nothing is known.

    Structural breaks that no model predicts are ignored: one value of 1e15 would drown all others.
    """
    scaled = np.abs(points - truth) / unit[:, None, None]
    known = _known(scaled)
    return scaled[:, known].mean(1) if known.any() else np.full(len(points), np.nan)


def combined(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean over the first axis of those that are finite; NaN where none is.

    Args:
        points: forecasts, ``(M, n, ...)``.
        weights: weights of each series, ``(M, n)``.
    """
    weights = weights.reshape(*weights.shape, *(1,) * (points.ndim - 2)) * np.isfinite(points)
    with np.errstate(invalid="ignore"):
        return (np.where(weights > 0, points, 0.0) * weights).sum(0) / weights.sum(0)


def _known(errors: np.ndarray) -> np.ndarray:
    """Mask of the values at which the errors ``(M, n, K, horizon)`` of the models differ."""
    return ~np.isnan(errors).any(0) & (errors.min(0) < _BREAK)


def _inverse(errors: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Weights that fall with the errors, ``(M, n)``."""
    weights = prior[:, None] * (errors.min(0) / errors) ** _POWER
    return weights / weights.sum(0)
