"""A folder of parquet files as one panel: files are read one at a time, values lie in a mapped file, not in memory."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.frame import Reading, read_frame
from seqmix.forecasting.long import Long, named

# folders named as Hive and pandas do: unique_id=store_7
_PARTITION = re.compile(r"([^/=]+)=([^/=]+)")


def read_long(df: Any, how: Reading) -> Long:
    """A frame, or a folder of them, checked."""
    long = read_folder(Path(df), how) if isinstance(df, str | Path) else read_frame(df, how)
    if np.isnan(long.y).all():
        raise DataError(f"column {how.target_col!r} holds no value; give numbers, and NaN only where they are missing")
    return long


def read_folder(path: Path, how: Reading) -> Long:
    """All parquet files under the folder ``path``, each with whole series, or one such file.

    What stays in memory is an id, two numbers and the covariates of each series; the values are in a file of the
    system's temporary folder that ends with the process.

    Args:
        path: the folder; parts of paths like ``unique_id=store_7`` become columns.
        how: names and options of each file; without a frequency that of the first file is that of all.

    Raises:
        DataError: if there are no files, or a series is in two of them.
    """
    if not path.exists():
        raise DataError(f"folder {str(path)!r} not found; give a DataFrame, or a folder of parquet files")
    # systems leave hidden files beside others
    files = [path] if path.suffix == ".parquet" and path.is_file() else sorted(path.rglob("[!.]*.parquet"))
    if not files:
        raise DataError(f"no .parquet file in {str(path)!r}; give a folder of parquet files, each with whole series")
    parts: list[Long] = []
    with _temporary() as values:
        for file in files:
            try:
                part = read_frame(_frame(file, path), how)
                (parts or [part])[0].clock.check_zone(part.clock, "the file")
            except (ConfigError, DataError) as e:
                raise type(e)(f"{str(file)!r}: {e}") from e
            how = replace(how, freq=part.clock.freq)
            values.write(part.y.tobytes())
            parts.append(part._replace(y=np.zeros(0), present=np.zeros(0, bool)))
        values.flush()
        total = values.tell() // 8
        y = np.memmap(values, np.float64, "r+", shape=(total,))
    ids = parts[0].ids.append([part.ids for part in parts[1:]])
    if ids.has_duplicates:
        twice = ids[ids.duplicated()].unique()
        raise DataError(f"{len(twice)} series are in more than one file: {named(list(twice))}; put each in one file")
    weights = [part.weight for part in parts]
    return parts[0]._replace(
        ids=ids,
        indptr=np.r_[0, np.cumsum(np.concatenate([np.diff(part.indptr) for part in parts]))],
        first=np.concatenate([part.first for part in parts]),
        y=y,
        weight=None if weights[0] is None else np.concatenate([w for w in weights if w is not None]),
        columns=pd.concat([part.columns for part in parts], ignore_index=True),
        present=~np.isnan(y),
    )


def mapped(shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array in a file of the system's temporary folder, which ends with it."""
    with _temporary() as file:
        return np.memmap(file, np.float32, "w+", shape=shape)


@contextmanager
def _temporary() -> Iterator[Any]:
    try:
        with tempfile.TemporaryFile() as file:
            yield file
    except OSError as e:
        raise DataError(f"no room in a temporary folder ({e.strerror or e}); set TMPDIR to a folder with room") from e


def _frame(file: Path, path: Path) -> pd.DataFrame:
    try:
        # pandas would look at the folders above as well, and type the ids by itself
        frame = pd.read_parquet(file, partitioning=None)
    except (OSError, ValueError) as e:
        raise DataError(f"{str(file)!r} is no parquet file ({e}); take it out of the folder") from e
    found = _PARTITION.findall(str(file.parent.relative_to(path))) if file != path else []
    return frame.assign(**{name: value for name, value in found if name not in frame})
