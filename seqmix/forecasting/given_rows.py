"""Covariates in frames of their own: the rows of the horizon, and one row for each series, checked and in order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from seqmix.errors import DataError
from seqmix.forecasting.clock import Clock, is_number, shown
from seqmix.forecasting.frame import Reading, stamped
from seqmix.forecasting.kind import with_index
from seqmix.forecasting.long import Long, named
from seqmix.forecasting.times import parse_times
from seqmix.forecasting.warning import warn
from seqmix.mapped import series_blocks


def future_rows(
    how: Reading,
    clock: Clock,
    ids: pd.Index,
    last: np.ndarray,
    horizon: int,
    steps: int,
    future_df: pd.DataFrame | None,
) -> pd.DataFrame:
    """The known-future columns of the horizon, one row for each of the ``ids`` and ``steps``, of which ``future_df``
    must have ``horizon``.

    Raises:
        DataError: if a column, a row or a value is missing.
    """
    names = list(how.future)
    if future_df is None:
        raise DataError(
            f"the models need the known-future columns {named(names)} for the horizon; pass future_df=..., one row for "
            "each row of make_future_dataframe()"
        )
    expected: Any = stamped(how, clock, ids, last, steps)
    absent = [name for name in names if name not in future_df]
    if absent:
        raise DataError(f"future_df has no column {absent[0]!r}; columns are {[str(c) for c in future_df]}")
    given: Any = _keyed(future_df, expected, how)[[*expected, *names]].drop_duplicates()
    _check_single(given, [*expected], "future_df")
    at = pd.MultiIndex.from_frame(given[[*expected]]).get_indexer(pd.MultiIndex.from_frame(expected))
    lacking = at < 0
    rows = given[names].iloc[np.where(lacking, 0, at)].reset_index(drop=True)
    lacking |= rows.isna().any(axis=1).to_numpy()
    needed = np.tile(np.arange(steps) < horizon, len(ids))
    if (lacking & needed).any():
        some = expected[lacking & needed]
        first = ", ".join(f"({i!r}, {shown(t)})" for i, t in some.head(3).itertuples(index=False))
        raise DataError(
            f"future_df lacks {len(some)} of {int(needed.sum())} rows of the horizon, first: {first}; "
            "get_missing_future(future_df) lists them"
        )
    if lacking.any():
        warn(
            f"the models see {steps} steps of known-future columns, and future_df has not all of them: the last row "
            f"stands for those after step {horizon}"
        )
    return rows.iloc[np.maximum.accumulate(np.where(lacking, 0, np.arange(len(rows))))].reset_index(drop=True)


def missing_rows(expected: pd.DataFrame, future_df: pd.DataFrame, how: Reading) -> pd.DataFrame:
    """Ids and times of ``expected`` that ``future_df`` has no row for."""
    known = pd.MultiIndex.from_frame(expected)
    given = pd.MultiIndex.from_frame(_keyed(future_df, expected, how).reindex(columns=[*expected]))
    return pd.DataFrame(expected[~known.isin(given)].reset_index(drop=True))


def static_rows(long: Long, names: Sequence[str], static_df: pd.DataFrame | None, id_col: str) -> pd.DataFrame | None:
    """The static columns, one row for each series in its order, from a frame of their own or from the long one.

    Raises:
        DataError: if a column or an id is missing, or a column changes within a series.
    """
    if not names:
        return None
    absent = [name for name in names if name not in long.columns]
    if static_df is None and absent:
        raise DataError(
            f"static column {absent[0]!r} not found in df; add it, or pass static_df=... with a row for each id"
        )
    if static_df is None:
        blocks = [_by_series(long, list(names), a, b) for a, b in series_blocks(long.indptr)]
        changing: Any = pd.concat([each for each, _ in blocks])
        if changing.to_numpy().any():
            name = str(changing.any().idxmax())
            raise DataError(
                f"static column {name!r} changes within {int(changing[name].sum())} series, first: "
                f"{long.ids[int(changing[name].idxmax())]!r}; make it a past or future covariate"
            )
        return pd.concat([each for _, each in blocks])
    static_df = with_index(static_df, [id_col])
    absent = [name for name in (id_col, *names) if name not in static_df]
    if absent:
        raise DataError(f"column {absent[0]!r} not found in static_df; columns are {[str(c) for c in static_df]}")
    found = static_df.reindex(columns=[id_col, *names]).drop_duplicates()
    _check_single(found, [id_col], "static_df")
    found = found.set_index(id_col)
    unknown = long.ids[~long.ids.isin(found.index)]
    if len(unknown):
        raise DataError(f"static_df has no row for {len(unknown)} series: {named(list(unknown))}; add one for each")
    return found.loc[long.ids].reset_index(drop=True)


def _by_series(long: Long, names: list[str], a: int, b: int) -> tuple[Any, Any]:
    """Whether the columns change within each of the series ``a`` to ``b``, and their first values."""
    rows: Any = long.columns[names].iloc[long.indptr[a] : long.indptr[b]]
    groups = rows.groupby(np.repeat(np.arange(a, b), np.diff(long.indptr[a : b + 1])))
    return groups.nunique() > 1, groups.first()


def _keyed(future_df: pd.DataFrame, expected: pd.DataFrame, how: Reading) -> pd.DataFrame:
    """``future_df`` with ids and times of the types of ``expected``."""
    given = with_index(future_df, [how.id_col, how.time_col])
    if how.id_col not in given and expected[how.id_col].nunique() == 1:
        given = given.assign(**{how.id_col: expected[how.id_col].iloc[0]})
    absent = [name for name in expected if name not in given]
    if absent:
        raise DataError(f"future_df has no column {absent[0]!r}; columns are {[str(c) for c in given]}")
    ids, wanted = given[how.id_col], expected[how.id_col]
    if pd.api.types.is_numeric_dtype(ids.dtype) != pd.api.types.is_numeric_dtype(wanted.dtype):
        raise DataError(
            f"column {how.id_col!r} of future_df holds {ids.dtype}, that of df {wanted.dtype}; make them one type"
        )
    times, dtype = parse_times(given[how.time_col], how.time_col), expected[how.time_col].dtype
    if is_number(times.dtype) != is_number(dtype):
        raise DataError(
            f"column {how.time_col!r} of future_df holds {times.dtype}, that of df {dtype}; make them one type"
        )
    if not is_number(dtype):
        zones = [
            str(pd.DatetimeIndex(column).tz or "no") for column in (times, parse_times(expected[how.time_col], ""))
        ]
        if zones[0] != zones[1] and "no" in zones:
            raise DataError(
                f"times of future_df have {zones[0]} time zone, those of df {zones[1]}; use "
                f"future_df[{how.time_col!r}].dt.tz_localize({'None' if zones[1] == 'no' else repr(zones[1])})"
            )
    return given.assign(**{how.time_col: pd.Index(times).astype(dtype)})


def _check_single(frame: pd.DataFrame, keys: list[str], name: str) -> None:
    """Refuse rows of the same key that say different things."""
    twice = frame.duplicated(keys)
    if twice.any():
        first = ", ".join(str(value) for value in frame.loc[twice, keys].iloc[0])
        raise DataError(
            f"{name} has {int(twice.sum())} rows that contradict another, first: {first}; keep one for each"
        )
