"""Parsing of time columns: dates, ISO text, periods, integers."""

import numpy as np
import pandas as pd

from seqmix.errors import DataError
from seqmix.forecasting.clock import is_number, shown


def parse_times(times: pd.Series, time_col: str) -> pd.Series:
    """Parse a column of times: dates and integers stay, ISO text becomes dates, periods their start."""
    if times.isna().any():
        raise DataError(
            f"column {time_col!r} has {int(times.isna().sum())} missing times, first in row "
            f"{int(times.isna().to_numpy().argmax())}; drop those rows"
        )
    if isinstance(times.dtype, pd.CategoricalDtype):
        times = times.astype(times.cat.categories.dtype)
    if pd.api.types.is_object_dtype(times.dtype) and pd.api.types.infer_dtype(times) == "integer":
        try:
            times = times.astype("int64")
        except OverflowError as e:
            raise DataError(
                f"column {time_col!r} holds integers of more than 64 bits; count time in smaller ones"
            ) from e
    kind = times.dtype
    if isinstance(kind, pd.PeriodDtype):
        times = times.dt.to_timestamp()
    elif is_number(kind):
        _check_counts(times, time_col)
        return times
    elif not (pd.api.types.is_datetime64_any_dtype(kind) or "date" in str(kind)):
        times = _parsed(times, time_col)
    try:
        pd.DatetimeIndex(times).as_unit("ns")
    except ValueError as e:
        outside = pd.DatetimeIndex(times)
        row = int(((outside.year < 1678) | (outside.year > 2261)).argmax())
        raise DataError(
            f"column {time_col!r} holds dates outside 1678 to 2261, first {shown(times.iloc[row])} in row {row}; "
            "correct them, or count time in integers"
        ) from e
    return times


def is_dated(column: pd.Series) -> bool:
    """Whether a column holds dates, or text that begins with ISO dates."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return True
    if pd.api.types.is_numeric_dtype(column.dtype) or not len(column):
        return False
    return bool(pd.to_datetime(column.iloc[:3].astype(str), format="ISO8601", errors="coerce").notna().all())


def _parsed(times: pd.Series, time_col: str) -> pd.Series:
    """ISO text and objects as dates."""
    kind = times.dtype
    if not (pd.api.types.is_string_dtype(kind) or pd.api.types.is_object_dtype(kind)):
        raise DataError(f"column {time_col!r} holds {kind}, not times; give dates, ISO text or integers")
    if "mixed" in pd.api.types.infer_dtype(times):
        raise DataError(f"column {time_col!r} mixes texts, numbers or dates; convert it with pd.to_datetime")
    try:
        parsed = pd.to_datetime(times, format="ISO8601", errors="coerce")
    except ValueError as e:
        raise DataError(f"column {time_col!r} mixes time zones ({e}); convert it with pd.to_datetime(utc=True)") from e
    if parsed.isna().any():
        row = int(parsed.isna().to_numpy().argmax())
        raise DataError(
            f"column {time_col!r} holds text that is no ISO date, first {times.iloc[row]!r} in row {row}; "
            f"convert it with pd.to_datetime(df[{time_col!r}], format=...)"
        )
    return parsed


def _check_counts(times: pd.Series, time_col: str) -> None:
    """Refuse integers that are dates: 20240131, 2024013123, or 202401 where years change after 12."""
    counts = times.to_numpy(dtype="int64")
    forms = ((1900010100, 2100123123, "%Y%m%d%H"), (19000101, 21001231, "%Y%m%d"), (190001, 210012, "%Y%m"))
    for least, most, form in forms:
        if least <= counts.min() and counts.max() <= most:
            dates = pd.to_datetime(pd.Series(counts).astype(str), format=form, errors="coerce")
            if dates.notna().all() and (form != "%Y%m" or np.ptp(counts) > 11):
                raise DataError(
                    f"column {time_col!r} holds integers that are dates, first {counts[0]}; convert it with "
                    f"pd.to_datetime(df[{time_col!r}].astype(str), format={form!r})"
                )
