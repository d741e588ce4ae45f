"""Resampling to a coarser frequency, for example daily sales to weekly sums."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset

from seqmix.errors import ConfigError, DataError, check_choice
from seqmix.forecasting.clock import Clock, duration, infer_freq, is_number, other_alias
from seqmix.forecasting.kind import kind_of, to_pandas, with_index
from seqmix.forecasting.times import parse_times

#: what the values of a coarser step can be
AGGREGATES = ("sum", "mean", "median", "min", "max", "first", "last")


def resample(
    df: Any,
    freq: str,
    aggregate: str | Mapping[str, str] = "sum",
    *,
    id_col: str = "unique_id",
    time_col: str = "ds",
    target_col: str = "y",
) -> Any:
    """Resample a long frame to a coarser frequency.

    Steps that a series covers only in part, the first and the last, are left out. Missing values are ignored; a step
    without any value is missing.

    Args:
        df: long frame of dates; it is not modified.
        freq: the coarser frequency, an alias of pandas such as ``W`` or ``MS``.
        aggregate: aggregation of the values of a step, ``sum``, ``mean``, ``median``, ``min``, ``max``, ``first`` or
            ``last``: for the target column, or by the names of columns. Other numbers are averaged; of other columns
            the last value counts.
        id_col: column that names the series; a frame without it is one series.
        time_col: column of dates.
        target_col: column of the values.

    Raises:
        DataError: if the rows are not dates, or no series covers a whole step.
        ConfigError: if the frequency or the aggregate is unknown.
    """
    frame = with_index(to_pandas(df), (id_col, time_col))
    words = {target_col: aggregate} if isinstance(aggregate, str) else dict(aggregate)
    absent = [name for name in [time_col, *words] if name not in frame]
    if absent:
        raise DataError(f"column {absent[0]!r} not found; columns are {[str(c) for c in frame]}")
    for word in words.values():
        check_choice("aggregate", word, AGGREGATES)
    times = parse_times(frame[time_col], time_col)
    if is_number(times.dtype):
        raise DataError(f"column {time_col!r} holds integers, and only dates can be resampled; convert them first")
    codes, ids = pd.factorize(frame[id_col]) if id_col in frame else (np.zeros(len(frame), int), None)
    steps, whole = _steps(times, codes, freq, time_col)
    if not whole.any():
        raise DataError(f"no series covers a whole step of freq {freq!r}; give more rows, or a finer freq")
    values = frame.drop(columns=[time_col, *([] if ids is None else [id_col])])[whole]
    rows = values.groupby([codes[whole], steps[whole]])
    columns: dict[str, Any] = {}
    for name in values:
        plain = "mean" if pd.api.types.is_numeric_dtype(values[name].dtype) else "last"
        word = words.get(str(name), plain)
        # the sum of no value is missing, not 0
        columns[str(name)] = rows[name].sum(min_count=1) if word == "sum" else rows[name].agg(word)
    result = pd.DataFrame(columns)
    series, index = (result.index.get_level_values(level) for level in (0, 1))
    index = pd.DatetimeIndex(index)
    if isinstance(times.dtype, pd.DatetimeTZDtype):
        index = index.tz_localize(times.dtype.tz, ambiguous=True, nonexistent="shift_forward")
    result.insert(0, time_col, index.astype(times.dtype))
    if ids is not None:
        result.insert(0, id_col, ids.take(series.to_numpy()))
    return kind_of(df, id_col, time_col).give(result.reset_index(drop=True))


def _steps(times: pd.Series, codes: np.ndarray, freq: str, time_col: str) -> tuple[np.ndarray, np.ndarray]:
    """The coarser step of each row, and whether its series has rows from the beginning to the end of the step."""
    try:
        coarse = to_offset(freq)
    except ValueError as e:
        raise ConfigError(f"freq = {freq!r} is not known to pandas; {other_alias(freq)}") from e
    local = pd.DatetimeIndex(times)
    local = local.tz_localize(None) if local.tz is not None else local
    order = np.lexsort((local, codes))
    starts = np.flatnonzero(np.r_[True, np.diff(codes[order]) != 0])
    fine = infer_freq(pd.Series(local[order]), np.r_[starts, len(order)], time_col)
    spans = [Clock(f, np.dtype("datetime64[ns]")).span for f in (fine, freq)]
    if spans[1] < spans[0]:
        raise DataError(
            f"freq {freq!r} is finer than the rows, which are {duration(spans[0])} apart; give the freq of the rows or "
            "a coarser one"
        )
    # the range of possible rows, from before the first step to after the last
    margin = 2 * (spans[1] // spans[0] + 2)
    before = pd.date_range(end=local.min(), periods=margin, freq=fine)
    grid = pd.date_range(before[0], local.max() + 2 * coarse, freq=fine).union(local.unique()).sort_values()
    # steps of several days begin with the first row, weeks and months where the calendar says
    plain = isinstance(coarse, pd.offsets.Tick | pd.offsets.Day)
    first: Any = local.min()
    options: Any = {"rule": pd.Timedelta(spans[1]), "origin": first.normalize()} if plain else {"rule": freq}
    counts = pd.Series(0, grid).resample(**options).count()
    step = np.repeat(np.arange(len(counts)), counts)  # of each row of the grid
    edges = np.searchsorted(step, np.arange(len(counts) + 1))
    mine = step[grid.get_indexer(local)]
    begin, end = (pd.Series(local).groupby(codes).transform(word).to_numpy() for word in ("min", "max"))
    whole = (grid.to_numpy()[edges[mine]] >= begin) & (grid.to_numpy()[edges[mine + 1] - 1] <= end)
    return counts.index.to_numpy()[mine], whole
