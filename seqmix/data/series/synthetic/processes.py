"""Processes without a season of the calendar: steps, sawtooth, regimes, walks, shot noise."""

import numpy as np

from seqmix.data.series.synthetic._rows import autoregress, log_uniform, standardize


def steps(n: int, length: int, *, rng: np.random.Generator) -> np.ndarray:
    """Levels that hold until the next of 1 to 20 jumps, with a little noise in half of the series."""
    jumps = rng.standard_normal((n, length)) * (rng.random((n, length)) < log_uniform(rng, 1, 20, (n, 1)) / length)
    jumps[:, 0] = rng.standard_normal(n)
    level = np.where(rng.random((n, 1)) < 0.5, jumps.cumsum(1), _held(jumps))
    return level + 0.3 * rng.random((n, 1)) * (rng.random((n, 1)) < 0.5) * rng.standard_normal((n, length))


def sawtooth(n: int, length: int, *, period: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ramps that fall back, or triangles, of a period ``(n,)``; of a random one, 4 to 200 steps, where it is 0."""
    period = np.where(period > 1, period, np.round(log_uniform(rng, 4, 200, n)))[:, None]
    phase = (np.arange(length) + rng.integers(0, 1000, (n, 1))) % period / period
    peak = np.where(rng.random((n, 1)) < 0.5, 1.0, rng.uniform(0.1, 0.9, (n, 1)))
    wave = np.where(phase < peak, phase / peak, (1 - phase) / np.maximum(1 - peak, 1e-9))
    return wave + 0.2 * rng.random((n, 1)) * rng.standard_normal((n, length))


def regimes(n: int, length: int, *, rng: np.random.Generator) -> np.ndarray:
    """Ornstein-Uhlenbeck processes that switch between two regimes at random times.

    ``x[t] = x[t-1] + theta (mu - x[t-1]) + sigma e[t]``, with theta, mu and sigma of the regime; a regime lasts 20 to
    300 steps on average.
    """
    theta, mu = log_uniform(rng, 0.01, 0.5, (2, n)), rng.normal(0, 2, (2, n))
    sigma, leave = log_uniform(rng, 0.05, 0.7, (2, n)), 1 / log_uniform(rng, 20, 300, (n, 1))
    regime = ((rng.random((n, length)) < leave).cumsum(1) + rng.integers(0, 2, (n, 1))) % 2
    rows = np.arange(n)
    e, x, y = rng.standard_normal((n, length)), mu[regime[:, 0], rows], np.empty((n, length))
    for t, r in enumerate(regime.T):
        x = x + theta[r, rows] * (mu[r, rows] - x) + sigma[r, rows] * e[:, t]
        y[:, t] = x
    return y


def walks(n: int, length: int, *, rng: np.random.Generator) -> np.ndarray:
    """Random walks with drift and stochastic volatility, half of them exponential, as prices are."""
    volatility = np.exp(rng.uniform(0, 0.8, (n, 1)) * standardize(autoregress(rng.standard_normal((n, length)), 0.97)))
    heavy = rng.random((n, 1)) < 0.5
    e = np.where(heavy, rng.standard_t(4, (n, length)), rng.standard_normal((n, length)))
    walk = (volatility * e + rng.normal(0, 0.05, (n, 1))).cumsum(1)
    return np.where(rng.random((n, 1)) < 0.5, np.exp(log_uniform(rng, 0.02, 0.6, (n, 1)) * standardize(walk)), walk)


def shots(n: int, length: int, *, period: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shot noise, as river flow: rare log-normal impulses that decay, more of them in one part of the period.

    Shapes: ``period (n,)``, 0 for none, to ``(n, length)``.
    """
    angle = 2 * np.pi * np.arange(length) / np.maximum(period, 1)[:, None] + rng.uniform(0, 2 * np.pi, (n, 1))
    season = np.exp(rng.uniform(0, 2, (n, 1)) * np.cos(angle) * (period > 1)[:, None])
    struck = rng.random((n, length)) < log_uniform(rng, 0.01, 0.3, (n, 1)) * season
    size = struck * rng.lognormal(0, rng.uniform(0.3, 1.5, (n, 1)), (n, length))
    # the second recursion rounds the rise
    flow = autoregress(autoregress(size, 1 - log_uniform(rng, 0.02, 0.5, (n, 1))), rng.uniform(0, 0.7, (n, 1)))
    return flow * np.exp(log_uniform(rng, 0.005, 0.2, (n, 1)) * rng.standard_normal((n, length)))


def flat(n: int, length: int, *, rng: np.random.Generator) -> np.ndarray:
    """Constant series, and nearly constant ones: a constant with one to five other values."""
    odd = rng.random((n, length)) < rng.integers(0, 6, (n, 1)) * (rng.random((n, 1)) < 0.7) / length
    return np.where(odd, rng.standard_normal((n, length)), 0.0) + rng.standard_normal((n, 1))


def _held(values: np.ndarray) -> np.ndarray:
    """Each value until the next one that is not 0."""
    last = np.maximum.accumulate(np.where(values != 0, np.arange(values.shape[1]), 0), axis=1)
    return np.take_along_axis(values, last, 1)
