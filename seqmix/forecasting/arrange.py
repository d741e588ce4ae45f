"""Checked frames as the arrays that windows are cut from: one row of channels for each step, covariates beside them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix.data.series.calendar import calendar_features, calendar_names
from seqmix.data.series.panel import last_rows
from seqmix.errors import ConfigError, DataError, check_choice
from seqmix.forecasting.clock import Clock
from seqmix.forecasting.covariates import Code, encode
from seqmix.forecasting.long import Long, named


class Arrays(NamedTuple):
    """Series one after another, or, where they are forecast together, one series with a channel for each."""

    values: np.ndarray  # (T, C), NaN where missing
    indptr: np.ndarray  # (n + 1,)
    past: np.ndarray | None  # (T, P)
    future: np.ndarray | None  # (T, F)
    static: np.ndarray | None  # (n, C, S)
    weight: np.ndarray | None  # (T,)


class Ends(NamedTuple):
    """The last rows of windows, from which forecasts begin: what a model sees, before scaling."""

    values: np.ndarray  # (N, context, C), NaN where missing
    past: np.ndarray | None  # (N, context, P)
    future: np.ndarray | None  # (N, context, F)
    static: np.ndarray | None  # (N, C, S)
    loc: np.ndarray  # (N, C)
    scale: np.ndarray  # (N, C)

    def batches(self, ahead: np.ndarray | None, size: int) -> Iterator[dict[str, Tensor]]:
        """Scaled batches; ``ahead`` are the known-future inputs of the horizon, ``(N, horizon, F)``."""
        for start in range(0, len(self.values), size):
            cut = slice(start, start + size)
            absent = np.isnan(self.values[cut])
            x = (self.values[cut] - self.loc[cut, None]) / self.scale[cut, None]
            batch = {"x": np.where(absent, 0.0, x)}
            batch["y"] = np.zeros_like(batch["x"][:, :0])
            if absent.any():
                batch["x_mask"] = ~absent
            if self.past is not None:
                batch["past"] = np.nan_to_num(self.past[cut])
            if self.future is not None and ahead is not None:
                batch["future"] = np.concatenate([np.nan_to_num(self.future[cut]), ahead[cut]], 1)
            if self.static is not None:
                batch["static"] = self.static[cut]
            yield {
                name: torch.from_numpy(rows if rows.dtype == bool else rows.astype(np.float32))
                for name, rows in batch.items()
            }

    def moved(self, yhat: np.ndarray, ahead: np.ndarray | None) -> "Ends":
        """The windows a forecast later: ``yhat (N, horizon, C)`` taken for what was observed."""
        context = self.values.shape[1]
        values = np.concatenate([self.values, yhat], 1)[:, -context:]
        future = None if ahead is None else np.concatenate([_given(self.future), ahead], 1)[:, -context:]
        return self._replace(values=values, future=future)


def arrange(
    long: Long,
    *,
    joint: bool,
    static: pd.DataFrame | None,
    codes: Mapping[str, Sequence[Code]],
    calendar: bool,
) -> Arrays:
    """The arrays of a checked frame.

    Args:
        long: the frame.
        joint: aligned series become channels of one series.
        static: the static columns, one row for each series, in its order.
        codes: how the columns become numbers, under ``past``, ``future``, ``static``.
        calendar: put features of the calendar among the known-future inputs.
    """
    past = encode(long.columns, codes["past"]) if codes["past"] else None
    future = encode(long.columns, codes["future"]) if codes["future"] else None
    if calendar:
        steps = np.arange(len(long.y)) - np.repeat(long.indptr[:-1], np.diff(long.indptr))
        stamps = long.clock.after(np.repeat(long.first, np.diff(long.indptr)), steps)
        dates = calendar_rows(long.clock, stamps)
        future = dates if future is None else np.concatenate([future, dates], 1)
    fixed = encode(static, codes["static"])[:, None] if static is not None and codes["static"] else None  # (n, 1, S)
    values = long.y[:, None]
    if not joint:
        return Arrays(values, long.indptr, past, future, fixed, long.weight)
    C = len(long.ids)
    weight = None if long.weight is None else long.weight.reshape(C, -1).mean(0)
    return Arrays(
        values=values.reshape(C, -1).T,
        indptr=np.array([0, len(values) // C]),
        past=_shared(past, C),
        future=_shared(future, C),
        static=None if fixed is None else fixed.transpose(1, 0, 2),
        weight=weight,
    )


def ends(arrays: Arrays, series: np.ndarray, end: np.ndarray, context: int, loc: np.ndarray, scale: np.ndarray) -> Ends:
    """The ``context`` rows before row ``end`` of each of the ``series``, both ``(N,)``; rows count over all series."""
    begin = arrays.indptr[series]
    return Ends(
        values=last_rows(arrays.values, begin, end, context),
        past=None if arrays.past is None else last_rows(arrays.past, begin, end, context),
        future=None if arrays.future is None else last_rows(arrays.future, begin, end, context),
        static=None if arrays.static is None else arrays.static[series],
        loc=loc[series],
        scale=scale[series],
    )


def together(long: Long, mode: str, mixes: bool) -> bool:
    """Whether the series are forecast together, as channels.

    Raises:
        DataError: if they should be, and have not the same time stamps.
    """
    check_choice("mode", mode, ("auto", "global", "multivariate"))
    if mode == "multivariate" and not long.aligned:
        lengths = np.diff(long.indptr)
        odd = np.flatnonzero((lengths != lengths[0]) | (long.first != long.first[0]))
        raise DataError(
            f"mode='multivariate' needs series with the same time stamps; {len(odd)} of {len(long.ids)} differ from "
            f"{long.ids[0]!r}, first: {long.ids[odd[0]]!r}. Cut them to a common span, or use mode='global'"
        )
    return mode == "multivariate" or (mode == "auto" and mixes and len(long.ids) > 1 and long.aligned)


def calendar_rows(clock: Clock, stamps: np.ndarray) -> np.ndarray:
    """Features of the calendar for each stamp, float32 ``(T, F)``.

    Raises:
        ConfigError: if time is counted in integers, or steps are years.
    """
    names = [] if clock.numbered else calendar_names(clock.span / 3.6e12)
    if not names:
        raise ConfigError(f"calendar=True needs dates less than a year apart, freq is {clock.freq!r}; leave it out")
    index = clock.column(stamps)
    return calendar_features(pd.DatetimeIndex(index), names).T.astype(np.float32)


def static_rows(long: Long, names: Sequence[str], static_df: pd.DataFrame | None, id_col: str) -> pd.DataFrame | None:
    """The static columns, one row for each series in its order, from a frame of their own or from the long one.

    Raises:
        DataError: if a column or an id is not there, or a column changes within a series.
    """
    if not names:
        return None
    if static_df is None:
        codes = np.repeat(np.arange(len(long.ids)), np.diff(long.indptr))
        groups = long.columns[list(names)].groupby(codes)
        changing = groups.nunique() > 1
        if changing.to_numpy().any():
            name = str(changing.any().idxmax())
            raise DataError(
                f"static column {name!r} changes within {int(changing[name].sum())} series, first: "
                f"{long.ids[int(changing[name].idxmax())]!r}; make it a past or future covariate"
            )
        return pd.DataFrame(groups.first())
    absent = [name for name in (id_col, *names) if name not in static_df]
    if absent:
        raise DataError(f"column {absent[0]!r} not found in static_df; columns are {[str(c) for c in static_df]}")
    found = static_df.drop_duplicates(id_col).set_index(id_col)[list(names)]
    unknown = long.ids[~long.ids.isin(found.index)]
    if len(unknown):
        raise DataError(f"static_df has no row for {len(unknown)} series: {named(list(unknown))}; add one for each")
    return found.loc[long.ids].reset_index(drop=True)


def merge_shared(rows: np.ndarray, C: int, width: int) -> np.ndarray:
    """Covariates of C aligned series as those of one, ``width`` of them: of any where all share, else side by side."""
    each: Any = rows.reshape(C, len(rows) // C, -1)
    return each[0] if each.shape[2] == width else np.concatenate(list(each), 1)


def _shared(rows: np.ndarray | None, C: int) -> np.ndarray | None:
    if rows is None:
        return None
    each = rows.reshape(C, len(rows) // C, -1)
    width = each.shape[2]
    return merge_shared(rows, C, width if (each == each[:1]).all() else width * C)


def _given(rows: np.ndarray | None) -> np.ndarray:
    assert rows is not None
    return rows
