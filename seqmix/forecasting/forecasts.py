"""Forecasts of a fitted Forecaster as frames: after the last rows, and after every cutoff of a test."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from seqmix.data.series.panel import scaling
from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.ahead import ahead
from seqmix.forecasting.arrange import Arrays, Ends, arrange, ends, static_rows
from seqmix.forecasting.fitting import SPREAD, Fitted, bounds, calibrated, scaler_of
from seqmix.forecasting.frame import stamped
from seqmix.forecasting.intervals import conformal_bounds, cqr_bounds, nest
from seqmix.forecasting.long import Long, head, named, same_series
from seqmix.forecasting.training import EVAL_BATCH, forecast

if TYPE_CHECKING:
    from seqmix.forecasting.forecaster import Forecaster


def predict(
    fc: Forecaster,
    fitted: Fitted,
    long: Long | None,
    static: pd.DataFrame | None,
    future: pd.DataFrame | None,
    horizon: int,
    levels: Sequence[float],
    quantiles: Sequence[float],
) -> pd.DataFrame:
    """Forecasts after the last rows of ``long``, or of the frame of the fit; one row for each series and step."""
    ids, last, start = fitted.ids, fitted.last, fitted.ends
    if long is not None:
        long = same_series(long, fitted.ids) if fitted.joint else long
        ids, last, start = long.ids, long.last, _last_windows(fc, fitted, long, static)
    known = ahead(fc, fitted, ids, last, horizon, future)
    frame = stamped(fitted.reading, fitted.clock, ids, last, horizon)
    found = _columns(fc, fitted, start, known, horizon, levels, quantiles)
    return frame.assign(**{name: _by_series(rows, fitted.joint, 1).ravel() for name, rows in found.items()})


def backtest(
    fc: Forecaster,
    fitted: Fitted,
    long: Long,
    static: pd.DataFrame | None,
    rows: np.ndarray,
    levels: Sequence[float],
    quantiles: Sequence[float],
) -> pd.DataFrame:
    """Forecasts from cutoffs ``rows`` ``(K,)`` before the end of each series, with ``cutoff`` and the truth."""
    long = same_series(long, fitted.ids) if fitted.joint else long
    arrays, H, K = _arrays(fc, fitted, long, static), fc.horizon, len(rows)
    n = len(arrays.indptr) - 1
    series = np.repeat(np.arange(n), K)
    end = arrays.indptr[1:][series] - np.tile(rows, n)  # (n K,)
    known = None if arrays.future is None else arrays.future[end[:, None] + np.arange(H)]  # (n K, H, F)
    start = ends(arrays, series, end, fitted.context, *_scales(fc, fitted, long, arrays))
    found = _columns(fc, fitted, start, known, H, levels, quantiles)
    last = long.indptr[1:, None] - rows  # (ids, K)
    cutoff = long.clock.after(long.first[:, None], np.diff(long.indptr)[:, None] - rows - 1).ravel()
    frame = stamped(fitted.reading, fitted.clock, long.ids.repeat(K), cutoff, H)
    frame["cutoff"] = long.clock.column(np.repeat(cutoff, H))
    frame[fitted.reading.target_col] = long.y[last[..., None] + np.arange(H)].ravel()
    return frame.assign(**{name: _by_series(x, fitted.joint, K).ravel() for name, x in found.items()})


def cross_validate(
    fc: Forecaster,
    learn: Callable[[Long], tuple[Forecaster, Fitted]],
    long: Long,
    static: pd.DataFrame | None,
    levels: Sequence[float],
    quantiles: Sequence[float],
    step: int,
    n_windows: int,
    refit: int,
) -> pd.DataFrame:
    """Forecasts of the end of each series by what ``learn`` makes of the rows before; series by series.

    ``n_windows`` cutoffs are ``step`` rows apart; it learns at the first, and with ``refit`` at every so many.
    """
    before = fc.horizon + step * (n_windows - 1)  # rows after the first cutoff
    every = refit or n_windows
    parts = []
    for first in range(0, n_windows, every):
        rows = before - step * np.arange(first, min(first + every, n_windows))  # after each cutoff
        fold, fitted = learn(head(long, np.diff(long.indptr) - rows[0]))
        parts.append(backtest(fold, fitted, long, static, rows, levels, quantiles))
    frame = pd.concat(parts, ignore_index=True)
    if len(parts) == 1:
        return frame
    order = np.argsort(long.ids.get_indexer(pd.Index(frame[fitted.reading.id_col])), kind="stable")
    return frame.iloc[order].reset_index(drop=True)


def check_horizon(fc: Forecaster, horizon: int, levels: Sequence[float], quantiles: Sequence[float]) -> None:
    """Refuse a horizon that cannot be forecast, and warn of one beyond the fitted.

    Raises:
        ConfigError: if it is not positive, or intervals or past covariates stop before it.
    """
    if horizon < 1:
        raise ConfigError(f"horizon must be >= 1, got {horizon}")
    lacking = sorted(set(levels) - set(calibrated(fc)))
    if fc.conformal and fc.loss in SPREAD and lacking:
        raise ConfigError(
            f"levels {lacking} were not calibrated, {calibrated(fc)} were; fit with levels={sorted(levels)}"
        )
    if horizon <= fc.horizon:
        return
    if levels or quantiles:
        raise ConfigError(
            f"intervals are known up to the fitted horizon {fc.horizon}, got {horizon}; fit with that horizon"
        )
    if fc.past_covariates:
        raise ConfigError(
            f"past covariates {named(list(fc.past_covariates))} are not known beyond the fitted horizon "
            f"{fc.horizon}, got {horizon}; fit with that horizon"
        )
    warnings.warn(
        f"horizon {horizon} is longer than the fitted {fc.horizon}: forecasts are made from forecasts",
        stacklevel=4,
    )


def test_windows(
    fc: Forecaster, long: Long, n_windows: int, step_size: int | None, test_size: int | None
) -> tuple[int, int]:
    """Steps between two cutoffs of a test, and the number of cutoffs.

    Raises:
        ConfigError: if the sizes do not fit together.
        DataError: if a series is too short for them.
    """
    step = fc.horizon if step_size is None else step_size
    if step < 1 or n_windows < 1:
        raise ConfigError(f"n_windows and step_size must be >= 1, got {n_windows} and {step}")
    if test_size is not None:
        if test_size < fc.horizon or (test_size - fc.horizon) % step:
            raise ConfigError(f"test_size = {test_size} should be horizon + k * step_size = {fc.horizon} + k * {step}")
        n_windows = (test_size - fc.horizon) // step + 1
    need = fc.horizon + step * (n_windows - 1)
    lengths = np.diff(long.indptr)
    few = np.flatnonzero(lengths <= need + fc.horizon)
    if len(few):
        raise DataError(
            f"{len(few)} of {len(long.ids)} series are too short for a test of {need} rows: "
            f"{named([f'{long.ids[i]} ({lengths[i]})' for i in few])}; use fewer windows, or leave them out"
        )
    return step, n_windows


def _arrays(fc: Forecaster, fitted: Fitted, long: Long, static: pd.DataFrame | None) -> Arrays:
    rows = static_rows(long, fc.static_covariates, static, fitted.reading.id_col)
    return arrange(long, joint=fitted.joint, static=rows, codes=fitted.codes, calendar=fc.calendar)


def _last_windows(fc: Forecaster, fitted: Fitted, long: Long, static: pd.DataFrame | None) -> Ends:
    lengths = np.diff(long.indptr)
    few = np.flatnonzero(lengths < fitted.context)
    if len(few):
        warnings.warn(
            f"{len(few)} of {len(long.ids)} series have fewer than context_length = {fitted.context} rows and are "
            f"padded: {named([f'{long.ids[i]} ({lengths[i]})' for i in few])}",
            stacklevel=4,
        )
    arrays = _arrays(fc, fitted, long, static)
    n = len(arrays.indptr) - 1
    scales = _scales(fc, fitted, long, arrays)
    return ends(arrays, np.arange(n), arrays.indptr[1:], fitted.context, *scales)


def _scales(fc: Forecaster, fitted: Fitted, long: Long, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """What each series is scaled by: as in the fit, or by all its rows where it was not fitted."""
    if fitted.joint:
        return fitted.loc, fitted.scale
    at = fitted.ids.get_indexer(long.ids)
    scaler = "none" if (at >= 0).all() else scaler_of(fc)
    loc, scale = scaling(arrays.values, arrays.indptr, np.diff(arrays.indptr), scaler, fitted.season)
    known = (at >= 0)[:, None]
    return np.where(known, fitted.loc[at], loc), np.where(known, fitted.scale[at], scale)


def _columns(
    fc: Forecaster,
    fitted: Fitted,
    start: Ends,
    ahead: np.ndarray | None,
    horizon: int,
    levels: Sequence[float],
    quantiles: Sequence[float],
) -> dict[str, np.ndarray]:
    """The columns of all models, each ``(N, horizon, C)``."""
    columns: dict[str, np.ndarray] = {}
    for k in range(len(fitted.tasks)):
        columns |= _model_columns(fc, fitted, k, start, ahead, horizon, levels, quantiles)
    return columns


def _model_columns(
    fc: Forecaster,
    fitted: Fitted,
    k: int,
    start: Ends,
    ahead: np.ndarray | None,
    horizon: int,
    levels: Sequence[float],
    quantiles: Sequence[float],
) -> dict[str, np.ndarray]:
    """The columns of model ``k``, each ``(N, horizon, C)``: the point forecast, then bounds and quantiles."""
    name = fitted.names[k]
    wanted = [*(q for level in levels for q in bounds(level)), *quantiles]
    labels = [*(f"{name}-{side}-{level:g}" for level in levels for side in ("lo", "hi"))]
    labels += [f"{name}_q{q:g}" for q in quantiles]
    exact = fc.loss in SPREAD
    point, found = _run(fitted, k, start, ahead, horizon, wanted if exact else ())
    columns = {name: point}
    if exact:
        columns |= {label: found[..., i] for i, label in enumerate(labels)}
        if fc.conformal and levels:
            columns |= _recalibrated(fc, fitted, k, levels, columns, start.scale[:, None])
        return columns
    scale = start.scale[:, None]
    scores = fitted.scores[k]
    for label, q in zip(labels, wanted, strict=True):
        # axes (N, C, horizon): errors are pooled over series
        zero = np.zeros((len(point), point.shape[2], horizon))
        level = abs(2 * q - 1) * 100
        width = conformal_bounds(zero, scores[:, :horizon], round(level, 9))[1] if level else zero
        columns[label] = point + math.copysign(1, q - 0.5) * width.transpose(0, 2, 1) * scale
    return columns


def _recalibrated(
    fc: Forecaster,
    fitted: Fitted,
    k: int,
    levels: Sequence[float],
    columns: Mapping[str, np.ndarray],
    scale: np.ndarray,
) -> dict[str, np.ndarray]:
    """The bounds of model ``k`` moved until they hold the truth as often as they should; a wider one holds the next."""
    name, known, rising = fitted.names[k], calibrated(fc), sorted(levels)
    found = []
    for level in rising:
        lo, hi = (columns[f"{name}-{side}-{level:g}"] / scale for side in ("lo", "hi"))
        # axes (N, C, horizon): errors are pooled over series
        lo, hi = lo.transpose(0, 2, 1), hi.transpose(0, 2, 1)
        scores = fitted.scores[k][known.index(level), :, : lo.shape[2]]
        found.append([side.transpose(0, 2, 1) * scale for side in cqr_bounds(lo, hi, scores, level)])
    sides = nest(*(np.stack(side) for side in zip(*found, strict=True)))
    return {
        f"{name}-{side}-{level:g}": rows
        for side, all_rows in zip(("lo", "hi"), sides, strict=True)
        for level, rows in zip(rising, all_rows, strict=True)
    }


def _run(
    fitted: Fitted,
    k: int,
    start: Ends,
    ahead: np.ndarray | None,
    horizon: int,
    quantiles: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts of model ``k`` in units of the data, ``(N, horizon, C)``, and quantiles ``(N, horizon, C, K)``."""
    fitted_horizon, task = fitted.facts["horizon"], fitted.tasks[k]
    loc, scale = start.loc[:, None], start.scale[:, None]
    points, levels = [], []
    for done in range(0, horizon, fitted_horizon):
        known = None if ahead is None else _padded(ahead[:, done : done + fitted_horizon], fitted_horizon)
        yhat, q = forecast(task, start.batches(known, EVAL_BATCH), quantiles)
        points.append(yhat * scale + loc)
        levels.append(q * scale[..., None] + loc[..., None] if quantiles else q)
        if done + fitted_horizon < horizon:
            start = start.moved(points[-1], known)
    point = np.concatenate(points, 1)[:, :horizon]
    return point, np.concatenate(levels, 1)[:, :horizon] if quantiles else levels[0]


def _by_series(rows: np.ndarray, joint: bool, K: int) -> np.ndarray:
    """Forecasts ``(n K, horizon, C)`` as ``(ids, K, horizon)``: an id is a series, or a channel."""
    if joint:
        return rows.transpose(2, 0, 1)
    return rows[..., 0].reshape(-1, K, rows.shape[1])


def _padded(rows: np.ndarray, horizon: int) -> np.ndarray:
    """Rows up to the fitted horizon: what lies beyond is cut off again, the last known row stands in for it."""
    lack = horizon - rows.shape[1]
    return np.concatenate([rows, np.repeat(rows[:, -1:], lack, 1)], 1) if lack else rows
