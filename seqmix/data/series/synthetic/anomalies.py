"""Generated series with labeled anomalies of six kinds, after training rows without any."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from seqmix.data.series.synthetic._rows import autoregress, log_uniform, standardize
from seqmix.data.series.synthetic.composed import irregular, profile


class Anomalous(NamedTuple):
    """A series with its labels: ``values (T, C)`` and ``labels (T,)``, 1 for an anomalous row."""

    values: np.ndarray
    labels: np.ndarray


class _Kind(NamedTuple):
    """Length of anomalies of a kind, in rows, and the function that changes a normal segment ``(length, C)``."""

    shortest: int
    longest: int
    make: Callable[[np.ndarray, int, int, np.random.Generator], np.ndarray]


def _spike(y: np.ndarray, start: int, length: int, rng: np.random.Generator) -> np.ndarray:
    return y[start : start + length] + _sign(rng) * rng.uniform(3, 6)


def _level(y: np.ndarray, start: int, length: int, rng: np.random.Generator) -> np.ndarray:
    return y[start : start + length] + _sign(rng) * rng.uniform(1, 2.5)


def _trend(y: np.ndarray, start: int, length: int, rng: np.random.Generator) -> np.ndarray:
    return y[start : start + length] + _sign(rng) * rng.uniform(2, 4) * np.linspace(0, 1, length)[:, None]


def _frequency(y: np.ndarray, start: int, length: int, rng: np.random.Generator) -> np.ndarray:
    # the series itself, read slower or faster
    rate = rng.choice([rng.uniform(0.4, 0.7), rng.uniform(1.5, 2.5)])
    at = np.minimum(start + rate * np.arange(length), len(y) - 1)
    return np.stack([np.interp(at, np.arange(len(y)), channel) for channel in y.T], 1)


def _noise(y: np.ndarray, start: int, length: int, rng: np.random.Generator) -> np.ndarray:
    return y[start : start + length] + rng.uniform(0.5, 1.2) * rng.standard_normal((length, y.shape[1]))


def _flat(y: np.ndarray, start: int, length: int, rng: np.random.Generator) -> np.ndarray:
    return np.repeat(y[start : start + 1], length, 0)


def _sign(rng: np.random.Generator) -> int:
    return int(rng.choice([-1, 1]))


#: kinds of anomalies by name
KINDS = {
    "spike": _Kind(1, 3, _spike),
    "level": _Kind(20, 150, _level),
    "trend": _Kind(50, 200, _trend),
    "frequency": _Kind(50, 200, _frequency),
    "noise": _Kind(20, 150, _noise),
    "flat": _Kind(30, 150, _flat),
}


def normal(length: int, n_channels: int, *, rng: np.random.Generator) -> np.ndarray:
    """A normal series ``(length, C)``: channels of deviation 1 with one period in common, a slow drift, and
    noise that is white, autoregressive or heavy-tailed."""
    C = n_channels
    period = float(rng.choice([24, 32, 48, 64, 96]))
    season = standardize(profile(C, length, period=np.full(C, period), rng=rng))
    noise = irregular(C, length, rng=rng)
    drift = standardize(autoregress(rng.standard_normal((C, length)), 1 - 1 / length))
    y = season + log_uniform(rng, 0.05, 0.3, (C, 1)) * noise + log_uniform(rng, 0.03, 0.3, (C, 1)) * drift
    return standardize(y).T


def anomalous(
    kind: str, length: int, n_channels: int, *, n_train: int, n_anomalies: int, rng: np.random.Generator
) -> Anomalous:
    """A normal series in which anomalies of one kind replace segments after the first ``n_train`` rows.

    The rows after ``n_train`` are divided into ``n_anomalies`` equal parts, and each has one anomaly somewhere in its
    middle half. It is in one channel at least, and in each of the others with probability a half.

    Args:
        kind: one of ``KINDS``.
        length: rows of the series.
        n_channels: number of channels C.
        n_train: rows without anomalies at the start.
        n_anomalies: number of anomalies.
        rng: generator of random numbers.
    """
    y, labels = normal(length, n_channels, rng=rng), np.zeros(length, np.int64)
    clean, part = y.copy(), (length - n_train) // n_anomalies
    of = KINDS[kind]
    for i in range(n_anomalies):
        size = int(rng.integers(of.shortest, min(of.longest, part // 2) + 1))
        start = n_train + i * part + int(rng.integers(part // 4, 3 * part // 4 - size + 1))
        hit = rng.random(n_channels) < 0.5
        hit[rng.integers(n_channels)] = True
        y[start : start + size, hit] = of.make(clean[:, hit], start, size, rng)
        labels[start : start + size] = 1
    return Anomalous(y, labels)
