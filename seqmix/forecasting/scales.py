"""Scales of errors: standard deviation and seasonal naive error of each series before a test."""

from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from seqmix.data.series.panel import moments, season_error
from seqmix.forecasting.clock import Clock
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.long import Long


class Scales(NamedTuple):
    """Scales from the rows of each series up to one of them; all arrays are ``(n,)``."""

    ids: pd.Index
    until: np.ndarray  # stamp of the last row
    deviation: np.ndarray  # standard deviation
    naive: np.ndarray  # mean absolute error of the seasonal naive forecast, for MASE
    naive_rms: np.ndarray  # its root mean squared error, for RMSSE


class Measured(Protocol):
    """Base of fits and tests, which have scales of errors."""

    @property
    def reading(self) -> Reading:
        """Reading options of its frame."""
        ...

    @property
    def clock(self) -> Clock:
        """Its time steps."""
        ...

    @property
    def scales(self) -> Scales:
        """Units of errors."""
        ...


class Tested(NamedTuple):
    """Scales of errors after a test."""

    reading: Reading
    clock: Clock
    scales: Scales


def measure(long: Long, values: np.ndarray, indptr: np.ndarray, n_rows: np.ndarray, season: int) -> Scales:
    """Scales of the first ``n_rows`` of each series.

    Args:
        long: the frame.
        values: its values, each series by itself or as a channel, ``(T, C)``.
        indptr: first row of each of them, then T.
        n_rows: how many rows count, for each of them.
        season: steps of the season.
    """
    shown = np.broadcast_to(n_rows, long.first.shape)
    return Scales(
        ids=long.ids,
        until=long.clock.after(long.first, np.maximum(shown - 1, 0)),
        deviation=moments(values, indptr, n_rows)[1].ravel(),
        naive=season_error(values, indptr, n_rows, season).ravel(),
        naive_rms=season_error(values, indptr, n_rows, season, squared=True).ravel(),
    )


def measure_before(long: Long, cutoffs: pd.Series, season: int) -> Scales:
    """Scales of the rows up to the stamp that ``cutoffs`` has for each id."""
    lengths = np.diff(long.indptr)
    at = np.arange(len(long.y)) - np.repeat(long.indptr[:-1], lengths)
    stamps = long.clock.after(np.repeat(long.first, lengths), at)
    last = cutoffs.reindex(long.ids).fillna(np.iinfo(np.int64).min).to_numpy(np.int64)
    n_rows = np.add.reduceat(stamps <= np.repeat(last, lengths), long.indptr[:-1], dtype=int)
    return measure(long, long.y[:, None], long.indptr, n_rows, season)
