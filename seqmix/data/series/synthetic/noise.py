"""Corruptions of series: counting noise, spikes, level shifts, rounding, missing values."""

import numpy as np

from seqmix.data.series.synthetic._rows import log_uniform, unit_range


def noiser(y: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Observe each row as the rate of Poisson counts, gamma or log-normal values (noisers of SarSim0).

    The rate is ``lambda = lambda_0 (y - min) / (max - min)`` with ``lambda_0`` log-uniform in [0.1, 100]; a third of
    the rows each.
    """
    n = len(y)
    rate = log_uniform(rng, 0.1, 100, (n, 1)) * unit_range(y)
    shape = log_uniform(rng, 1, 50, (n, 1))
    width = rng.uniform(0.1, 0.8, (n, 1))
    kind = rng.integers(0, 3, (n, 1))
    lognormal = rate * np.exp(width * rng.standard_normal(y.shape) - np.square(width) / 2)
    return np.select([kind == 0, kind == 1], [rng.poisson(rate), rng.gamma(shape, rate / shape)], lognormal)


def spikes(y: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Add outliers to rows of deviation 1: 1 % of the values by normal amounts of deviation 4."""
    return y + (rng.random(y.shape) < 0.01) * rng.normal(0, 4, y.shape)


def level_shift(y: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Add a step of deviation 2 to rows of deviation 1, somewhere in the last three quarters."""
    length = y.shape[1]
    start = rng.integers(length // 4, length, (len(y), 1))
    return y + (np.arange(length) >= start) * rng.normal(0, 2, (len(y), 1))


def rounded(y: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Round rows of deviation 1 to 2 to 50 levels per deviation."""
    levels = log_uniform(rng, 2, 50, (len(y), 1))
    return np.round(y * levels) / levels


def missing(n: int, length: int, *, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mask of missing values ``(n, length)``: ``share`` of them, single ones in half of the rows, blocks in others.

    Blocks last 2 to 48 steps.
    """
    single = rng.random((n, length)) < share
    block = np.round(log_uniform(rng, 2, 48, (n, 1))).astype(int)
    # a step is missing if one of the last steps, as many as a block has, began one
    begins = rng.random((n, length)) < 1 - (1 - share) ** (1 / block)
    last = np.maximum.accumulate(np.where(begins, np.arange(length), -length), axis=1)
    return np.where(rng.random((n, 1)) < 0.5, single, np.arange(length) - last < block)
