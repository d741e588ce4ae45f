"""Conversion of filled values to the form of the input: observed cells are copied, missing ones filled."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from seqmix.analysis.series import Collection, Columns, floats
from seqmix.forecasting.kind import to_pandas, with_index

Sides = tuple[Sequence[np.ndarray], Sequence[np.ndarray]]


def filled_arrays(series: Collection, filled: Sequence[np.ndarray], *, channels_first: bool) -> Any:
    """Arrays like those given, in their type, with values where theirs are missing.

    Args:
        series: the series, as read.
        filled: a value for each cell, ``(T_i, C)`` per series.
        channels_first: the arrays have channels first.
    """
    found = [y.T if channels_first else y for y in filled]
    if series.form == "list":
        return [_filled(x, y) for x, y in zip(series.given, found, strict=True)]
    return _filled(series.given, found[0] if series.form == "table" else np.stack(found))


def filled_frame(series: Collection, filled: Sequence[np.ndarray], bounds: Mapping[float, Sides], how: Columns) -> Any:
    """The frame that was given, of its library, with values where they are missing; inserted steps are new rows.

    Args:
        series: the series, as read.
        filled: a value for each cell, ``(T_i, C)`` per series.
        bounds: lower and upper bounds of all cells by level.
        how: roles of the columns of the frame.
    """
    at = np.concatenate(series.rows)
    inserted = bool((at < 0).any())
    before = to_pandas(series.given)
    frame = _with_steps(series, at, how) if inserted else before
    # cells in the order of the rows
    order = np.arange(len(at)) if inserted else np.argsort(at)
    columns: dict[str, Any] = {}
    missing = np.concatenate([np.isnan(x) for x in series.values])[order]
    values = np.concatenate(filled)[order]
    for c, name in enumerate(series.channels):
        if missing[:, c].any():
            columns[name] = _written(frame[name], missing[:, c], values[:, c]).astype(before[name].dtype)
        for level, (low, high) in bounds.items():
            for side, found in (("lo", low), ("hi", high)):
                columns[f"{name}-{side}-{level:g}"] = pd.Series(np.concatenate(found)[order][:, c], frame.index)
    if isinstance(series.given, pd.DataFrame):
        return frame.assign(**columns)
    return _native(series.given, frame, columns, inserted=inserted)


def _filled(given: Any, values: np.ndarray) -> np.ndarray:
    """A copy of an array with values where it is missing."""
    found = np.array(given.numpy(force=True) if hasattr(given, "detach") else given)
    found = found if found.dtype.kind in "fiub" else floats(found)
    if found.dtype.kind == "f":
        missing = np.isnan(found)
        found[missing] = values.reshape(found.shape)[missing].astype(found.dtype)
    return found


def _written(column: pd.Series, missing: np.ndarray, values: np.ndarray) -> pd.Series:
    """A copy of a column with values where it is missing; those of whole numbers are rounded."""
    if pd.api.types.is_bool_dtype(column.dtype):
        values = values > 0.5
    elif pd.api.types.is_integer_dtype(column.dtype):
        values = np.rint(values).astype(np.int64)
    elif pd.api.types.is_float_dtype(column.dtype):
        dtype: Any = column.dtype
        values = values.astype(getattr(dtype, "numpy_dtype", dtype))
    elif column.dtype == object:
        values = _objects(values, pd.api.types.infer_dtype(column, skipna=True))
    found = column.copy()
    found.iloc[np.flatnonzero(missing)] = values[missing]
    return found


def _objects(values: np.ndarray, kind: str) -> np.ndarray:
    """Values as objects of the kind of the others in a column, a word of ``pandas.api.types.infer_dtype``."""
    makers: dict[str, Any] = {
        "boolean": lambda value: value > 0.5,
        "decimal": lambda value: Decimal(repr(value)),
        "integer": round,
    }
    return np.array([makers.get(kind, float)(value) for value in values.tolist()], dtype=object)


def _with_steps(series: Collection, at: np.ndarray, how: Columns) -> pd.DataFrame:
    """The frame by series and time with a row for each inserted step, which has its id and time."""
    frame = with_index(to_pandas(series.given), [name for name in (how.id_col, how.time_col) if name])
    new = at < 0
    rows = frame.take(np.where(new, 0, at)).reset_index(drop=True)
    for name in rows.columns.drop([name for name in (how.id_col, how.time_col) if name in rows]):
        whole = {"i": "Int64", "u": "UInt64", "b": "boolean"}.get(getattr(rows[name].dtype, "kind", ""))
        rows[name] = (rows[name].astype(whole) if whole else rows[name]).mask(new)
    if how.id_col in rows:
        rows[how.id_col] = series.ids.repeat(series.lengths.tolist()).astype(rows[how.id_col].dtype)
    rows[how.time_col] = series.times
    return rows


def _native(given: Any, frame: pd.DataFrame, columns: Mapping[str, pd.Series], *, inserted: bool) -> Any:
    """A frame of the library of the one given, with columns put in."""
    import narwhals

    before = narwhals.from_native(given, eager_only=True)
    if inserted:
        whole = narwhals.from_native(frame.assign(**columns), eager_only=True)
        return whole.to_polars() if before.implementation.is_polars() else whole.to_arrow()
    put = []
    for name, column in columns.items():
        dtype = before.schema[name] if name in before.columns else narwhals.Float64
        values = column.to_numpy()
        put.append(narwhals.new_series(name, values, backend=before.implementation).cast(dtype))
    return before.with_columns(*put).to_native()
