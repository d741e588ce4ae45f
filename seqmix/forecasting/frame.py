"""Reading of long frames into checked arrays, with all error messages about frames."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from seqmix.errors import ConfigError, DataError, check_choice
from seqmix.forecasting.clock import Clock, infer_freq, is_number, shown
from seqmix.forecasting.kind import kind_of, to_pandas, with_index
from seqmix.forecasting.long import Long, named
from seqmix.forecasting.resampling import resample
from seqmix.forecasting.steps import steps_between
from seqmix.forecasting.times import is_dated, parse_times
from seqmix.numeric import to_numbers

Missing = Literal["mask", "error", "ffill"]

#: the square of an error of this size is still a number
LARGEST_VALUE = 1e150


@dataclass(frozen=True)
class Reading:
    """Options for reading a long frame: column names, and handling of missing rows and values.

    Args:
        id_col: column that names the series; a frame without it is one series.
        time_col: column of dates or integers.
        target_col: column of the values. None: a frame of covariates alone.
        weight_col: column of sample weights.
        past: columns known up to the last row.
        future: columns known for the horizon as well.
        static: columns that do not change within a series; those that the frame lacks come from a frame of their own.
        freq: step between rows. Default: inferred.
        fill_gaps: insert missing time steps as missing values.
        fill_value: value of inserted rows. Default: missing.
        aggregate: aggregation of rows that are finer than ``freq``. Default: such rows are refused.
        missing: handling of missing values: ``mask`` ignores them in input and loss, ``error`` raises, ``ffill``
            repeats the last value.
    """

    id_col: str = "unique_id"
    time_col: str = "ds"
    target_col: str | None = "y"
    weight_col: str | None = None
    past: Sequence[str] = ()
    future: Sequence[str] = ()
    static: Sequence[str] = ()
    freq: str | int | None = None
    fill_gaps: bool = False
    fill_value: float | None = None
    aggregate: str | None = None
    missing: Missing = "mask"

    @property
    def names(self) -> dict[str, Any]:
        """The names of id, time and target as arguments of functions."""
        return {"id_col": self.id_col, "time_col": self.time_col, "target_col": self.target_col}

    def checked(self, *names: str | None) -> "Reading":
        """Itself, after a check that the given names of id, time and target, if any, are its own.

        Raises:
            ConfigError: if one is another.
        """
        for (option, own), name in zip(self.names.items(), names, strict=False):
            if name not in (None, own):
                raise ConfigError(f"{option} = {name!r}, and the models were fitted with {own!r}; rename the column")
        return self

    def again(self, freq: str | int) -> "Reading":
        """Options for later frames: with the inferred frequency, without weights."""
        return replace(self, freq=freq, weight_col=None)


def read_frame(df: Any, how: Reading) -> Long:
    """Check a long frame and convert it to arrays; the frame is not modified.

    Args:
        df: one row for each series and time, in any order: pandas, or what narwhals can turn into it.
        how: names and options.

    Raises:
        DataError: if the frame cannot be used; the message names ids, times and remedy.
    """
    check_choice("missing", how.missing, ("mask", "error", "ffill"))
    id_col, time_col, target_col, weight_col, freq = how.id_col, how.time_col, how.target_col, how.weight_col, how.freq
    frame: Any = with_index(to_pandas(df), (id_col, time_col))
    if not len(frame):
        raise DataError("frame has 0 rows; give at least one row for each series")
    covariates = [*how.past, *how.future, *(name for name in how.static if name in frame)]
    needed = [time_col, *([target_col] if target_col else []), *([weight_col] if weight_col else []), *covariates]
    check_columns(frame, needed, id_col, time_col, target_col)
    if target_col in covariates:
        raise DataError(f"column {target_col!r} is the target; leave it out of the covariates")
    if how.aggregate is not None:
        frame = _resampled(frame, how)
    alone = id_col not in frame
    codes, ids = (np.zeros(len(frame), int), pd.Index([target_col or "X"])) if alone else _codes(frame, id_col)
    times = parse_times(frame[time_col], time_col)
    # periods are stamps inside, and come back as periods
    dtype = frame[time_col].dtype if isinstance(frame[time_col].dtype, pd.PeriodDtype) else times.dtype
    clock = None if freq is None else Clock(freq, dtype)
    raw = times.to_numpy(dtype="int64") if is_number(times.dtype) else pd.DatetimeIndex(times).as_unit("ns").asi8
    order = _order(codes, raw)
    if order is not None:
        codes, times, frame = codes[order], times.iloc[order], frame.iloc[order]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    indptr = np.r_[starts, len(frame)]
    if clock is None:
        clock = Clock(infer_freq(times, indptr, time_col), dtype)
    stamps = clock.stamps(times)
    _check_duplicates(stamps, codes, ids, clock, id_col, time_col, alone)
    steps = steps_between(stamps, codes, ids, clock, how.fill_gaps)

    columns: Any = frame[list(dict.fromkeys(covariates))].reset_index(drop=True)
    rows = codes, ids, clock, stamps
    y = np.zeros(len(frame)) if target_col is None else numbers(frame[target_col], target_col, *rows)
    weight = None if weight_col is None else _weights(numbers(frame[weight_col], weight_col, *rows), weight_col)
    present = np.ones(len(frame), bool)
    if (steps > 1).any():
        # inserted rows have no value
        at = np.arange(len(frame)) + np.cumsum(steps - 1)
        total = int(at[-1]) + 1
        indptr = np.r_[at[starts], total]
        filled = how.fill_value is not None
        y = _spread(y, at, total, np.nan if how.fill_value is None else how.fill_value)
        if weight is not None:
            # an inserted row with a value has the weight of the row before it
            weight = (
                weight[np.searchsorted(at, np.arange(total), "right") - 1] if filled else _spread(weight, at, total, 0)
            )
        present = np.isin(np.arange(total), at)
        columns = columns.set_axis(at).reindex(range(total))
    if how.missing != "mask" and np.isnan(y).any():
        y = _without_missing(y, indptr, ids, how.missing, target_col)
    known = {id_col, *needed}
    ignored = [str(name) for name in frame if name not in known]
    kind = kind_of(df, id_col, time_col)
    return Long(ids, indptr, stamps[starts], clock, y, weight, columns, present, ignored, kind)


def _weights(weight: np.ndarray, weight_col: str) -> np.ndarray:
    """Weights of rows, checked."""
    if not (weight >= 0).all():
        raise DataError(f"column {weight_col!r} holds weights below 0 or missing; give a number from 0 up in every row")
    if weight.max() > 1e18:
        raise DataError(f"column {weight_col!r} holds weights above 1e18; divide all of them by the largest")
    if not weight.any():
        raise DataError(f"column {weight_col!r} holds no weight above 0; leave weight_col out to train on every row")
    return weight


def followed(df: Any, long: Long, val_df: pd.DataFrame, how: Reading) -> tuple[Long, np.ndarray]:
    """Append validation rows to a frame; also returns the number of these rows of each series.

    Raises:
        DataError: if they are of other series, or do not come after their rows.
    """
    later = read_frame(val_df, replace(how, freq=long.clock.freq, fill_gaps=True))
    at = long.ids.get_indexer(later.ids)
    if (at < 0).any():
        unknown = named(list(later.ids[at < 0]))
        raise DataError(f"val_df holds series that df has no rows of: {unknown}; add rows to df, or leave them out")
    early = np.flatnonzero(later.first <= long.last[at])
    if len(early):
        raise DataError(
            f"val_df holds rows that are not after those of df, first: id {later.ids[early[0]]!r}; give later rows only"
        )
    frames = [with_index(frame, (how.id_col, how.time_col)) for frame in (to_pandas(df), val_df)]
    both = read_frame(pd.concat(frames, ignore_index=True), how)
    return both._replace(kind=long.kind), np.diff(both.indptr) - np.diff(long.indptr)


def stamped(how: Reading, clock: Clock, ids: pd.Index, last: np.ndarray, horizon: int) -> pd.DataFrame:
    """Id and time of the ``horizon`` steps after each of the stamps ``last``, one for each of the ``ids``."""
    stamps = clock.after(last[:, None], np.arange(1, horizon + 1))
    return pd.DataFrame({how.id_col: ids.repeat(horizon), how.time_col: clock.column(stamps.ravel())})


def tested(how: Reading, long: Long, rows: np.ndarray, horizon: int) -> pd.DataFrame:
    """Id, time, cutoff and truth of forecasts from cutoffs ``rows`` ``(K,)`` before the end of each series."""
    cutoff = long.clock.after(long.first[:, None], np.diff(long.indptr)[:, None] - rows - 1).ravel()
    frame = stamped(how, long.clock, long.ids.repeat(len(rows)), cutoff, horizon)
    frame["cutoff"] = long.clock.column(np.repeat(cutoff, horizon))
    at = long.indptr[1:, None, None] - rows[:, None] + np.arange(horizon)  # (n, K, horizon)
    frame[how.target_col] = long.y[at].ravel()
    return frame


def long_from_wide(df: Any, time_col: str = "date", *, id_col: str = "unique_id", target_col: str = "y") -> Any:
    """A long frame from a wide one, which has a time column and one column of numbers for each series.

    Args:
        df: the wide frame.
        time_col: its time column; the long frame calls it ``ds``.
        id_col: name of the column that will hold the names of the columns, in their order.
        target_col: name of the column that will hold the numbers.

    Raises:
        DataError: if there is no such column.
    """
    frame = to_pandas(df)
    if time_col not in frame:
        raise DataError(f"column {time_col!r} not found; df has {list(frame)}. Pass time_col='...'")
    names = [name for name in frame if name != time_col]
    times = parse_times(frame[time_col], time_col)
    long = pd.DataFrame(
        {
            id_col: np.repeat(np.array(names, dtype=object), len(frame)),
            "ds": pd.concat([times] * len(names), ignore_index=True),
            target_col: np.concatenate([frame[name].to_numpy() for name in names]),
        }
    )
    kind = kind_of(df, id_col, time_col)
    return kind._replace(types={"ds": kind.types[time_col]} if time_col in kind.types else {}).give(long)


def with_ids(frame: Any, how: Reading) -> pd.DataFrame:
    """A frame for pictures: as it is read, with ids; a single series gets the name of its values."""
    frame = with_index(frame, (how.id_col, how.time_col))
    frame = frame if how.aggregate is None else _resampled(frame, how)
    if how.id_col not in frame:
        frame = frame.assign(**{how.id_col: how.target_col})
    return frame


def numbers(
    column: pd.Series, name: str, codes: np.ndarray, ids: pd.Index, clock: Clock, stamps: np.ndarray
) -> np.ndarray:
    """A column as float64 with NaN where missing; text and infinite values are refused."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if not pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_complex_dtype(column.dtype):
        column = _objects_as_numbers(column, name)
    values = column.to_numpy(dtype="float64", na_value=np.nan)
    infinite = np.isinf(values)
    if infinite.any():
        row, count = int(infinite.argmax()), int(infinite.sum())
        when = shown(clock.column(stamps[[row]])[0])
        raise DataError(
            f"{count} infinite value{'s' * (count > 1)} in {name!r} (id {ids[codes[row]]!r}, {when}); "
            "make them numbers, or NaN for missing"
        )
    large = np.abs(values) > LARGEST_VALUE
    if large.any():
        raise DataError(
            f"values of {ids[codes[large.argmax()]]!r} are too large to be scaled; divide them by a power of ten"
        )
    return values


def _objects_as_numbers(column: pd.Series, name: str) -> pd.Series:
    """Objects among which numbers and missing values are; text that looks like numbers is refused with the remedy."""
    parsed = to_numbers(column)
    wrong = (parsed.isna() & column.notna()).to_numpy(copy=True)
    if not pd.api.types.is_object_dtype(column.dtype):
        wrong |= column.notna().to_numpy()
    else:
        wrong |= column.map(lambda value: isinstance(value, str)).to_numpy(dtype=bool)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"column {name!r} should hold numbers, got {column.dtype}, first {column.iloc[row]!r} in row "
            f"{column.index[row]}; convert it with pd.to_numeric(df[{name!r}])"
        )
    return parsed


def _resampled(frame: pd.DataFrame, how: Reading) -> Any:
    return resample(frame, str(how.freq), str(how.aggregate), **how.names)


def check_columns(
    frame: pd.DataFrame, needed: Sequence[str], id_col: str, time_col: str, target_col: str | None
) -> None:
    """Raise ``DataError`` if a column of a long frame that is needed is not there, or there twice."""
    if isinstance(frame.columns, pd.MultiIndex):
        raise DataError("df has several levels of column names; use df.columns = ['_'.join(c) for c in df]")
    twice = [name for name in frame.columns[frame.columns.duplicated()] if name in (id_col, *needed)]
    if twice:
        raise DataError(f"column {twice[0]!r} is there {list(frame).count(twice[0])} times; rename or drop one of them")
    absent = [name for name in needed if name not in frame]
    index = frame.index
    if time_col in absent and isinstance(index, pd.DatetimeIndex | pd.PeriodIndex):
        raise DataError(
            f"column {time_col!r} not found; the times are in the index, use df.reset_index(names={time_col!r})"
        )
    if id_col not in frame and not index.is_unique and pd.api.types.is_string_dtype(index.dtype):
        raise DataError(
            f"column {id_col!r} not found, and the index holds text such as {str(index[0])!r}; if these are ids, use "
            f"df.reset_index(names={id_col!r})"
        )
    if not absent:
        return
    name, have = absent[0], [str(c) for c in frame]
    numeric = [str(c) for c in frame if pd.api.types.is_numeric_dtype(frame[c].dtype)]
    dated = [str(c) for c in frame if c not in numeric and c != id_col and is_dated(frame[c])]
    if id_col not in frame and target_col not in frame and dated and len(numeric) > 1:
        raise DataError(
            f"column {name!r} not found; this looks like a wide frame, with times in {dated[0]!r} and {len(numeric)} "
            f"series beside it. Use seqmix.long_from_wide(df, time_col={dated[0]!r})"
        )
    option = {id_col: "id_col", time_col: "time_col", target_col: "target_col"}.get(name)
    hint = "add it, or leave it out of the covariates"
    if option:
        fitting = [c for c in (dated if option == "time_col" else numeric) if c not in needed and c != id_col]
        near = difflib.get_close_matches(name, fitting, 1, 0.0)
        hint = f"did you mean {option}={near[0]!r}?" if near else f"rename it or pass {option}=..."
    raise DataError(f"column {name!r} not found; columns are {have}; {hint}")


def _codes(frame: pd.DataFrame, id_col: str) -> tuple[np.ndarray, pd.Index]:
    try:
        codes, ids = pd.factorize(frame[id_col])
    except TypeError as e:
        raise DataError(f"column {id_col!r} holds {type(frame[id_col].iloc[0]).__name__}, not ids; give texts") from e
    if (codes < 0).any():
        count = int((codes < 0).sum())
        raise DataError(f"column {id_col!r} has {count} row{'s' * (count > 1)} without an id; name or drop them")
    return codes, pd.Index(ids, dtype=None if isinstance(ids.dtype, pd.CategoricalDtype) else ids.dtype)


def _order(codes: np.ndarray, raw: np.ndarray) -> np.ndarray | None:
    """The rows sorted by series and time, None where they are."""
    same = codes[1:] == codes[:-1]
    if ((codes[1:] > codes[:-1]) | (same & (raw[1:] >= raw[:-1]))).all():
        return None
    return np.lexsort((raw, codes))


def _check_duplicates(
    stamps: np.ndarray, codes: np.ndarray, ids: pd.Index, clock: Clock, id_col: str, time_col: str, alone: bool
) -> None:
    twice = (codes[1:] == codes[:-1]) & (stamps[1:] == stamps[:-1])
    if twice.any():
        row, count = int(twice.argmax()), int(twice.sum())
        if alone:
            raise DataError(
                f"{count} duplicate time stamp{'s' * (count > 1)}, first: {shown(clock.column(stamps[[row]])[0])}, "
                f"and no column {id_col!r}; name the column of the series with id_col=..., or merge the rows"
            )
        raise DataError(
            f"{count} duplicate time stamp{'s' * (count > 1)}, first: id {ids[codes[row]]!r} at "
            f"{shown(clock.column(stamps[[row]])[0])}; "
            f"merge them, for example df.groupby([{id_col!r}, {time_col!r}], as_index=False, sort=False).mean()"
        )


def _spread(values: np.ndarray, at: np.ndarray, total: int, fill: float) -> np.ndarray:
    # a fill of 0 would make whole numbers of all values
    wide = np.full(total, fill, float)
    wide[at] = values
    return wide


def _without_missing(
    y: np.ndarray, indptr: np.ndarray, ids: pd.Index, missing: Missing, target_col: str | None
) -> np.ndarray:
    absent = np.isnan(y)
    series = np.repeat(np.arange(len(ids)), np.diff(indptr))
    if missing == "error":
        counts = np.bincount(series, absent, len(ids)).astype(int)
        first = ", ".join(f"{ids[i]!r} {counts[i]}" for i in np.flatnonzero(counts)[:5])
        raise DataError(
            f"{int(absent.sum())} missing values in {target_col!r} of {int((counts > 0).sum())} of {len(ids)} series: "
            f"{first}. Use missing='mask' to leave them out, or 'ffill'"
        )
    return pd.Series(y).groupby(series).ffill().to_numpy()
