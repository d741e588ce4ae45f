"""Known-future inputs of a horizon: from a frame of the user, and from the calendar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from seqmix.errors import DataError
from seqmix.forecasting.arrange import calendar_rows, merge_shared
from seqmix.forecasting.clock import shown
from seqmix.forecasting.covariates import encode
from seqmix.forecasting.frame import Reading, stamped
from seqmix.forecasting.long import named

if TYPE_CHECKING:
    from seqmix.forecasting.fitting import Fitted
    from seqmix.forecasting.forecaster import Forecaster


def ahead(
    fc: Forecaster, fitted: Fitted, ids: pd.Index, last: np.ndarray, horizon: int, future_df: pd.DataFrame | None
) -> np.ndarray | None:
    """Known-future inputs after the stamps ``last`` of the series ``ids``, ``(N, horizon, F)``; None without any.

    Raises:
        DataError: if a column, a row or a value of the horizon is not there.
    """
    parts = []
    if fc.future_covariates:
        rows = _looked_up(fc, fitted, ids, last, horizon, future_df)
        parts.append(encode(rows, fitted.codes["future"]))
    if fc.calendar:
        stamps = fitted.clock.after(last[:, None], np.arange(1, horizon + 1))
        parts.append(calendar_rows(fitted.clock, stamps.ravel()))
    if not parts:
        return None
    rows = np.concatenate(parts, 1)
    if fitted.joint:
        return merge_shared(rows, len(ids), fitted.facts["n_future"])[None]
    return rows.reshape(len(ids), horizon, -1)


def missing_rows(expected: pd.DataFrame, future_df: pd.DataFrame, how: Reading) -> pd.DataFrame:
    """Ids and times of ``expected`` that ``future_df`` has no row for."""
    keys = [how.id_col, how.time_col]
    known, given = (pd.MultiIndex.from_frame(pd.DataFrame(frame[keys])) for frame in (expected, future_df))
    return pd.DataFrame(expected[~known.isin(given)].reset_index(drop=True))


def _looked_up(
    fc: Forecaster, fitted: Fitted, ids: pd.Index, last: np.ndarray, horizon: int, future_df: pd.DataFrame | None
) -> pd.DataFrame:
    names = list(fc.future_covariates)
    if future_df is None:
        raise DataError(
            f"the models need the known-future columns {named(names)} for the horizon; pass future_df=..., one row for "
            "each row of make_future_dataframe()"
        )
    given: Any = future_df
    keys = [fitted.reading.id_col, fitted.reading.time_col]
    alone = keys[0] not in given and len(ids) == 1
    if alone:
        given = given.assign(**{keys[0]: ids[0]})
    absent = [name for name in (*keys, *names) if name not in given]
    if absent:
        raise DataError(f"future_df has no column {absent[0]!r}; columns are {[str(c) for c in given]}")
    expected: Any = stamped(fitted.reading, fitted.clock, ids, last, horizon)
    given = given.drop_duplicates(keys)
    times = given[keys[1]]
    if times.dtype != expected[keys[1]].dtype:
        given = given.assign(**{keys[1]: pd.to_datetime(times).astype(expected[keys[1]].dtype)})
    at = pd.MultiIndex.from_frame(given[keys]).get_indexer(pd.MultiIndex.from_frame(expected[keys]))
    lacking = at < 0
    rows = given[names].iloc[np.where(lacking, 0, at)].reset_index(drop=True)
    lacking |= rows.isna().any(axis=1).to_numpy()
    if lacking.any():
        first = ", ".join(f"({i!r}, {shown(t)})" for i, t in expected[lacking].head(3).itertuples(index=False))
        raise DataError(
            f"future_df lacks {int(lacking.sum())} of {len(expected)} rows of the horizon, first: {first}; "
            "get_missing_future(future_df) lists them"
        )
    return rows
