"""Exponential smoothing: series of the low-frequency kind, with level, damped trend and evolving season."""

import numpy as np
from numpy.typing import ArrayLike

from seqmix.data.series.synthetic._rows import log_uniform, standardize


def ets(n: int, length: int, *, period: ArrayLike = 0, rng: np.random.Generator) -> np.ndarray:
    """Draws of ETS models as in the M competitions, additive or exponential, each with parameters of its own.

    Smoothing, damping, drift, noise and season are drawn for each series. A quarter are ``exp(c y)`` of the
    standardized series, which makes trend, season and noise multiplicative.

    Args:
        n: number of series.
        length: their length.
        period: season of each series ``(n,)``, or of all; 0 or 1 for none.
        rng: generator of random numbers.

    Returns:
        Series ``(n, length)``.

    Source: the innovations form of Hyndman et al., 2008, "Forecasting with exponential smoothing".
    """
    period = np.maximum(np.broadcast_to(np.asarray(period, int), n), 1)
    # smoothing of real series is near 0 or near 1 more often than between
    alpha = np.where(rng.random(n) < 0.25, 1.0, rng.beta(0.9, 0.7, n))
    beta = alpha * rng.beta(1, 4, n) * (rng.random(n) < 0.75)
    gamma = (1 - alpha) * rng.beta(1, 5, n) * (period > 1)
    phi = np.where(rng.random(n) < 0.5, rng.uniform(0.8, 1, n), 1.0)
    deviation = np.exp(rng.normal(-1, 0.8, n))
    # trends in deviations of the noise: a step of a year has 12 times the drift and sqrt(12) times the noise of a month
    growth = deviation * np.sqrt(12 / np.minimum(period, 12))
    drift = growth * rng.standard_normal(n) * np.exp(rng.normal(-2.5, 1.2, n))
    slope = growth * rng.standard_normal(n) * np.exp(rng.normal(-1.2, 1, n)) * (phi < 1)
    heavy = rng.random((n, 1)) < 0.4
    freedom = log_uniform(rng, 2.5, 8, (n, 1))
    student = rng.standard_t(freedom, (n, length)) / np.sqrt(freedom / (freedom - 2))
    noise = np.where(heavy, student, rng.standard_normal((n, length)))
    y = smooth(
        0.4 * deviation[:, None] * noise,
        _first_season(period, 1.5 * deviation, rng),
        period,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        phi=phi,
        slope=slope,
        drift=drift,
    )
    exponential = np.exp(log_uniform(rng, 0.1, 1.2, (n, 1)) * standardize(y))
    return np.where(rng.random((n, 1)) < 0.25, exponential, y)


def smooth(
    e: np.ndarray,
    season: np.ndarray,
    period: np.ndarray,
    *,
    alpha: np.ndarray,
    beta: np.ndarray,
    gamma: np.ndarray,
    phi: np.ndarray,
    slope: np.ndarray,
    drift: np.ndarray,
) -> np.ndarray:
    """Run the recursion of ETS(A, Ad, A) on innovations ``e``, from level 0::

        y = l + phi b + s + e
        l = l + phi b + drift + alpha e,    b = phi b + beta e,    s = s + gamma e

    Shapes: ``e (n, length)``, ``season (n, longest period)``, the others ``(n,)``; returns ``(n, length)``.
    """
    season, level, rows, y = season.copy(), np.zeros(len(e)), np.arange(len(e)), np.empty_like(e)
    for t, shock in enumerate(e.T):
        phase = t % period
        s, slope = season[rows, phase], phi * slope
        y[:, t] = level + slope + s + shock
        level = level + slope + drift + alpha * shock
        slope = slope + beta * shock
        season[rows, phase] = s + gamma * shock
    return y


def _first_season(period: np.ndarray, deviation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Seasons of up to six harmonics of mean 0, ``(n, longest period)``; a quarter have none."""
    n, phase = len(period), np.arange(period.max())
    season = np.zeros((n, period.max()))
    for k in range(1, 7):
        amplitude = rng.standard_normal(n) / k ** rng.uniform(0.2, 1.5, n) * (k <= np.maximum(period // 2, 1))
        angle = 2 * np.pi * k * phase / period[:, None] + rng.uniform(0, 2 * np.pi, (n, 1))
        season += amplitude[:, None] * np.sin(angle)
    scale = deviation * np.exp(rng.normal(-0.6, 1.1, n)) * (rng.random(n) < 0.75) * (period > 1)
    within = phase < period[:, None]
    return scale[:, None] * (season - (season * within).sum(1, keepdims=True) / period[:, None])
