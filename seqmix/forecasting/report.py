"""Report on a frame before training."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seqmix.forecasting.covariates import learn
from seqmix.forecasting.frame import Reading, read_frame
from seqmix.forecasting.given_rows import static_rows
from seqmix.forecasting.kind import names_of
from seqmix.forecasting.long import named


class Report(NamedTuple):
    """Result of ``check_frame``; it prints as a table."""

    series: int
    rows: int
    freq: str | int
    shortest: int  # rows of the shortest series
    longest: int  # rows of the longest
    gaps: dict[Any, int]  # missing time steps, by id
    missing: dict[Any, int]  # rows without a value, by id
    constant: list[Any]  # ids of series that never change
    aligned: bool  # all series have the same time stamps
    incomplete: dict[str, int]  # rows without a value, by covariate
    others: list[str]  # columns that are not used

    def __repr__(self) -> str:
        lines = {
            "series": f"{self.series:,}{', same time stamps' if self.aligned and self.series > 1 else ''}",
            "rows": f"{self.rows:,}, {self.shortest:,} to {self.longest:,} in a series",
            "freq": self.freq,
            "gaps": _counts(self.gaps, "steps left out: fill_gaps=True inserts them as missing values"),
            "missing": _counts(self.missing, "values: they are left out of input and loss"),
            "constant": f"{len(self.constant)} series: {named(self.constant)}" if self.constant else "none",
            "covariates": _counts(self.incomplete, "values missing: numbers count as their mean"),
            "other columns": ", ".join(self.others) or "none",
        }
        return "\n".join(f"{name:14}{value}" for name, value in lines.items())


def check_frame(
    df: Any,
    freq: str | int | None = None,
    *,
    past_covariates: Sequence[str] = (),
    future_covariates: Sequence[str] = (),
    static_covariates: Sequence[str] = (),
    id_col: str = "unique_id",
    time_col: str = "ds",
    target_col: str = "y",
    weight_col: str | None = None,
) -> Report:
    """Check a long frame as ``Forecaster.fit`` does, with the same errors.

    Args:
        df: long frame; it is not modified.
        freq: step between rows. Default: inferred.
        past_covariates: columns known up to the last row.
        future_covariates: columns known for the horizon as well.
        static_covariates: columns that do not change within a series.
        id_col: column that names the series.
        time_col: column of dates or integers.
        target_col: column of the values.
        weight_col: column of sample weights. Default: none.

    Raises:
        DataError: if ``fit`` would refuse the frame, except for gaps, which are counted.
    """
    past, future, static = (names_of(names) for names in (past_covariates, future_covariates, static_covariates))
    how = Reading(id_col, time_col, target_col, weight_col, past, future, static, freq=freq, fill_gaps=True)
    long = read_frame(df, how)
    plain = np.asarray(long.present)
    learn(long.columns, plain)
    static_rows(long, static, None, id_col)
    lengths, begin = np.diff(long.indptr), long.indptr[:-1]
    left_out = np.add.reduceat(~plain, begin, dtype=int)
    missing = np.add.reduceat(np.isnan(long.y) & plain, begin, dtype=int)
    filled = pd.Series(long.y).groupby(np.repeat(np.arange(len(lengths)), lengths))
    constant = (filled.nunique() <= 1).to_numpy() & (lengths > 1)
    absent = long.columns[plain].isna().sum()
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
        incomplete={str(name): int(count) for name, count in absent.items() if count},
        others=long.ignored,
    )


def _by_id(ids: pd.Index, counts: np.ndarray) -> dict[Any, int]:
    return {ids[i]: int(counts[i]) for i in np.flatnonzero(counts)}


def _counts(counts: dict[Any, int], what: str) -> str:
    if not counts:
        return "none"
    return f"{sum(counts.values()):,} {what} ({named([f'{i} {n}' for i, n in counts.items()])})"
