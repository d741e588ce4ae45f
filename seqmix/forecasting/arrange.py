"""Conversion of a checked frame to the arrays that windows are cut from."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix.data.series.panel import last_rows
from seqmix.forecasting.covariates import Inputs, calendar_rows, encode
from seqmix.forecasting.long import Long
from seqmix.mapped import BLOCK, like, series_blocks
from seqmix.series import Series


class Arrays(NamedTuple):
    """Arrays of all series, concatenated in time, or, in multivariate mode, as channels of one series."""

    values: np.ndarray  # (T, C), NaN where missing
    indptr: np.ndarray  # (n + 1,)
    past: np.ndarray | None  # (T, P)
    future: np.ndarray | None  # (T, F)
    static: np.ndarray | None  # (n, C, S)
    weight: np.ndarray | None  # (T,)

    def series(self, context: int, horizon: int) -> Series:
        """Sizes of the windows, for models."""
        given = {"n_past": self.past, "n_future": self.future, "n_static": self.static}
        sizes = {name: rows.shape[-1] for name, rows in given.items() if rows is not None}
        return Series(self.values.shape[1], context, horizon, **sizes)


class Ends(NamedTuple):
    """The windows that forecasts are made from, before scaling."""

    values: np.ndarray  # (N, context, C), NaN where missing
    past: np.ndarray | None  # (N, context, P)
    future: np.ndarray | None  # (N, context, F)
    static: np.ndarray | None  # (N, C, S)
    loc: np.ndarray  # (N, C)
    scale: np.ndarray  # (N, C)

    @property
    def distances(self) -> tuple[np.ndarray, np.ndarray]:
        """Distance of the nearest and the farthest value from ``loc`` in units of the scale, each ``(N, C)``."""
        N, context, C = self.values.shape
        nearest, farthest, size = np.empty((N, C)), np.empty((N, C)), max(1, BLOCK // (context * C))
        for cut in (slice(a, a + size) for a in range(0, N, size)):
            with np.errstate(over="ignore"):
                z = np.abs(self.values[cut] - self.loc[cut, None]) / self.scale[cut, None]
            absent = np.isnan(z)
            nearest[cut] = np.where(absent.all(1), 0.0, np.where(absent, np.inf, z).min(1))
            farthest[cut] = np.where(absent, 0.0, z).max(1)
        return nearest, farthest

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

    def tail(self, context: int) -> "Ends":
        """The last ``context`` rows of each window."""
        rows = {name: getattr(self, name) for name in ("values", "past", "future")}
        return self._replace(**{name: x[:, -context:] for name, x in rows.items() if x is not None})

    def moved(self, yhat: np.ndarray, ahead: np.ndarray | None) -> "Ends":
        """The windows shifted by one horizon: forecasts ``yhat (N, horizon, C)`` take the place of observed values."""
        context = self.values.shape[1]
        values = np.concatenate([self.values, yhat], 1)[:, -context:]
        future = None if ahead is None else np.concatenate([_given(self.future), ahead], 1)[:, -context:]
        return self._replace(values=values, future=future)


def arrange(long: Long, inputs: Inputs, static: pd.DataFrame | None, *, joint: bool) -> Arrays:
    """Convert a checked frame to arrays.

    Args:
        long: the frame.
        inputs: how covariates become numbers.
        static: the static columns, one row for each series, in its order.
        joint: use aligned series as channels of one series.
    """
    n = len(long.ids)
    past, future = (
        encode(long.columns, codes, long.ids, joint=joint, near=long.y) for codes in (inputs.past, inputs.future)
    )
    if inputs.calendar:
        # the dates of aligned series are those of the first
        dates = _dates(long, 1 if joint else n)
        future = dates if future is None else _beside(future, dates)
    fixed = None if static is None else encode(static, inputs.static, long.ids, joint=False)
    fixed = None if fixed is None else fixed[:, None]  # (n, 1, S)
    values, weight = long.y[:, None], long.weight
    if not joint:
        return Arrays(values, long.indptr, past, future, fixed, weight)
    return Arrays(
        values=values.reshape(n, -1).T,
        indptr=np.array([0, len(values) // n]),
        past=past,
        future=future,
        static=None if fixed is None else fixed.transpose(1, 0, 2),
        weight=None if weight is None else weight.reshape(n, -1).mean(0),
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


def _dates(long: Long, n: int) -> np.ndarray:
    """Features of the calendar for each row of the first ``n`` series, ``(T, F)``."""
    found = np.zeros((0, 0))
    for a, b in series_blocks(long.indptr[: n + 1]):
        begin, lengths = long.indptr[a:b], np.diff(long.indptr[a : b + 1])
        at = np.arange(begin[0], long.indptr[b]) - np.repeat(begin, lengths)
        rows = calendar_rows(long.clock, long.clock.after(np.repeat(long.first[a:b], lengths), at))
        found = found if a else like(long.y, (rows.shape[1], int(long.indptr[n])), np.float32)
        found[:, begin[0] : long.indptr[b]] = rows.T
    return found.T


def _beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two arrays ``(T, F)`` as one."""
    found = like(left, (left.shape[1] + right.shape[1], len(left)), np.float32).T
    found[:, : left.shape[1]], found[:, left.shape[1] :] = left, right
    return found


def _given(rows: np.ndarray | None) -> np.ndarray:
    assert rows is not None
    return rows
