"""Shared operations of the generators on many series at once; a row is a series."""

import numpy as np


def standardize(y: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Rows of mean 0 and deviation 1 over the values in ``where``; constant rows become 0. Default: all values."""
    seen = np.ones(y.shape, bool) if where is None else where
    count = np.maximum(seen.sum(1, keepdims=True), 1)
    centered = y - (y * seen).sum(1, keepdims=True) / count
    deviation = np.sqrt((np.square(centered) * seen).sum(1, keepdims=True) / count)
    constant = deviation <= 1e-9 * np.abs(y).max(1, keepdims=True)
    return np.where(constant, 0.0, centered / np.where(constant, 1.0, deviation))


def unit_range(y: np.ndarray) -> np.ndarray:
    """Rows moved and scaled to the range [0, 1]; constant rows become 0."""
    low, spread = y.min(1, keepdims=True), np.ptp(y, axis=1)[:, None]
    return np.where(spread > 0, (y - low) / np.where(spread > 0, spread, 1.0), 0.0)


def log_uniform(rng: np.random.Generator, low: float, high: float, size: int | tuple[int, ...]) -> np.ndarray:
    """Draws whose logarithms are uniform between those of ``low`` and ``high``."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def autoregress(e: np.ndarray, coefficient: np.ndarray | float) -> np.ndarray:
    """First-order recursion ``y[t] = coefficient * y[t - 1] + e[t]`` from ``y[-1] = 0``, a coefficient for each row.

    It is the product ``(1 + a z)(1 + a^2 z^2)(1 + a^4 z^4)...`` of the delay ``z``: log2 of the length many steps.

    Shapes: ``e (n, length)``, ``coefficient (n, 1)`` or a number.
    """
    y, shift = e.copy(), 1
    while shift < y.shape[1]:
        y[:, shift:] = y[:, shift:] + coefficient**shift * y[:, :-shift]
        shift *= 2
    return y


def spread(n: int, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Number of the ``n`` rows that each share receives: within one of ``n * share``, and that in expectation."""
    ends = np.floor(n * np.cumsum(shares) / np.sum(shares) + rng.random()).astype(int)
    ends[-1] = n
    return np.diff(np.minimum(ends, n), prepend=0)
