"""Seasonal ARIMA processes by sampled poles, and two of them combined (SarSim0)."""

import numpy as np
from numpy.typing import ArrayLike

from seqmix.data.series.synthetic._rows import standardize

BURN_IN = 200
# radius and angle of conjugate pairs (n, pairs), and a real pole (n,); 0 where there is none
Poles = tuple[np.ndarray, np.ndarray, np.ndarray]


def sarima(
    n: int,
    length: int,
    *,
    period: ArrayLike = 0,
    orders: tuple[int, int] = (10, 3),
    seasonal_orders: tuple[int, int] = (2, 2),
    r_max: float = 0.9,
    seasonal_r_max: float = 0.1,
    d: tuple[float, float] = (0, 1),
    integrated: float = 0.5,
    seasonally_integrated: float = 0.85,
    rng: np.random.Generator,
) -> np.ndarray:
    """Seasonal ARIMA(p, d, q)(P, D, Q) series with a fractional d, each with coefficients of its own.

    With the delay ``z`` and normal or, in 30 % of the series, heavy-tailed ``e``::

        A(z) A_s(z^s) (1 - z)^d (1 - z^s)^D y = B(z) B_s(z^s) e
        A(z) = product of (1 - r exp(i th) z),    r = r_max sqrt(u),  th in conjugate pairs

    with orders uniform from 0 to their maximum, u and th uniform, so that poles are uniform in the disk of radius
    ``r_max``. The first 200 values are dropped.

    Args:
        n: number of series.
        length: their length.
        period: season s of each series ``(n,)``, or of all; 0 for none.
        orders: largest p and q.
        seasonal_orders: largest P and Q.
        r_max: largest absolute value of poles and zeros.
        seasonal_r_max: that of the seasonal ones, as poles of z^s.
        d: range of the fractional orders.
        integrated: share with a fractional d; the others have d = 0, or d = 1 in half of those without D.
        seasonally_integrated: share of the seasonal ones with D = 1.
        rng: generator of random numbers.

    Returns:
        Series ``(n, length)``.

    Source: SarSim0; fractional integration after Hosking, 1981. Differs from it in: heavy tails, d = 0 and d = 1.
    """
    period = np.broadcast_to(np.asarray(period, int), n)
    seasonal = period > 1
    whole = seasonal & (rng.random(n) < seasonally_integrated)
    fractional = rng.random(n) < integrated
    y = filtered(
        _innovations(n, BURN_IN + length, rng),
        roots=poles(n, orders[0], r_max, rng),
        zeros=poles(n, orders[1], r_max, rng),
        seasonal_roots=poles(n, seasonal_orders[0], seasonal_r_max, rng),
        seasonal_zeros=poles(n, seasonal_orders[1], seasonal_r_max, rng),
        period=period,
        d=np.where(fractional, rng.uniform(*d, n), ~whole & (rng.random(n) < 0.5)),
    )
    for s in np.unique(period[whole]):
        rows = whole & (period == s)
        y[rows] = sum_of_seasons(y[rows], s)
    return y[:, BURN_IN:]


def sarima_pair(n: int, length: int, *, periods: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two SARIMA processes, added or multiplied as ``(1 + w y_e) y_b`` (SARIMA-2 of SarSim0).

    The second one, scaled to [-1, 1] where it multiplies, has the second period; w is uniform in (0, 1). Half of the
    series are added, with a log-normal weight of the second process.

    Shapes: ``periods (n, 2)`` to ``(n, length)``.
    """
    base = standardize(sarima(n, length, period=periods[:, 0], rng=rng))
    other = standardize(sarima(n, length, period=periods[:, 1], rng=rng))
    envelope = other / np.abs(other).max(1, keepdims=True).clip(1e-9)
    positive = base - base.min(1, keepdims=True) * (rng.random((n, 1)) < 0.7)
    product = (1 + rng.random((n, 1)) * envelope) * positive
    return np.where(rng.random((n, 1)) < 0.5, product, base + rng.lognormal(-0.5, 0.8, (n, 1)) * other)


def poles(n: int, most: int, r_max: float, rng: np.random.Generator) -> Poles:
    """Poles of n polynomials with real coefficients, of an order uniform from 0 to ``most``."""
    order = rng.integers(0, most + 1, n)
    pairs = np.arange(most // 2) < (order // 2)[:, None]
    radius = r_max * np.sqrt(rng.random(pairs.shape)) * pairs
    angle = np.pi * rng.random(pairs.shape)
    return radius, angle, r_max * rng.uniform(-1, 1, n) * (order % 2)


def filtered(
    e: np.ndarray,
    *,
    roots: Poles,
    zeros: Poles,
    seasonal_roots: Poles,
    seasonal_zeros: Poles,
    period: np.ndarray,
    d: np.ndarray,
) -> np.ndarray:
    """Output ``B(z) B_s(z^s) / (A(z) A_s(z^s) (1 - z)^d) e`` of rows that start from 0; the season only where s > 1."""
    length = e.shape[1]
    # filters are products of spectra; twice the length or more keeps the end of a series out of its beginning
    size = 1 << (2 * length - 1).bit_length()
    z = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    z_s = z ** np.maximum(period, 1)[:, None]  # (n, size / 2 + 1)
    seasonal = _polynomial(z_s, seasonal_zeros) / _polynomial(z_s, seasonal_roots)
    response = _polynomial(z, zeros) / _polynomial(z, roots) * np.where((period > 1)[:, None], seasonal, 1)
    response *= np.fft.rfft(hosking_weights(d, length), size)
    return np.fft.irfft(np.fft.rfft(e, size) * response, size)[:, :length]


def hosking_weights(d: np.ndarray, length: int) -> np.ndarray:
    """Impulse response of ``(1 - z)^-d``: ``w[k] = w[k-1] (k - 1 + d) / k`` from ``w[0] = 1``, ``(n, length)``."""
    k = np.arange(1, length)
    return np.concatenate([np.ones((len(d), 1)), np.cumprod((k - 1 + d[:, None]) / k, axis=1)], axis=1)


def sum_of_seasons(y: np.ndarray, s: int) -> np.ndarray:
    """Recursion ``y[t] += y[t - s]``."""
    n, length = y.shape
    padded = np.pad(y, ((0, 0), (0, -length % s))).reshape(n, -1, s)
    return padded.cumsum(1).reshape(n, -1)[:, :length]


def _polynomial(z: np.ndarray, poles: Poles) -> np.ndarray:
    """Product of ``1 - pole * z`` over all poles, for every row."""
    radius, angle, real = poles
    product = 1 - real[:, None] * z
    for r, th in zip(radius.T, angle.T, strict=True):
        product = product * (1 - (2 * r * np.cos(th))[:, None] * z + np.square(r)[:, None] * np.square(z))
    return product


def _innovations(n: int, length: int, rng: np.random.Generator) -> np.ndarray:
    e = rng.standard_normal((n, length))
    heavy = rng.random(n) < 0.3
    e[heavy] = rng.standard_t(rng.uniform(3, 8, (heavy.sum(), 1)), (heavy.sum(), length))
    return e
