"""Trend, seasons and an irregular part, added or multiplied; and intermittent demand."""

from collections.abc import Callable

import numpy as np

from seqmix.data.series.synthetic._rows import autoregress, log_uniform, standardize

HARMONICS = 8


def composed(
    n: int,
    length: int,
    *,
    periods: np.ndarray,
    weights: tuple[float, float, float, float] = (1.0, 0.8, 0.5, 0.3),
    rng: np.random.Generator,
) -> np.ndarray:
    """Sum of a trend, a profile for each period and noise, each with a log-normal weight; 30 % are its exponential.

    Args:
        n: number of series.
        length: their length.
        periods: two periods of each series ``(n, 2)``, fractional ones too; 0 for none.
        weights: median deviations of the trend, the first profile, the second one, and the noise.
        rng: generator of random numbers.

    Returns:
        Series ``(n, length)``.

    Source: the prior of ForecastPFN (Dooley et al., 2023, arXiv:2311.01933), with more shapes of each part.
    """
    y = weights[0] * rng.lognormal(0, 1, (n, 1)) * trend(n, length, rng=rng)
    for period, weight in zip(periods.T, weights[1:3], strict=True):
        present = period > 1
        part = standardize(profile(n, length, period=period, rng=rng))
        # a third of the seasons grow or fade
        part *= 1 + (rng.random((n, 1)) < 0.3) * rng.uniform(-0.8, 1.5, (n, 1)) * np.linspace(0, 1, length)
        y += weight * present[:, None] * rng.lognormal(0, 1, (n, 1)) * part
    y += weights[3] * rng.lognormal(0, 1.2, (n, 1)) * irregular(n, length, rng=rng)
    exponential = np.exp(log_uniform(rng, 0.1, 1.2, (n, 1)) * standardize(y))
    return np.where(rng.random((n, 1)) < 0.3, exponential, y)


def trend(n: int, length: int, *, rng: np.random.Generator) -> np.ndarray:
    """Trends of deviation 1: linear, exponential, piecewise or local linear, logistic, random walks, or none.

    A quarter are random walks, half of them with heavy-tailed steps; the others are an eighth each.
    """
    t = np.linspace(0, 1, length)
    shape = rng.integers(0, 8, n)
    y = np.zeros((n, length))

    def draw(number: int, make: Callable[[int], np.ndarray]) -> None:
        rows = shape == number
        y[rows] = make(int(rows.sum()))

    draw(0, lambda k: rng.choice([-1, 1], (k, 1)) * t)
    draw(1, lambda k: rng.choice([-1, 1], (k, 1)) * np.exp(rng.normal(0, 1.5, (k, 1)) * t))
    draw(2, lambda k: _bends(k, length, log_uniform(rng, 2, 10, (k, 1)) / length, rng))
    draw(3, lambda k: _bends(k, length, np.ones((k, 1)), rng))
    draw(4, lambda k: 1 / (1 + np.exp(-log_uniform(rng, 5, 50, (k, 1)) * (t - rng.random((k, 1))))))
    draw(5, lambda k: rng.standard_normal((k, length)).cumsum(1))
    draw(6, lambda k: rng.standard_t(log_uniform(rng, 1.5, 4, (k, 1)), (k, length)).cumsum(1))
    return standardize(y)


def _bends(n: int, length: int, rate: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines whose slope changes at a rate of each ``(n, 1)``, always where it is 1."""
    shocks = rng.standard_normal((n, length))
    changes = shocks * (rng.random((n, length)) < rate)
    changes[:, 0] = shocks[:, 0]
    return changes.cumsum(1).cumsum(1)


def profile(n: int, length: int, *, period: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Periodic profiles: up to eight harmonics with amplitudes ``k^-g``, or values of each phase of its own.

    A quarter are values drawn for each phase (periods to 31), 25 % of the harmonic ones are clipped from below as
    sunlight is, 20 % are exponential, with narrow peaks.

    Shapes: ``period (n,)``, 0 where there is none, to ``(n, length)``.
    """
    safe = np.maximum(period, 1.0)[:, None]
    t = np.arange(length) + np.floor(rng.random((n, 1)) * safe)
    z = np.exp(2j * np.pi * t / safe)
    count = np.minimum(rng.integers(1, HARMONICS + 1, (n, 1)), np.maximum(safe // 2, 1))
    k = np.arange(1, HARMONICS + 1)
    weights = rng.standard_normal((n, HARMONICS)) / k ** rng.uniform(0.3, 1.5, (n, 1)) * (k <= count)
    weights = weights * np.exp(2j * np.pi * rng.random((n, HARMONICS)))
    y = np.zeros((n, length), complex)
    for weight in weights.T[::-1]:
        y = (y + weight[:, None]) * z
    y = standardize(np.real(y))
    rough = (rng.random(n) < 0.25) & (period <= 31)
    phase = (t[rough] % safe[rough]).astype(int)
    y[rough] = np.take_along_axis(rng.standard_normal((rough.sum(), 31)), phase, 1)
    shape = rng.random((n, 1))
    y = np.where(shape < 0.25, np.maximum(y, rng.uniform(-1, 0.5, (n, 1))), y)
    return np.where(shape > 0.8, np.exp(rng.uniform(0.3, 1.2, (n, 1)) * y), y)


def irregular(n: int, length: int, *, rng: np.random.Generator) -> np.ndarray:
    """Noise of deviation 1: white, AR(1) in 40 %, heavy-tailed in 35 %."""
    e = rng.standard_normal((n, length))
    heavy = rng.random(n) < 0.35
    e[heavy] = rng.standard_t(rng.uniform(2, 6, (heavy.sum(), 1)), (heavy.sum(), length))
    coefficient = rng.uniform(0.3, 0.95, (n, 1)) * (rng.random((n, 1)) < 0.4)
    return standardize(autoregress(e, coefficient))


def intermittent(n: int, length: int, *, period: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Demand that is zero most of the time: rare counts whose rate drifts and follows a season.

    Each step has demand with a probability of 2 to 60 %, times a slowly varying rate and the profile of the period;
    the size is one plus a negative binomial count.

    Shapes: ``period (n,)``, 0 for none, to ``(n, length)``.
    """
    chance = log_uniform(rng, 0.02, 0.6, (n, 1))
    season = standardize(profile(n, length, period=period, rng=rng)) * (period > 1)[:, None]
    drift = standardize(autoregress(rng.standard_normal((n, length)), 0.98))
    rate = chance * np.exp(rng.uniform(0, 0.8, (n, 1)) * season + rng.uniform(0, 0.6, (n, 1)) * drift)
    size = 1 + rng.poisson(rng.gamma(log_uniform(rng, 0.3, 5, (n, 1)), log_uniform(rng, 0.2, 10, (n, 1)), (n, length)))
    return size * (rng.random((n, length)) < rate)
