"""Panels from folders of parquet files, read one at a time into memory-mapped files."""

import ctypes
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.covariates import as_numbers
from seqmix.forecasting.frame import Reading, read_frame
from seqmix.forecasting.long import Long, named
from seqmix.mapped import Growing, mapped, row_blocks

# files, reading options and content of the folder that was read last
_LAST: list[Any] = []
# folders named as Hive and pandas do: unique_id=store_7
_PARTITION = re.compile(r"([^/=]+)=([^/=]+)")


def read_long(df: Any, how: Reading) -> Long:
    """Read and check a frame or a folder of parquet files."""
    long = read_folder(Path(df), how) if isinstance(df, str | Path) else read_frame(df, how)
    if all(np.isnan(long.y[rows]).all() for rows in row_blocks(len(long.y))):
        raise DataError(f"column {how.target_col!r} holds no value; give numbers, and NaN only where they are missing")
    return long


def read_folder(path: Path, how: Reading) -> Long:
    """Read all parquet files under ``path``, each with whole series, or one such file.

    What stays in memory is an id and two numbers of each series; rows are in mapped files, which are read again while
    the parquet files have not changed.

    Args:
        path: the folder; parts of paths like ``unique_id=store_7`` become columns.
        how: names and options of each file; without a frequency that of the first file is that of all.

    Raises:
        DataError: if there are no files, a series is in two of them, or a column holds numbers in one file and text in
            another.
    """
    files = _files(path)
    stamp = [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    if _LAST and _LAST[0] == stamp and how in _LAST[1]:
        return _LAST[2]
    release_memory()
    asked = how
    y, weight, present = Growing(np.float64), Growing(np.float64), Growing(np.bool_)
    columns: dict[str, _Covariate] = {}
    parts: list[Long] = []
    for file in files:
        try:
            part = read_frame(_frame(file, path), how)
            (parts or [part])[0].clock.check_zone(part.clock, "the file")
            columns = columns or {name: _Covariate() for name in part.columns}
            odd = set(part.columns) ^ set(columns)
            if odd:
                raise DataError(f"column {min(odd)!r} is in some files and not in others; add it to all")
            for name, column in columns.items():
                column.write(part.columns[name])
        except (ConfigError, DataError) as e:
            raise type(e)(f"{str(file)!r}: {e}") from e
        how = replace(how, freq=part.clock.freq)
        y.write(part.y)
        present.write(part.present)
        if part.weight is not None:
            weight.write(part.weight)
        parts.append(_without_rows(part))
        release_memory()
    ids = parts[0].ids.append([part.ids for part in parts[1:]])
    if ids.has_duplicates:
        twice = ids[ids.duplicated()].unique()
        raise DataError(f"{len(twice)} series are in more than one file: {named(list(twice))}; put each in one file")
    long = parts[0]._replace(
        ids=ids,
        indptr=np.r_[0, np.cumsum(np.concatenate([np.diff(part.indptr) for part in parts]))],
        first=np.concatenate([part.first for part in parts]),
        y=y.whole(),
        weight=weight.whole() if weight.size else None,
        # a copy would be in memory
        columns=pd.DataFrame({name: column.whole() for name, column in columns.items()}, range(y.size), copy=False),
        present=present.whole(),
    )
    # a fitted Forecaster asks for the frequency that was found
    _LAST[:] = stamp, [asked, how], long
    return long


def release_memory() -> None:
    """Give freed memory back to the system: pyarrow and glibc keep what they have used once."""
    import pyarrow

    pyarrow.default_memory_pool().release_unused()
    if sys.platform == "linux":
        # other C libraries than glibc have no such function
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


class _Covariate:
    """One column of all files: mapped numbers, NaN where missing, or mapped codes of its categories, -1 there."""

    def __init__(self) -> None:
        self.rows = Growing(np.float64)
        self.categories: pd.Index | None = None
        # whether numbers, and booleans, were among the values so far
        self.numbers = self.flags = False

    def write(self, column: pd.Series) -> None:
        """Append the rows of a file.

        Raises:
            DataError: if one of them holds numbers, and the other text.
        """
        numbers = as_numbers(column)
        flags = numbers is not None and pd.api.types.is_bool_dtype(numbers.dtype)
        text = numbers is None or (flags and self.categories is not None)
        if column.notna().any():
            if self.numbers if text else self.categories is not None:
                here, before = ("text", "numbers") if text else ("numbers", "text")
                raise DataError(
                    f"column {str(column.name)!r} holds {here}, and {before} in the files before; make it one type"
                )
            if text and self.categories is None:
                self._to_codes()
            self.numbers |= not text and not flags
            self.flags |= flags
        if self.categories is not None:
            self.rows.write(self._codes(column, self.categories))
        elif numbers is None:
            self.rows.write(np.full(len(column), np.nan))
        else:
            self.rows.write(numbers.to_numpy(dtype="float64", na_value=np.nan))

    def whole(self) -> Any:
        """The column, after the last file."""
        rows = self.rows.whole()
        if self.categories is None:
            return rows
        # of the type that pandas gives codes, which would be copied otherwise
        width = next(bits for bits in (8, 16, 32) if len(self.categories) < 2 ** (bits - 1))
        codes = mapped(rows.shape, f"int{width}")
        for part in row_blocks(len(rows)):
            codes[part] = rows[part]
        return pd.Categorical.from_codes(codes, self.categories)  # pyright: ignore[reportArgumentType]

    def _to_codes(self) -> None:
        """Turn the rows so far, True, False and missing, into codes."""
        before, size = self.rows, self.rows.size
        self.rows = Growing(np.int32)
        self.categories = pd.Index([False, True] if self.flags else [], dtype=object)
        rows = before.whole() if size else np.zeros(0)
        for part in row_blocks(size):
            self.rows.write(np.nan_to_num(rows[part], nan=-1))

    def _codes(self, column: pd.Series, known: pd.Index) -> np.ndarray:
        codes, values = pd.factorize(column)
        found = pd.Index(values.tolist(), dtype=object)
        self.categories = known.append(found[known.get_indexer(found) < 0])
        return np.r_[self.categories.get_indexer(found), -1][codes]


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"folder {str(path)!r} not found; give a DataFrame, or a folder of parquet files")
    # skip hidden files of the operating system
    files = [path] if path.suffix == ".parquet" and path.is_file() else sorted(path.rglob("[!.]*.parquet"))
    if not files:
        raise DataError(f"no .parquet file in {str(path)!r}; give a folder of parquet files, each with whole series")
    return files


def _frame(file: Path, path: Path) -> pd.DataFrame:
    try:
        # pandas would look at the folders above as well, and type the ids by itself
        frame = pd.read_parquet(file, partitioning=None)
    except (OSError, ValueError) as e:
        raise DataError(f"{str(file)!r} is not a parquet file ({e}); take it out of the folder") from e
    found = _PARTITION.findall(str(file.parent.relative_to(path))) if file != path else []
    return frame.assign(**{name: value for name, value in found if name not in frame})


def _without_rows(part: Long) -> Long:
    none = np.zeros(0)
    return part._replace(y=none, weight=None, columns=pd.DataFrame(), present=none)
