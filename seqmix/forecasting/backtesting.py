"""Cross-validation: the end of each series forecast as if it were not known yet."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.fitted import Fitted
from seqmix.forecasting.long import Long, head, named


def cross_validate(
    learn: Callable[[Long], Fitted],
    long: Long,
    static: pd.DataFrame | None,
    levels: Sequence[float],
    quantiles: Sequence[float],
    horizon: int,
    step: int,
    n_windows: int,
    refit: int,
) -> pd.DataFrame:
    """Forecasts of the end of each series by what ``learn`` makes of the rows before; series by series.

    ``n_windows`` cutoffs are ``step`` rows apart; it learns at the first, and with ``refit`` at every so many.
    """
    before = horizon + step * (n_windows - 1)  # rows after the first cutoff
    every = refit or n_windows
    parts = []
    for first in range(0, n_windows, every):
        rows = before - step * np.arange(first, min(first + every, n_windows))  # after each cutoff
        fitted = learn(head(long, np.diff(long.indptr) - rows[0]))
        parts.append(fitted.backtest(long, static, rows, levels, quantiles))
    frame = pd.concat(parts, ignore_index=True)
    if len(parts) == 1:
        return frame
    order = np.argsort(long.ids.get_indexer(pd.Index(frame[fitted.reading.id_col])), kind="stable")
    return frame.iloc[order].reset_index(drop=True)


def test_windows(
    long: Long, horizon: int, n_windows: int, step_size: int | None, test_size: int | None
) -> tuple[int, int]:
    """Steps between two cutoffs of a test, and the number of cutoffs.

    Raises:
        ConfigError: if the sizes do not fit together.
        DataError: if a series is too short for them.
    """
    step = horizon if step_size is None else step_size
    if step < 1 or n_windows < 1:
        raise ConfigError(f"n_windows and step_size must be >= 1, got {n_windows} and {step}")
    if test_size is not None:
        if test_size < horizon or (test_size - horizon) % step:
            raise ConfigError(f"test_size = {test_size} should be horizon + k * step_size = {horizon} + k * {step}")
        n_windows = (test_size - horizon) // step + 1
    need = horizon + step * (n_windows - 1)
    lengths = np.diff(long.indptr)
    few = np.flatnonzero(lengths <= need + horizon)
    if len(few):
        raise DataError(
            f"{len(few)} of {len(long.ids)} series are too short for a test of {need} rows: "
            f"{named([f'{long.ids[i]} ({lengths[i]})' for i in few])}; use fewer windows, or leave them out"
        )
    return step, n_windows
