"""Cross-validation over time (backtesting)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.long import Long, head, named, picked
from seqmix.forecasting.options import whole
from seqmix.forecasting.scales import Tested, measure
from seqmix.forecasting.warning import warn


def cross_validate(
    learn: Callable[[Long], Any],
    long: Long,
    static: pd.DataFrame | None,
    levels: Sequence[float],
    quantiles: Sequence[float],
    horizon: int,
    step: int,
    n_windows: int,
    refit: int,
) -> tuple[pd.DataFrame, Tested]:
    """Backtest the models that ``learn`` fits: forecasts, and the scales of their errors.

    ``n_windows`` cutoffs are ``step`` rows apart; it learns at the first, and with ``refit`` at every so many.
    """
    before = horizon + step * (n_windows - 1)  # rows after the first cutoff
    every = refit or n_windows
    parts, tested = [], None
    for first in range(0, n_windows, every):
        rows = before - step * np.arange(first, min(first + every, n_windows))  # after each cutoff
        seen = head(long, np.diff(long.indptr) - rows[0])
        fitted = learn(seen)
        if tested is None:
            scales = measure(seen, seen.y[:, None], seen.indptr, np.diff(seen.indptr), fitted.plan.season)
            tested = Tested(fitted.reading, fitted.clock, scales)
        parts.append(fitted.backtest(long, static, rows, levels, quantiles))
    frame = pd.concat(parts, ignore_index=True)
    assert tested is not None
    order = np.argsort(long.ids.get_indexer(pd.Index(frame[tested.reading.id_col])), kind="stable")
    return frame.iloc[order].reset_index(drop=True), tested


def test_windows(
    long: Long, least: int, horizon: int, n_windows: int, step_size: int | None, test_size: int | None
) -> tuple[Long, int, int]:
    """The series that are long enough for a test, steps between two of its cutoffs, and the number of cutoffs.

    Args:
        long: the frame.
        least: rows that a series needs before the first cutoff.
        horizon: steps of each forecast.
        n_windows: cutoffs.
        step_size: steps between two of them. Default: the horizon.
        test_size: last steps that are forecast; replaces ``n_windows``.

    Raises:
        ConfigError: if the sizes do not fit together.
        DataError: if no series is long enough.
    """
    n_windows, step = whole("n_windows", n_windows, 1, False), whole("step_size", step_size, 1, True) or horizon
    size = whole("test_size", test_size, 1, True)
    if size is not None:
        fits = size - (size - horizon) % step
        if size < horizon or fits != size:
            raise ConfigError(
                f"test_size = {size} is not horizon = {horizon} and whole steps of {step}; use {max(fits, horizon)}"
            )
        n_windows = (size - horizon) // step + 1
    need = horizon + step * (n_windows - 1)
    lengths = np.diff(long.indptr)
    few = np.flatnonzero(lengths < need + least)
    shown = named([f"{long.ids[i]} ({lengths[i]})" for i in few])
    if len(few) == len(lengths):
        raise DataError(
            f"{len(few)} of {len(lengths)} series are too short for a test of {need} rows: {shown}; use fewer windows, "
            "or leave them out"
        )
    if len(few):
        warn(f"{len(few)} of {len(lengths)} series are too short for a test of {need} rows and are left out: {shown}")
        long = picked(long, np.flatnonzero(lengths >= need + least))
    return long, step, n_windows
