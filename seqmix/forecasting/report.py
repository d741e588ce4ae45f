"""What is in a frame, before anything is trained on it."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seqmix.forecasting.frame import Reading, read_frame
from seqmix.forecasting.long import named


class Report(NamedTuple):
    """What ``check_frame`` found; it prints as a table."""

    series: int
    rows: int
    freq: str | int
    shortest: int  # rows of the shortest series
    longest: int  # rows of the longest
    gaps: dict[Any, int]  # steps that are left out, by id
    missing: dict[Any, int]  # rows without a value, by id
    constant: list[Any]  # ids of series that never change
    aligned: bool  # all series have the same time stamps
    covariates: list[str]  # columns that are neither id, time nor target

    def __repr__(self) -> str:
        lines = {
            "series": f"{self.series:,}{', same time stamps' if self.aligned and self.series > 1 else ''}",
            "rows": f"{self.rows:,}, {self.shortest:,} to {self.longest:,} in a series",
            "freq": self.freq,
            "gaps": _counts(self.gaps, "steps left out: fill_gaps=True takes them for missing values"),
            "missing": _counts(self.missing, "values: they are left out of input and loss"),
            "constant": f"{len(self.constant)} series: {named(self.constant)}" if self.constant else "none",
            "other columns": ", ".join(self.covariates) or "none",
        }
        return "\n".join(f"{name:14}{value}" for name, value in lines.items())


def check_frame(
    df: Any, freq: str | int | None = None, *, id_col: str = "unique_id", time_col: str = "ds", target_col: str = "y"
) -> Report:
    """Look at a long frame as ``Forecaster.fit`` will: what it refuses raises the same error here.

    Args:
        df: long frame; it is not touched.
        freq: step between rows; None infers it.
        id_col: column that names the series.
        time_col: column of dates or integers.
        target_col: column of the values.

    Raises:
        DataError: for whatever is wrong, gaps excepted: those are counted.
    """
    long = read_frame(df, Reading(id_col, time_col, target_col, freq=freq, fill_gaps=True))
    plain = np.asarray(long.present)
    lengths, begin = np.diff(long.indptr), long.indptr[:-1]
    left_out = np.add.reduceat(~plain, begin, dtype=int)
    missing = np.add.reduceat(np.isnan(long.y) & plain, begin, dtype=int)
    filled = pd.Series(long.y).groupby(np.repeat(np.arange(len(lengths)), lengths))
    constant = (filled.nunique() <= 1).to_numpy() & (lengths > 1)
    return Report(
        series=len(long.ids),
        rows=int(plain.sum()),
        freq=long.clock.freq,
        shortest=int(lengths.min()),
        longest=int(lengths.max()),
        gaps=_by_id(long.ids, left_out),
        missing=_by_id(long.ids, missing),
        constant=long.ids[constant].tolist(),
        aligned=long.aligned,
        covariates=long.ignored,
    )


def _by_id(ids: pd.Index, counts: np.ndarray) -> dict[Any, int]:
    return {ids[i]: int(counts[i]) for i in np.flatnonzero(counts)}


def _counts(counts: dict[Any, int], what: str) -> str:
    if not counts:
        return "none"
    return f"{sum(counts.values()):,} {what} ({named([f'{i} {n}' for i, n in counts.items()])})"
