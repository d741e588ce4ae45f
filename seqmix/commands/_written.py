"""Tables as they were written in a file, with missing cells filled and missing rows inserted."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from seqmix.analysis import Imputer
from seqmix.commands._channels import ChannelTable
from seqmix.forecasting.cells import DATE_FORMATS, Cells, is_text

# further formats: dates without signs, weeks, and columns that are a time together
_FORMATS = (
    *("%Y%m%d%H%M%S", "%Y%m%d%H%M", "%Y%m%d%H", "%Y%m%d", "%Y%m", "%Y-%m", "%G-W%V"),
    *("%Y", "%m", "%d", "%H:%M", "%H:%M:%S", "%H"),
)
# number of times that show the format of a column
_SAMPLE = 200
_NULLABLE = {"i": "Int64", "u": "UInt64", "b": "boolean"}


def as_written(table: ChannelTable, frame: pd.DataFrame, filled: Any, found: Imputer) -> tuple[pd.DataFrame, list[str]]:
    """The rows of the file with missing cells filled in its own way of writing, and the columns of intervals; notes.

    A row that the imputer inserted has ids, time and values, and nothing in other columns.

    Args:
        table: the table.
        frame: its long frame, with the names of columns that the imputer was fitted with.
        filled: the long frame with missing values filled.
        found: the imputer.
    """
    at = _rows_of(frame, filled, found)
    inserted = at < 0
    rows: Any = table.rows
    notes: list[str] = []
    if inserted.any():
        types = {str(c): _NULLABLE[rows[c].dtype.kind] for c in rows if getattr(rows[c].dtype, "kind", "") in _NULLABLE}
        rows = rows.astype(types).reindex(np.where(inserted, len(rows), at)).reset_index(drop=True)
        # a row is inserted after one of the same series
        rows[table.roles.ids] = rows[table.roles.ids].ffill()
        times, notes = _times(table, rows, filled[found.columns_.time_col], inserted)
        rows = rows.assign(**times)
        rows = rows if table.file.style is None else rows.fillna("")
        rows = rows.astype({name: table.rows[name].dtype for name in types if rows[name].notna().all()})
    for own, name in zip(table.channels, found.channels_, strict=True):
        missing = np.flatnonzero(inserted | frame[name].isna().to_numpy()[at])
        if not len(missing):
            continue
        values = filled[name].to_numpy(float)[missing]
        if pd.api.types.is_numeric_dtype(rows[own].dtype):
            rows[own] = filled[name].astype(table.rows[own].dtype).to_numpy()
        else:
            rows.iloc[missing, rows.columns.get_loc(own)] = written(values, rows[own].drop(index=missing), table.cells)
    bounds: dict[str, Any] = {c: filled[c].to_numpy() for c in filled if "-lo-" in str(c) or "-hi-" in str(c)}
    return rows.assign(**bounds), notes


def written(values: np.ndarray, column: pd.Series, cells: Cells) -> list[str]:
    """Numbers as text like those of a column: its decimal sign, at most as many decimals, and a unit that all have."""
    sign, texts = cells.decimal_of(column), column.astype(str)
    digits = texts.str.extract(rf"{re.escape(sign)}(\d+)", expand=False).str.len().max()
    places = 0 if np.isnan(digits) else int(digits)
    units = texts.str.extract(r"^([^\d.,+(-]*).*?([^\d.,)]*)$").drop_duplicates()
    before, after = units.iloc[0] if len(units) == 1 else ("", "")
    return [f"{before}{value:.{places}f}{after}".replace(".", sign) for value in values]


def _rows_of(frame: pd.DataFrame, filled: pd.DataFrame, found: Imputer) -> np.ndarray:
    """Row of the file of each filled row, -1 for an inserted one."""
    if len(filled) == len(frame):
        return np.arange(len(frame))
    keys = [name for name in (found.columns_.id_col, found.columns_.time_col) if name in frame]
    both = filled[keys].merge(frame[keys].assign(**{"": np.arange(len(frame))}), on=keys, how="left")
    return both[""].fillna(-1).to_numpy(dtype=np.int64)


def _times(table: ChannelTable, rows: Any, times: Any, inserted: np.ndarray) -> tuple[dict[str, Any], list[str]]:
    """Columns of times with those of inserted rows, and notes."""
    names = table.roles.times
    if len(names) == 1 and not is_text(rows[names[0]]):
        return {names[0]: times}, []
    columns, notes = {}, []
    for name in names:
        text = _like(times[inserted], times[~inserted], rows[name].astype(str)[~inserted], table.cells.date_format)
        if text is None:
            text = times[inserted].astype(str)
            notes.append(f"column {name!r}: times of inserted rows are written as {text.iloc[0]}")
        columns[name] = pd.concat([rows[name][~inserted], text.astype(rows[name].dtype)]).sort_index()
    return columns, notes


def _like(times: Any, known: Any, cells: Any, form: str | None) -> pd.Series | None:
    """Times as text in the format in which ``cells`` are the ``known`` times; None where there is no such format."""
    some = np.unique(np.linspace(0, len(known) - 1, _SAMPLE).astype(int))
    wanted = cells.iloc[some].tolist()
    tried = _texts(known.iloc[some], form)
    position = next((i for i, text in enumerate(tried) if text.tolist() == wanted), None)
    return None if position is None else next(islice(_texts(times, form), position, None))


def _texts(times: pd.Series, form: str | None) -> Iterator[pd.Series]:
    """Times as text in all formats that are read."""
    yield times.astype(str)
    if pd.api.types.is_numeric_dtype(times.dtype):
        return
    stamps: Any = pd.DatetimeIndex(times)
    iso, quarter = pd.Index([stamp.isoformat() for stamp in stamps]), stamps.quarter.astype(str)
    texts = (
        *(stamps.strftime(each) for each in filter(None, (form, *DATE_FORMATS, *_FORMATS))),
        *(text.str.replace("+00:00", zone) for text in (iso, iso.str.replace("T", " ")) for zone in ("+00:00", "Z")),
        *(stamps.strftime("%Y") + sign + quarter for sign in ("Q", "-Q", " Q")),
        *(stamps.as_unit(unit).asi8.astype(str) for unit in ("s", "ms")),
    )
    for text in texts:
        padded = pd.Series(text, times.index)
        yield padded
        # 1.2.2026 09:05
        yield padded.str.replace(r"(^|[./-])0(?=\d)", r"\1", regex=True)
