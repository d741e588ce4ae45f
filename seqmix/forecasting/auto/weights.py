"""Ensemble weights as pure functions of losses and forecasts."""

from typing import NamedTuple

import numpy as np

# chosen on training rows of the development panels (LOG.md): weights fall with this power of the relative loss, and
# the windows of all series count as much as this many of one series
_POWER = 14
_WINDOWS = 12.0
# losses in units of the series below which models are equally good
_TINY = 1e-6
# errors in units of their series that are those of a break in the data, if all models make them
_BREAK = 100.0
# parts with less are left out: they cost time
_LEAST = 0.05


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


def learn(losses: np.ndarray, prior: np.ndarray) -> Weights:
    """Learn weights from losses in backtest windows, those of each series shrunk towards those of all.

    A loss counts relative to the median model of its window: a stormy week has no more say than a calm one, and a break
    that nobody foresaw has none. The relative loss of a model on a series is the mean over the windows of the series
    and over some more windows, each as bad as the mean over all series. Weights are the prior times an inverse power of
    it, so models that are about as good share the weight.

    Args:
        losses: of each model and step in units of the series, not finite where unknown, ``(M, n, K, horizon)``.
        prior: weights of models that are equally good, ``(M,)``; they need not sum to 1.
    """
    known = np.isfinite(losses).all(0)  # (n, K, horizon)
    steps = known.sum(-1)
    mean = np.where(known, losses, 0.0).sum(-1) / steps.clip(min=1) + _TINY
    relative = np.where(steps > 0, mean / np.median(mean, 0), 0.0)  # (M, n, K)
    windows = (steps > 0).sum(-1)
    own = relative.sum(-1)  # (M, n)
    panel = own.sum(1, keepdims=True) / windows.sum() if windows.any() else np.ones((len(prior), 1))
    shrunk = (own + _WINDOWS * panel) / (windows + _WINDOWS)
    found = _inverse(np.concatenate([panel, shrunk], 1), prior)
    keep = np.flatnonzero(found.mean(1) >= _LEAST)
    pruned = np.zeros_like(found)
    pruned[keep] = (found[keep] + 1e-12) / (found[keep] + 1e-12).sum(0)
    return Weights(pruned[:, 0], pruned[:, 1:])


def errors_of(points: np.ndarray, truth: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Mean absolute error of each model over the unit of the series, ``(M,)``; NaN where nothing is known.

    Structural breaks that no model predicts are ignored: one value of 1e15 would drown all others.
    """
    scaled = np.abs(points - truth) / unit[:, None, None]
    known = ~np.isnan(scaled).any(0) & (scaled.min(0) < _BREAK)
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


def _inverse(errors: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Weights that fall with the errors, ``(M, n)``."""
    weights = prior[:, None] * (errors.min(0) / errors) ** _POWER
    return weights / weights.sum(0)
