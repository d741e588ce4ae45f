"""CSV files with one column per channel; error messages name file, line and column."""

import csv
import difflib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd

from seqmix.data.files import decode, read_file
from seqmix.data.series.calendar import season_of_step
from seqmix.data.series.forecast_data import ForecastData, Table
from seqmix.errors import ConfigError, DataError
from seqmix.numeric import to_numbers


class WideCSV(ForecastData):
    """A CSV file (plain or ``.gz``, UTF-8, commas): a time column and one column of numbers per channel.

    Rows are split in order of time. Nothing is repaired or left out without being asked for: empty cells, text,
    infinite values, repeated or unsorted times and gaps are errors that name the line.

    Args:
        path: the file.
        columns: the channels. Default: every column but the time column.
        time_col: column of time stamps. Default: the first.
        time_format: format of dates, as in ``strptime``. Default: inferred. Times with an offset
            become UTC; numbers count rows and are no dates.
        split: shares of training, validation and test rows.
        season: length of the season, in rows. Default: an hour for rows of seconds, a day for minutes and hours, a
            week for days, a year for weeks and months; 1 where rows do not divide it, and for integer time.
        allow_gaps: accept rows missing from the time grid; windows then run across the gaps.

    Raises:
        DataError: if the file cannot be used as it is.
        ConfigError: if ``split`` is not three positive shares that add up to 1.
    """

    def __init__(
        self,
        path: str,
        context: int,
        horizon: int,
        batch_size: int = 32,
        *,
        columns: list[str] | None = None,
        time_col: str | None = None,
        time_format: str | None = None,
        split: tuple[float, float, float] = (0.7, 0.1, 0.2),
        season: int | None = None,
        allow_gaps: bool = False,
        eval_batch_size: int | None = None,
        stride: int = 1,
        scale: bool = True,
        calendar: bool = False,
        seed: int | None = None,
    ):
        check_split(split)
        self.path, self.columns, self.time_col, self.time_format = path, columns, time_col, time_format
        self.split, self.allow_gaps = split, allow_gaps
        # the first lines are enough for the facts that a model is built from
        values, times, _ = self._read(lines=100)
        step, natural = step_and_season(times)
        super().__init__(
            Path(path).name,
            values.shape[1],
            context,
            horizon,
            batch_size,
            step=step,
            season=natural if season is None else season,
            eval_batch_size=eval_batch_size,
            stride=stride,
            scale=scale,
            calendar=calendar,
            seed=seed,
        )

    def _load(self) -> Table:
        values, times, channels = self._read()
        return Table(values, times, split_rows(self.split, len(values)), channels)

    def _read(self, lines: int | None = None) -> tuple[np.ndarray, pd.Index, list[str]]:
        return read_wide_file(
            self.path,
            lines,
            columns=self.columns,
            time_col=self.time_col,
            time_format=self.time_format,
            allow_gaps=self.allow_gaps,
        )


def check_split(split: tuple[float, float, float]) -> None:
    """Raise ``ConfigError`` unless ``split`` is three positive shares that add up to 1."""
    if min(split) <= 0 or abs(sum(split) - 1) > 1e-6:
        raise ConfigError(f"split must be three positive shares that add up to 1, got {split}; try (0.7, 0.1, 0.2)")


def split_rows(split: tuple[float, float, float], n_rows: int) -> tuple[int, int, int]:
    """Rows of each split; as in the published protocol, the remainder of rounding goes to validation."""
    n_train, n_test = int(split[0] * n_rows), int(split[2] * n_rows)
    return n_train, n_rows - n_train - n_test, n_test


def step_and_season(times: pd.Index) -> tuple[float | None, int]:
    """Time between two rows in hours, None if rows are only numbered, and the season of that step, in rows."""
    if not isinstance(times, pd.DatetimeIndex):
        return None, 1
    nanoseconds = int(np.median(np.diff(times.as_unit("ns").asi8)))
    return nanoseconds / 3.6e12, season_of_step(nanoseconds)


def read_wide_file(
    path: str,
    lines: int | None = None,
    *,
    columns: list[str] | None,
    time_col: str | None,
    time_format: str | None,
    allow_gaps: bool,
    missing: bool = False,
) -> tuple[np.ndarray, pd.Index, list[str]]:
    """``read_wide`` of a file, or of its first lines, whose times are checked too.

    Raises:
        DataError: if the file cannot be read as such a table, or its times are not sorted or have gaps.
    """
    name, content = Path(path).name, read_file(Path(path), lines)
    values, times, channels = read_wide(
        content, name, columns=columns, time_col=time_col, time_format=time_format, missing=missing
    )
    _check_times(times, content, name, allow_gaps)
    return values, times, channels


def read_wide(
    content: bytes,
    file: str,
    *,
    columns: list[str] | None = None,
    time_col: str | None = None,
    time_format: str | None = None,
    missing: bool = False,
) -> tuple[np.ndarray, pd.Index, list[str]]:
    """Channels ``(T, C)``, time stamps ``(T,)`` and names of the channels of a wide CSV.

    Args:
        content: the file, as bytes.
        file: its name, for messages.
        columns: the channels. Default: every column but the time column.
        time_col: column of time stamps. Default: the first.
        time_format: format of dates. Default: inferred.
        missing: read empty cells, NA and NaN as NaN, instead of refusing them.

    Raises:
        DataError: if the text cannot be read as such a table.
    """
    # pandas would count empty lines at the end as rows of missing values
    text = decode(content, file).rstrip()
    names = _header(text, file)
    time_col = _known(names[0] if time_col is None else time_col, names, file)
    channels = [name for name in names if name != time_col] if columns is None else names_of(columns)
    channels = [_known(name, names, file) for name in channels]
    if not channels:
        _fail(file, f"has no channel beside {time_col!r}", "give a time column and at least one column of numbers")
    frame = _parse(text, names, file)
    if len(frame) < 2:
        _fail(file, f"has {len(frame)} rows of data", "give a header and at least two rows")
    values = np.stack([_numbers(frame, name, file, text, missing) for name in channels], 1)
    return values, _times(frame, time_col, time_format, file, text), channels


def names_of(columns: Sequence[str]) -> list[str]:
    """Names of columns, of which a single one may be given as text.

    Raises:
        ConfigError: if one is there twice.
    """
    names = [columns] if isinstance(columns, str) else list(columns)
    if len(set(names)) < len(names):
        raise ConfigError(f"columns = {names} holds a name twice; name every column once")
    return names


def _header(text: str, file: str) -> list[str]:
    if not text:
        _fail(file, "is empty", "give a header and rows of data")
    _, names = _record(text, file, 0)
    if not names:
        _fail(file, "is empty", "begin the file with the names of the columns", line=1)
    # pandas writes an index of times without a column name
    names = [names[0] or "time", *names[1:]]
    if "" in names:
        what = f"has no name for column {names.index('') + 1}"
        _fail(file, what, "name it, or remove the commas at the end of the lines", line=1)
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        _fail(file, f"has {sorted(repeated)} more than once", "give every column its own name", line=1)
    return names


def _known(name: str, names: list[str], file: str) -> str:
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, 1)
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    _fail(
        file, f"has no column {name!r}", f"did you mean {close[0]!r}? it has {listed}" if close else f"it has {listed}"
    )


def _parse(text: str, names: list[str], file: str) -> pd.DataFrame:
    if "\r" in text:
        # a carriage return ends a row of pandas, where it is not quoted
        _record(text, file, -1)
    try:
        with warnings.catch_warnings():
            # a row with more fields than the header is only a warning in pandas
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(io.StringIO(text), index_col=False, skip_blank_lines=False, low_memory=False)
        return frame.set_axis(names, axis=1)
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        line, cells = _record(text, file, -1, wider=len(names))
        wide = len(cells) > len(names)
        what = f"has {len(cells)} fields, the header has {len(names)}" if wide else f"is not a table ({error})"
        _fail(file, what, "separate fields by single commas", line=line if wide else None)


def _numbers(frame: pd.DataFrame, name: str, file: str, text: str, missing: bool) -> np.ndarray:
    numbers = np.asarray(to_numbers(frame[name]), np.float64)
    bad = ~np.isfinite(numbers)
    if missing:
        bad &= ~frame[name].isna().to_numpy()
    if bad.any():
        line, cell = _cell(text, file, int(bad.argmax()), list(frame.columns).index(name))
        remedy = f"fill or remove it ({bad.sum()} of the {len(bad)} cells read are not finite numbers)"
        if cell.strip().lower().lstrip("+-") in ("inf", "infinity"):
            _fail(file, f"infinite value {cell!r}", remedy, line=line, column=name)
        if not cell.strip() or cell.strip().lower() in ("nan", "na", "n/a", "null", "none"):
            _fail(file, f"missing value {cell!r}", remedy, line=line, column=name)
        remedy = (
            "correct it, or leave the column out with data.columns "
            f"({bad.sum()} of the {len(bad)} cells read are no numbers)"
        )
        _fail(file, f"text {cell!r} in place of a number", remedy, line=line, column=name)
    return numbers


def _times(frame: pd.DataFrame, name: str, time_format: str | None, file: str, text: str) -> pd.Index:
    column = frame[name]
    if time_format is None and pd.api.types.is_numeric_dtype(column) and np.isfinite(column).all():
        return pd.Index(column, name=name)
    try:
        with warnings.catch_warnings():
            # errors are reported below
            warnings.simplefilter("ignore", UserWarning)
            times = pd.to_datetime(column.astype(str), format=time_format, errors="coerce", utc=True)
    except ValueError as error:
        raise ConfigError(
            f"time_format = {time_format!r} is not known ({error}); use for example '%d.%m.%Y'"
        ) from error
    if time_format is None and times.isna().any():
        # dates at midnight are often written without the time of day
        times = pd.to_datetime(column.astype(str), format="ISO8601", errors="coerce", utc=True)
    missing = column.isna().to_numpy()
    bad = missing if missing.any() else times.isna().to_numpy()
    if bad.any():
        line, cell = _cell(text, file, int(bad.argmax()), list(frame.columns).index(name))
        _fail(
            file, f"{cell!r} is not a date", "write it like the others, or set data.time_format", line=line, column=name
        )
    return pd.DatetimeIndex(times, name=name).tz_localize(None)


def _check_times(times: pd.Index, content: bytes, file: str, allow_gaps: bool) -> None:
    steps = np.diff(times.to_numpy())
    zero = steps.dtype.type(0)
    # months and leap years differ by less than half a step
    back, gaps = steps <= zero, steps > np.median(steps) * 1.5
    if not back.any() and (allow_gaps or not gaps.any()):
        return
    row = int((back if back.any() else gaps).argmax()) + 1
    before, line = (_record(decode(content, file).rstrip(), file, k)[0] for k in (row, row + 1))
    if not back.any():
        what = f"gap between {times[row - 1]} and {times[row]} ({gaps.sum()} in all)"
        remedy = "add the missing rows, or set data.allow_gaps to let windows run across"
    elif steps[row - 1] == zero:
        what, remedy = f"{times[row]} stands in line {before} already", "keep one row per time"
    else:
        what, remedy = f"{times[row]} comes after {times[row - 1]}", "sort the file by time"
    _fail(file, what, remedy, line=line, column=str(times.name))


def _cell(text: str, file: str, row: int, column: int) -> tuple[int, str]:
    """Line and content of a cell, the first part of it where it is long."""
    line, cells = _record(text, file, row + 1)
    cell = cells[column] if column < len(cells) else ""
    return line, cell if len(cell) <= 60 else f"{cell[:60]}..."


def _record(text: str, file: str, which: int, wider: int | None = None) -> tuple[int, list[str]]:
    """Line and cells of a row, which may be on several lines; of the last for -1, or of the first with more cells."""
    limit = csv.field_size_limit(len(text) + 1)
    reader, line, found = csv.reader(io.StringIO(text, newline="\n")), 1, (1, [""])
    try:
        for row, cells in enumerate(reader):
            found, line = (line, cells), reader.line_num + 1
            if row == which or (wider is not None and len(cells) > wider):
                break
        return found
    except csv.Error as error:
        what = "has a carriage return inside a row" if "new-line" in str(error) else f"is not a table ({error})"
        _fail(file, what, "remove it, or quote the cell", line=line)
    finally:
        csv.field_size_limit(limit)


def _fail(file: str, what: str, remedy: str, line: int | None = None, column: str | None = None) -> NoReturn:
    place = "".join([f", line {line}" if line else "", f", column {column!r}" if column else ""])
    raise DataError(f"{file}{place}: {what}; {remedy}")
