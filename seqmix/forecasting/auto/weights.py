"""Weights of an ensemble: pure functions of forecasts and truth."""

import numpy as np

# rounds of the greedy selection, and the number of windows at which what was learned counts as much as the prior
_ROUNDS = 100
_DOUBT = 20.0
# errors in units of their series that are those of a break in the data, if all models make them
_BREAK = 100.0
# parts with less are left out: they cost time
_LEAST = 0.02


def learn(points: np.ndarray, truth: np.ndarray, unit: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Weights of M models, none below 0, that sum to 1.

    Models are added one after another with replacement, each time the one that makes the mean of all chosen ones best
    in absolute error over the unit of its series, as in MASE. With few windows the weights are shrunk towards those of
    the prior: a model that was trained is preferred to a simple one only where many windows agree.

    Args:
        points: forecasts, without NaN, ``(M, N, horizon)``.
        truth: what came, NaN where unknown, ``(N, horizon)``.
        unit: unit of the errors of each window, NaN where there is none, ``(N,)``.
        prior: weights before anything was seen, ``(M,)``; they need not sum to 1.

    Source: Caruana et al., 2004, ensemble selection from libraries of models.
    """
    prior = _prior(points, truth, unit, prior)
    errors = (points - truth) / unit[:, None]
    known = _known(errors)
    windows = int(known.any(1).sum())
    if not windows:
        return _pruned(prior)
    errors = errors[:, known]  # (M, values)
    total, counts = np.zeros(errors.shape[1]), np.zeros(len(prior))
    for k in range(1, _ROUNDS + 1):
        best = int(np.abs((total + errors) / k).mean(1).argmin())
        total, counts[best] = total + errors[best], counts[best] + 1
    trust = windows / (windows + _DOUBT)
    return _pruned(trust * counts / counts.sum() + (1 - trust) * prior)


def errors_of(points: np.ndarray, truth: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Mean absolute error of each model over the unit of the series, ``(M,)``; NaN where nothing is known.

    Breaks that no model comes near do not count: one value of 1e15 would leave no digits of all others.
    """
    scaled = np.abs(points - truth) / unit[:, None]
    known = _known(scaled)
    return scaled[:, known].mean(1) if known.any() else np.full(len(points), np.nan)


def combined(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean over the first axis of those that are finite; NaN where none is."""
    weights = weights.reshape(-1, *(1,) * (points.ndim - 1)) * np.isfinite(points)
    with np.errstate(invalid="ignore"):
        return (np.where(weights > 0, points, 0.0) * weights).sum(0) / weights.sum(0)


def _known(errors: np.ndarray) -> np.ndarray:
    """Which values ``(N, horizon)`` tell models apart, by the errors ``(M, N, horizon)``."""
    return ~np.isnan(errors).any(0) & (np.abs(errors).min(0) < _BREAK)


def _prior(points: np.ndarray, truth: np.ndarray, unit: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """The prior, less for models of larger errors."""
    error = errors_of(points, truth, unit)
    quality = np.where(np.isnan(error), 1.0, (np.nanmin(error, initial=np.inf) + 1e-9) / (error + 1e-9))
    return prior * quality**2 / (prior * quality**2).sum()


def _pruned(weights: np.ndarray) -> np.ndarray:
    kept = np.where(weights < _LEAST, 0.0, weights)
    return kept / kept.sum()
