"""From a checked frame to the arrays that windows are cut from."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix.data.series.panel import last_rows
from seqmix.forecasting.covariates import Inputs, calendar_rows, encode
from seqmix.forecasting.long import Long
from seqmix.series import Series


class Arrays(NamedTuple):
    """All series one after another, or, in multivariate mode, one series with a channel for each."""

    values: np.ndarray  # (T, C), NaN where missing
    indptr: np.ndarray  # (n + 1,)
    past: np.ndarray | None  # (T, P)
    future: np.ndarray | None  # (T, F)
    static: np.ndarray | None  # (n, C, S)
    weight: np.ndarray | None  # (T,)

    def series(self, context: int, horizon: int) -> Series:
        """The facts of their windows, for models."""
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
        """How far the nearest and the farthest value are from ``loc`` in units of the scale, each ``(N, C)``."""
        with np.errstate(over="ignore"):
            z = np.abs(self.values - self.loc[:, None]) / self.scale[:, None]
        absent = np.isnan(z)
        nearest = np.where(absent.all(1), 0.0, np.where(absent, np.inf, z).min(1))
        return nearest, np.where(absent, 0.0, z).max(1)

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
        """The windows one forecast later: ``yhat (N, horizon, C)`` stands for the observed values."""
        context = self.values.shape[1]
        values = np.concatenate([self.values, yhat], 1)[:, -context:]
        future = None if ahead is None else np.concatenate([_given(self.future), ahead], 1)[:, -context:]
        return self._replace(values=values, future=future)


def arrange(long: Long, inputs: Inputs, static: pd.DataFrame | None, *, joint: bool) -> Arrays:
    """The arrays of a checked frame.

    Args:
        long: the frame.
        inputs: how covariates become numbers.
        static: the static columns, one row for each series, in its order.
        joint: aligned series become channels of one series.
    """
    n, lengths = len(long.ids), np.diff(long.indptr)
    past, future = (encode(long.columns, codes, long.ids, joint=joint) for codes in (inputs.past, inputs.future))
    if inputs.calendar:
        # the dates of aligned series are those of the first
        first, steps = (long.first[:1], lengths[:1]) if joint else (long.first, lengths)
        at = np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps)
        dates = calendar_rows(long.clock, long.clock.after(np.repeat(first, steps), at))
        future = dates if future is None else np.concatenate([future, dates], 1)
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


def _given(rows: np.ndarray | None) -> np.ndarray:
    assert rows is not None
    return rows
