"""Reading of series from arrays, lists and long frames, and results in the form of the input."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Number
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from seqmix.errors import DataError
from seqmix.forecasting.frame import LARGEST_VALUE, Reading, check_columns, numbers, read_frame
from seqmix.forecasting.kind import to_pandas, with_index

Flat = Literal["series", "table"]


@dataclass(frozen=True)
class Columns:
    """Roles of the columns of a long frame.

    Args:
        id_col: column that names the series; a frame without it is one series.
        time_col: column of dates or integers. None: rows are in order and one step apart.
        label_col: column of labels. Default: none.
        channels: columns of values. Default: all columns of numbers.
        freq: step between rows. Default: inferred.
        fill_gaps: insert missing time steps as missing values.
    """

    id_col: str = "unique_id"
    time_col: str | None = "ds"
    label_col: str | None = None
    channels: tuple[str, ...] | None = None
    freq: str | int | None = None
    fill_gaps: bool = False


@dataclass(frozen=True)
class Collection:
    """Series with the same channels, and the form of the input.

    Args:
        values: the series, ``(T_i, C)`` each, NaN where missing.
        channels: names of the channels.
        form: rank of an array, a list of arrays, or a frame.
        given: the object that was read.
        ids: names of the series, in the order of their first rows.
        rows: row of the frame of each time step, ``(T_i,)`` each; -1 for inserted ones.
        labels: label of each series, where a frame has them.
        times: time of each step of all series of a frame, in its type.
        freq: step between rows that was found in a frame.
        ignored: columns of a frame that are not used.
    """

    values: list[np.ndarray]
    channels: tuple[str, ...]
    form: Literal["series", "table", "array", "list", "frame"]
    given: Any = field(repr=False)
    ids: pd.Index
    rows: list[np.ndarray] = field(default_factory=list)
    labels: np.ndarray | None = None
    times: Any = field(default=None, repr=False)
    freq: str | int | None = None
    ignored: tuple[str, ...] = ()

    @property
    def lengths(self) -> np.ndarray:
        """Time steps of each series, ``(n,)``."""
        return np.array([len(x) for x in self.values])

    @property
    def names(self) -> list[str]:
        """Names of the series in messages."""
        return ["X"] if self.form == "table" else [f"series {i!r}" for i in self.ids]

    def per_step(self, found: Sequence[np.ndarray], name: str) -> Any:
        """Values of time steps, ``(T_i,)`` per series: a Series with the index of a pandas frame, else arrays."""
        if self.form == "table":
            return found[0]
        if self.form == "list":
            return list(found)
        if self.form != "frame":
            return np.stack(found)
        frame = to_pandas(self.given)
        flat, at = np.concatenate(found), np.concatenate(self.rows)
        values = np.empty(len(frame), flat.dtype)
        values[at[at >= 0]] = flat[at >= 0]
        return pd.Series(values, frame.index, name=name) if isinstance(self.given, pd.DataFrame) else values

    def per_series(self, found: np.ndarray, name: Any) -> Any:
        """One row for each series: a Series or DataFrame with the ids as its index for a frame, else the array."""
        if self.form != "frame":
            return found
        return pd.Series(found, self.ids, name=name) if found.ndim == 1 else pd.DataFrame(found, self.ids, name)


def read_series(X: Any, columns: Columns, *, flat: Flat, channels_first: bool) -> Collection:
    """Read and check series.

    Args:
        X: ``(n, T, C)``, ``(n, T)`` or ``(T, C)`` by ``flat``, a list of ``(T_i, C)``, or a long frame.
        columns: roles of the columns of a frame.
        flat: what an array of rank 2 is: ``series`` is ``(n, T)``, ``table`` is ``(T, C)``.
        channels_first: arrays are ``(n, C, T)``, lists hold ``(C, T_i)``, and a table is ``(C, T)``.

    Raises:
        DataError: if they cannot be used as they are.
    """
    if isinstance(X, str | Path):
        raise DataError(f"X is the path {str(X)!r}; read it with pandas.read_csv, and give the frame")
    if isinstance(X, pd.Series):
        raise DataError("X is a Series; make a frame or an array of it: X.reset_index(), X.to_numpy()[:, None]")
    if isinstance(X, pd.DataFrame) or hasattr(X, "__dataframe__") or hasattr(X, "__arrow_c_stream__"):
        return _from_frame(X, columns, flat)
    if isinstance(X, list | tuple) and any(hasattr(x, "__array__") and np.ndim(x) for x in X):
        return _from_list(X, channels_first)
    try:
        return _from_array(_numeric(X, "X"), X, flat, channels_first)
    except _Ragged:
        if flat == "series" and not any(np.ndim(x[0]) for x in X if len(x)):
            return _from_list(X, channels_first)
        raise DataError(
            "the rows of X have different lengths; give a list of arrays, (T, C) each, for series of different lengths"
        ) from None


class _Ragged(Exception):
    """Nested lists that are no array."""


def _numeric(X: Any, name: str) -> np.ndarray:
    """An array of numbers as float64; text, complex and infinite numbers are refused."""
    if hasattr(X, "toarray"):
        raise DataError(f"{name} is a sparse matrix; use {name}.toarray()")
    if hasattr(X, "detach"):
        X = X.numpy(force=True)
    try:
        found = np.asarray(X)
    except ValueError as e:
        raise _Ragged from e
    if found.dtype == object and not found.ndim:
        raise DataError(
            f"{name} is of type {type(X).__name__}; give an array, a list of arrays or a frame: list() of a generator, "
            "collect() of a lazy frame"
        )
    if found.dtype.kind == "c":
        raise DataError(f"Complex data not supported: {name} holds {found.dtype}; use two channels")
    if found.dtype.kind not in "fiub":
        texts = found.dtype.kind != "O" or any(isinstance(x, str) for x in found.ravel())
        if texts:
            first = found.ravel()[0] if found.size else ""
            raise DataError(
                f"{name} should hold numbers, got {found.dtype}, first {str(first)!r}; use {name}.astype(float)"
            )
        try:
            found = floats(found)
        except TypeError as e:
            raise TypeError(f"{name} should hold numbers: {e}; convert it") from e
    values = found.astype(np.float64)
    if np.isinf(values).any():
        at = tuple(int(i) for i in np.argwhere(np.isinf(values))[0])
        raise DataError(f"{name} holds infinity, first at {at}; make it a number, or NaN for missing")
    if (np.abs(values) > LARGEST_VALUE).any():
        raise DataError(f"{name} holds values above {LARGEST_VALUE:g}; divide them by a power of ten")
    return values


def floats(values: np.ndarray) -> np.ndarray:
    """Objects as float64; None and NA are NaN."""
    return np.array([np.nan if x is None or x is pd.NA else float(x) for x in values.ravel()]).reshape(values.shape)


def _from_array(values: np.ndarray, X: Any, flat: Flat, channels_first: bool) -> Collection:
    shapes = "(n, C, T)" if channels_first else "(n, T, C)"
    rank = "(n, T)" if flat == "series" else "(C, T)" if channels_first else "(T, C)"
    if values.ndim not in (2, 3):
        raise DataError(f"X has shape {values.shape}. Reshape your data to {rank} or {shapes}")
    if not len(values):
        raise DataError(f"X has 0 sample(s) (shape={values.shape}) while a minimum of 1 is required; give {shapes}")
    if not values.size:
        raise DataError(f"X has 0 feature(s) (shape={values.shape}) while a minimum of 1 is required; give {shapes}")
    form = "array"
    if values.ndim == 2:
        form = flat
        values = values[:, :, None] if flat == "series" else (values.T if channels_first else values)[None]
    elif channels_first:
        values = values.transpose(0, 2, 1)
    names = tuple(map(str, range(values.shape[2])))
    return Collection(list(values), names, form, X, pd.RangeIndex(len(values)))


def _from_list(X: Sequence[Any], channels_first: bool) -> Collection:
    values = []
    for i, x in enumerate(X):
        series = _numeric(x, f"X[{i}]")
        if series.ndim not in (1, 2):
            shape = "(C, T)" if channels_first else "(T, C)"
            raise DataError(f"X[{i}] has shape {series.shape}. Reshape your data to {shape}")
        series = series[:, None] if series.ndim == 1 else series.T if channels_first else series
        if not series.size:
            raise DataError(f"X[{i}] has no time steps; leave the series out")
        if series.shape[1] != values[0].shape[1] if values else False:
            raise DataError(
                f"X[{i}] has {series.shape[1]} channels, X[0] has {values[0].shape[1]}; give all series the same ones"
                + ("" if channels_first else ", or pass channels_first=True for (C, T)")
            )
        values.append(series)
    return Collection(values, tuple(map(str, range(values[0].shape[1]))), "list", X, pd.RangeIndex(len(values)))


def _from_frame(df: Any, how: Columns, flat: Flat) -> Collection:
    frame = with_index(to_pandas(df), [name for name in (how.id_col, how.time_col) if name])
    if not len(frame):
        raise DataError("frame has 0 rows; give at least one row for each series")
    time_col = how.time_col
    if (
        flat == "series"
        and time_col
        and not {how.id_col, time_col} & {*frame}
        and all(map(pd.api.types.is_numeric_dtype, frame.dtypes))
    ):
        raise DataError(
            f"X has no columns {how.id_col!r} and {time_col!r}; if each of its rows is a series, use X.to_numpy()"
        )
    if time_col is None:
        time_col = _unused(frame, "step")
        alone = how.id_col not in frame
        order: Any = np.arange(len(frame)) if alone else frame.groupby(how.id_col, sort=False).cumcount()
        frame = frame.assign(**{time_col: order})
    taken = [name for name in (how.id_col, time_col, how.label_col) if name in frame]
    # by column, not by name: a name may be there twice, which is refused below
    columns: Any = frame.items()
    channels = how.channels or tuple(name for name, x in columns if name not in taken and _holds_numbers(x))
    if unnamed := [name for name in channels if not isinstance(name, str)]:
        raise DataError(f"the name of column {unnamed[0]!r} is not text; use df.columns = df.columns.astype(str)")
    wrong = [name for name in channels if name in taken]
    if wrong:
        raise DataError(f"column {wrong[0]!r} is id, time or label, and no channel; leave it out of channels")
    if not channels and time_col in frame:
        raise DataError(f"no column of numbers beside {taken}; columns are {list(frame)}; pass channels=[...]")
    absent = [name for name in channels if name not in frame]
    if absent and time_col in frame:
        raise DataError(f"channel {absent[0]!r} not found; columns are {list(frame)}")
    check_columns(frame, [time_col, *channels], how.id_col, time_col, None)
    row = _unused(frame, "row")
    reading = Reading(
        id_col=how.id_col,
        time_col=time_col,
        target_col=None,
        past=(*channels, row),
        freq=1 if how.time_col is None else how.freq,
        fill_gaps=how.fill_gaps,
    )
    long = read_frame(frame.assign(**{row: np.arange(len(frame))}), reading)
    lengths = np.diff(long.indptr)
    codes = np.repeat(np.arange(len(lengths)), lengths)
    steps = np.arange(len(codes)) - long.indptr[codes]
    stamps = long.clock.after(long.first[codes], steps)
    values = np.stack([numbers(long.columns[c], c, codes, long.ids, long.clock, stamps) for c in channels], 1)
    at = long.columns[row].fillna(-1).to_numpy(dtype=np.int64)
    cuts = long.indptr[1:-1]
    return Collection(
        np.split(values, cuts),
        channels,
        "frame",
        df,
        long.ids if how.id_col in frame else pd.Index(["X"]),
        np.split(at, cuts),
        None if how.label_col is None or how.label_col not in frame else _labels(frame, how, long.ids),
        long.clock.column(stamps),
        long.clock.freq,
        tuple(str(name) for name in frame if name not in (*taken, *channels)),
    )


def _labels(frame: pd.DataFrame, how: Columns, ids: pd.Index) -> np.ndarray:
    """Label of each series.

    Raises:
        DataError: if one has none, or more than one.
    """
    column: Any = frame[how.label_col]
    codes = ids.get_indexer(frame[how.id_col]) if how.id_col in frame else np.zeros(len(frame), int)
    by_id = column.groupby(codes)
    several = np.flatnonzero(by_id.nunique(dropna=False) > 1)
    if len(several):
        found = column[codes == several[0]].unique().tolist()
        raise DataError(
            f"column {how.label_col!r} has more than one label for id {ids[several[0]]!r}: {found}; give each series "
            "one label"
        )
    labels = by_id.first() if column.notna().any() else by_id.first().astype(object)
    if labels.isna().any():
        unlabeled = ids[labels.isna().to_numpy()]
        raise DataError(f"column {how.label_col!r} has no label for id {unlabeled[0]!r}; give each series one label")
    return labels.to_numpy()


def _holds_numbers(column: pd.Series) -> bool:
    """A column of numbers, or of objects with a number among them."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return True
    return column.dtype == object and any(isinstance(x, Number) and x == x for x in column)


def _unused(frame: pd.DataFrame, name: str) -> str:
    """A name that no column has."""
    while name in frame:
        name = f"_{name}"
    return name
