"""Conversion of tables to long frames: column roles by option, by name or by content."""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from seqmix.errors import DataError
from seqmix.forecasting.cells import Cells, is_text
from seqmix.forecasting.clock import is_number
from seqmix.forecasting.long import named

#: names of columns in lower case that need no explanation
ID_NAMES = ("unique_id", "id", "item_id", "series", "series_id")
TIME_NAMES = ("ds", "date", "datetime", "timestamp", "time", "month", "week", "quarter", "year", "day", "step", "t")
_TARGETS = ("y", "target", "value", "sales")
# maximum number of trailing lines that are not rows: totals, sources
_MOST_FOOTERS = 5


class Roles(NamedTuple):
    """Roles of the columns of a table."""

    ids: list[str]  # columns that name the series together
    times: list[str]  # columns that are the time together
    target: str | None  # column of values
    series: list[str]  # columns of a wide table, each a series

    @property
    def id_col(self) -> str:
        """Column of the ids in the long frame."""
        return self.ids[0] if len(self.ids) == 1 else "unique_id"

    @property
    def time_col(self) -> str:
        """Column of the times in the long frame."""
        return self.times[0] if len(self.times) == 1 and not self.series else "ds"

    @property
    def target_col(self) -> str:
        """Column of the values in the long frame."""
        return self.target or "y"

    @property
    def columns(self) -> dict[str, str]:
        """Columns of ids, times and values in the long frame, as arguments of functions."""
        return {"id_col": self.id_col, "time_col": self.time_col, "target_col": self.target_col}


def find_roles(
    frame: pd.DataFrame,
    cells: Cells,
    *,
    id_col: str | None,
    time_col: str | None,
    target_col: str | None,
    covariates: Sequence[str],
) -> Roles:
    """Find the roles of the columns of a table.

    Args:
        frame: the table.
        cells: how its cells are written.
        id_col: columns that name the series, separated by commas. Default: found by name or content.
        time_col: columns of times, separated by commas. Default: found by name or content.
        target_col: column of values. Default: found by name or content.
        covariates: columns that are inputs.

    Raises:
        DataError: if a column cannot be found.
    """
    ids, times = split(id_col), split(time_col)
    check_columns(frame, [*ids, *times, *split(target_col), *covariates])
    kinds = {str(name): cells.kind(frame[name]) for name in frame}
    if "time" not in kinds.values():
        # totals and sources at the end are no times
        rows = frame.iloc[: max(1, len(frame) - _MOST_FOOTERS)]
        kinds |= {c: "time" for c, kind in kinds.items() if kind == "text" and cells.kind(rows[c]) == "time"}
    times = times or _time_columns(frame, kinds)
    taken = [*ids, *times, *covariates]
    numeric = [c for c, kind in kinds.items() if kind == "number" and c not in taken]
    ids = ids or _id_columns(frame, kinds, times, [*taken, *split(target_col)])
    numeric = [c for c in numeric if c not in ids]
    target = target_col or _pick(_TARGETS, numeric) or (numeric[0] if len(numeric) == 1 else None)
    if target is None and (ids or not numeric):
        # the cells are not numbers, which is reported when they are read
        target = _pick(_TARGETS, [c for c in kinds if c not in [*taken, *ids]])
    if target is None and (ids or not numeric):
        raise DataError(f"no column to take for --target_col among {_listed(frame)}; name it")
    return Roles(ids, times, target, [] if target else numeric)


def long_frame(
    frame: pd.DataFrame, cells: Cells, roles: Roles, covariates: Sequence[str], *, values: bool = True
) -> tuple[pd.DataFrame, list[str]]:
    """Convert a table to a long frame of ids, times, values and covariates; also returns notes on omitted rows.

    Args:
        frame: the table.
        cells: how its cells are written.
        roles: roles of its columns.
        covariates: columns that are inputs.
        values: the table holds values; tables of known-future covariates do not.

    Raises:
        DataError: if cells cannot be read.
    """
    frame, times, notes = _with_times(frame, cells, roles)
    columns: dict[str, Any] = {}
    if roles.ids and set(roles.ids) <= set(frame):
        parts = [_as_text(frame[name]) for name in roles.ids]
        columns[roles.id_col] = parts[0] if len(parts) == 1 else parts[0].str.cat(parts[1:], sep="/")
        if columns[roles.id_col].nunique(dropna=False) < len(pd.concat(parts, axis=1).drop_duplicates()):
            raise DataError(f"ids of {', '.join(roles.ids)} joined by '/' are not unique; write '/' in them otherwise")
    columns[roles.time_col] = times
    if values and roles.target:
        columns[roles.target] = _numbers(frame[roles.target], cells)
    for name in covariates:
        found = cells.numbers(frame[name]) if cells.kind(frame[name]) == "number" else None
        columns[name] = frame[name].mask(frame[name].eq("")) if found is None else found
    long = pd.DataFrame(columns).reset_index(drop=True)
    if not values or not roles.series:
        return long, notes
    wide = {name: _numbers(frame[name], cells).to_numpy() for name in roles.series}
    notes.append(f"each column of numbers is a series: {named(roles.series)}; --target_col takes one alone")
    each = [long.assign(**{roles.id_col: name, roles.target_col: column}) for name, column in wide.items()]
    order = [roles.id_col, roles.time_col, roles.target_col, *covariates]
    return pd.concat(each, ignore_index=True).reindex(columns=order), notes


def with_id_columns(forecasts: pd.DataFrame, table: pd.DataFrame, roles: Roles) -> pd.DataFrame:
    """Forecasts with the columns that the ids were made of."""
    if len(roles.ids) < 2:
        return forecasts
    parts = pd.DataFrame({name: _as_text(table[name]) for name in roles.ids}).drop_duplicates()
    parts[roles.id_col] = parts[roles.ids[0]].str.cat([parts[name] for name in roles.ids[1:]], sep="/")
    rows = forecasts.merge(parts, on=roles.id_col, how="left", sort=False)
    return rows.reindex(columns=[*roles.ids, *forecasts.columns.drop(roles.id_col)])


def check_columns(frame: pd.DataFrame, names: Sequence[str], option: str = "") -> None:
    """Refuse a name that is no column.

    Raises:
        DataError: with the columns that there are.
    """
    for name in names:
        if name not in frame:
            near = difflib.get_close_matches(name, _listed(frame), 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(f"{option}column {name!r} not found; {hint}columns are {_listed(frame)}")


def split(names: str | None) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def _time_columns(frame: pd.DataFrame, kinds: dict[str, str]) -> list[str]:
    lower = {str(name).lower(): str(name) for name in frame}
    if {"year", "month"} <= set(lower) and kinds[lower["month"]] != "time":
        return [lower[part] for part in ("year", "month", "day") if part in lower]
    if {"date", "time"} <= set(lower) and frame[lower["time"]].astype(str).str.match(r"\d{1,2}:\d{2}").all():
        return [lower["date"], lower["time"]]
    if {"date", "hour"} <= set(lower) and kinds[lower["hour"]] == "number":
        return [lower["date"], lower["hour"]]
    dated = [c for c, kind in kinds.items() if kind == "time"]
    found = _pick(TIME_NAMES, dated) or _pick(TIME_NAMES, list(kinds)) or next(iter(dated), None)
    if found is None:
        raise DataError(f"no column to take for --time_col among {_listed(frame)}; name it")
    return [found]


def _id_columns(frame: pd.DataFrame, kinds: dict[str, str], times: list[str], taken: Sequence[str]) -> list[str]:
    """The columns that tell series apart: known by name, else as few as are needed for one row at each time."""
    # a column of values that holds text is wrong, and no name of series
    free = [c for c in kinds if c not in taken and c.lower() not in _TARGETS]
    known = _pick(ID_NAMES, free)
    if known:
        return [known]
    texts = [c for c in free if kinds[c] == "text"]
    if not frame[times].duplicated().any():
        return [c for c in texts if frame[c].nunique() == 1][:1]
    # integers that repeat are ids of series
    counts = [c for c in free if kinds[c] == "number" and frame[c].nunique() < len(frame) / 3]
    counts = [c for c in counts if frame[c].astype(str).str.fullmatch(r"\d+").all()]
    pool = [*texts, *counts]
    enough = (k for k in range(1, len(pool) + 1) if not frame.duplicated([*pool[:k], *times]).any())
    return pool[: next(enough, 1)]


def _with_times(frame: pd.DataFrame, cells: Cells, roles: Roles) -> tuple[pd.DataFrame, pd.Series, list[str]]:
    """The rows of the table, their times, and a note of lines at the end that are no rows."""
    column = _joined([frame[name] for name in roles.times], cells)
    for last in range(min(_MOST_FOOTERS, len(column) - 1) + 1):
        times = cells.times(column.iloc[: len(column) - last])
        if times is None:
            continue
        notes = []
        if last:
            line = " ".join(str(cell) for cell in frame.iloc[-last] if str(cell))
            notes = [f"{last} line{'s' * (last > 1)} at the end without a time ignored, first: {line[:60]!r}"]
        return frame.iloc[: len(times)], times, notes
    wrong = (cell for i, cell in enumerate(column.head(2000)) if cells.times(column.iloc[[i]]) is None)
    what = f"is not written as {cells.date_format!r}" if cells.date_format else "is not a date that is recognized"
    raise DataError(
        f"column {str(column.name)!r} holds {next(wrong, column.iloc[0])!r}, which {what}; "
        "pass --date_format, for example %d.%m.%Y"
    )


def _joined(columns: list[pd.Series], cells: Cells) -> pd.Series:
    """Columns that are a time together as one: date and time of day, date and hour, or year, month and day."""
    if len(columns) == 1:
        return columns[0]
    first, *rest = (column.astype(str).str.strip() for column in columns)
    name = ", ".join(str(column.name) for column in columns)
    if rest[0].str.match(r"\d{1,2}:\d{2}").all():
        return first.str.cat(rest, " ").rename(name)
    days = cells.times(first)
    if days is not None and not is_number(days.dtype) and rest[0].str.fullmatch(r"\d{1,2}").all():
        # hours from 0 to 23, or from 1 to 24
        return (days + pd.to_timedelta(rest[0].astype(int), unit="h")).rename(name)
    return first.str.cat([part.str.zfill(2) for part in rest], "-").rename(name)


def _numbers(column: pd.Series, cells: Cells) -> pd.Series:
    found = cells.numbers(column)
    if found is None:
        wrong = cells.first_wrong(column)
        raise DataError(
            f"column {str(column.name)!r} holds {f'{wrong!r}, which is not a number' if wrong else 'no numbers'}; "
            "pass --na, --decimal or --thousands, or name another --target_col"
        )
    return found


def _as_text(column: pd.Series) -> pd.Series:
    """Ids as they are written; an empty cell stays missing."""
    if is_text(column):
        return column.mask(column.eq(""))
    if pd.api.types.is_float_dtype(column.dtype) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    return column.astype("str").mask(column.isna())


def _pick(names: Sequence[str], columns: Sequence[str]) -> str | None:
    lower = {str(c).lower(): str(c) for c in columns}
    return next((lower[name] for name in names if name in lower), None)


def _listed(frame: pd.DataFrame) -> list[str]:
    return [str(c) for c in frame]
