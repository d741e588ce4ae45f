"""Errors of forecasts, by the losses of utilsforecast where it has them."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from utilsforecast import losses

from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.folder import read_long
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.frame_metrics import Offer, frame_metric, plain, scales_itself, takes_frame
from seqmix.forecasting.kind import kind_of, to_pandas
from seqmix.forecasting.long import Long, named
from seqmix.forecasting.plan import bounds
from seqmix.forecasting.scales import Measured, Scales, measure_before
from seqmix.forecasting.times import parse_times
from seqmix.forecasting.warning import warn

Metric = str | Callable[..., Any]

# columns of intervals and quantiles
_INTERVAL = re.compile(r"(.+)-(lo|hi)-(\d+(?:\.\d+)?)")
_QUANTILE = re.compile(r"(.+)_q(0?\.\d+)")
_POINT: dict[str, Callable[..., Any]] = {
    "mse": losses.mse,
    "mae": losses.mae,
    "rmse": losses.rmse,
    "mape": losses.mape,
    "smape": losses.smape,
    "wape": losses.nd,
    "bias": losses.bias,
    # metrics in units of the seasonal naive error
    "mase": losses.mae,
    "rmsse": losses.rmse,
}
# metrics with a row for each level of the intervals
_LEVELS = ("coverage", "msis")
# metrics over all quantiles
_QUANTILES = ("pinball", "crps", "wql")
_SCALED = ("mase", "rmsse", "msis")


def is_test(df: Any) -> bool:
    """Whether a frame is a result of ``cross_validation``; a folder is not."""
    return not isinstance(df, str | Path) and "cutoff" in to_pandas(df)


def evaluate(
    df: Any,
    how: Reading,
    known: Sequence[Any],
    metrics: Sequence[Metric],
    static: pd.DataFrame | None,
    train_df: Any,
    by: str | None,
    standardized: bool,
    season: int | None,
) -> Any:
    """Errors of a test, or of forecasts of the last horizon of a long frame, in a frame of the same kind.

    Args:
        df: the result of a test, or the long frame.
        how: how it is read.
        known: the test or the fit; for a long frame, the fitted models.
        metrics: those of ``errors``.
        static: static covariates of a long frame.
        train_df: rows before the test. Default: a long frame itself.
        by: column to group errors by.
        standardized: errors in units of the deviation of the training rows.
        season: season of the scales in steps. Default: that of the frequency.
    """
    if is_test(df):
        frame, train = to_pandas(df), None if train_df is None else read_long(train_df, how)
        scales = scales_for(frame, how, known, train, season, metrics, standardized=standardized)
    else:
        (fitted,) = known
        train, scales, rows = read_long(df, how), fitted.scales, np.array([fitted.plan.horizon])
        frame = fitted.backtest(train, static, rows, fitted.plan.levels, [])
    found = errors(frame, how, scales, metrics, by=by, standardized=standardized, train=train, season=season)
    return kind_of(df, how.id_col, how.time_col).give(found)


def errors(
    frame: pd.DataFrame,
    how: Reading,
    scales: Scales | None,
    metrics: Sequence[Metric],
    *,
    by: str | None,
    standardized: bool,
    train: Long | None,
    season: int | None,
) -> pd.DataFrame:
    """A row for each metric and model, of the mean over the series, or of each value of ``by``.

    Args:
        frame: forecasts beside the truth, with ``cutoff``; rows without a truth do not count.
        how: names of the columns.
        scales: units of errors; None where no metric needs them.
        metrics: names of metrics, functions of truth and forecast of a series, or those of utilsforecast.
        by: column to group errors by.
        standardized: errors in units of the deviation of the training rows.
        train: rows for functions that scale errors by the seasonal naive forecast.
        season: its season in steps. Default: that of the frequency.
    """
    key, target = how.id_col, str(how.target_col)
    if key not in frame:
        # a single series has the name of its values
        frame = frame.assign(**{key: target})
    facts = (key, how.time_col, target, "cutoff", by)
    # other columns may be there to group by
    given = [str(c) for c in frame if c not in facts and pd.api.types.is_numeric_dtype(frame[c].dtype)]
    models = [name for name in given if not _INTERVAL.match(name) and not _QUANTILE.match(name)]
    if not models or target not in frame or (by is not None and by not in frame):
        raise DataError(
            f"columns are {[str(c) for c in frame]}; evaluate needs {target!r}, a column for each model"
            f"{'' if by is None else f', and {by!r}'}"
        )
    # utilsforecast would group by a column of this name
    known: Any = frame[frame[target].notna()]
    if not len(known):
        raise DataError(f"no row of the test has a value in {target!r}; test on other rows")
    known = known.reset_index(drop=True).rename(columns={"cutoff": "origin"})
    by = "origin" if by == "cutoff" else by
    at = None if scales is None else scales.ids.get_indexer(pd.Index(known[key]))
    parts = []
    for metric in metrics:
        scale = _unit(metric, scales, at, known[key], standardized=standardized)
        told = ~np.isnan(scale)
        if not told.all():
            why = "have a seasonal naive forecast without an error" if metric in _SCALED else "do not vary"
            _warn_left_out(str(metric), "series", known[key], told, f"{why} before the test")
        scaled = known.assign(**{name: known[name] / scale for name in (target, *given)})[told]
        if takes_frame(metric):
            offer = Offer(models, _levels(known, models), _quantiles(known, models), train, season)
            found = frame_metric(known if scales_itself(metric) else scaled, metric, by or key, how, offer)
        else:
            found = _measured(scaled, metric, models, by, key, target)
        for name, part in found:
            part[models] = part[models].where(np.isfinite(part[models]))
            told: np.ndarray = np.logical_and.reduce(part[models].notna().to_numpy(), axis=1)
            if not told.all():
                what = "series" if by in (None, key) else f"values of {by!r}"
                _warn_left_out(name, what, part[by or key], told, "have no value of it: it divides by true values of 0")
            if by is None:
                values = part[models].mean().to_numpy()
                parts.append(pd.DataFrame({"metric": name, "model": models, "value": values}))
            else:
                long = part.melt(id_vars=by, value_vars=models, var_name="model", value_name="value")
                parts.append(long.assign(metric=name)[["metric", "model", by, "value"]])
    return pd.concat(parts, ignore_index=True).rename(columns={"origin": "cutoff"})


def _unit(
    metric: Metric, scales: Scales | None, at: np.ndarray | None, ids: pd.Series, *, standardized: bool
) -> np.ndarray:
    """Unit of the errors in each row, NaN for series without one.

    Args:
        metric: the metric.
        scales: units of the series. Default: 1.
        at: number of the series of each row in ``scales``, -1 for unknown ones.
        ids: the series of each row.
        standardized: the deviation of the training rows, for metrics without a unit of their own.
    """
    if scales is None or at is None or not (standardized or metric in _SCALED):
        return np.ones(len(ids))
    if (at < 0).any():
        absent = ids.iloc[int((at < 0).argmax())]
        raise DataError(f"series {absent!r} was not fitted: it has no scale, no MASE; leave it out or fit it")
    units = {"mase": scales.naive, "msis": scales.naive, "rmsse": scales.naive_rms}
    return units.get(str(metric), scales.deviation)[at]


def check_metrics(metrics: Any) -> list[Any]:
    """Names and functions, one alone or a collection of them.

    Raises:
        ConfigError: if one is unknown.
    """
    found = [metrics] if isinstance(metrics, str) or callable(metrics) else list(metrics)
    known = (*_POINT, *_LEVELS, *_QUANTILES)
    for metric in found:
        if not callable(metric) and metric not in known:
            raise ConfigError(f"metrics = {metric!r} is not known; use {', '.join(known)}, or a function")
    return found


def scales_for(
    frame: pd.DataFrame,
    how: Reading,
    known: Sequence[Measured],
    train: Long | None,
    season: int | None,
    metrics: Sequence[Metric],
    *,
    standardized: bool,
) -> Scales | None:
    """Scales that hold no row after the first cutoff of a series; None where no metric needs them.

    Args:
        frame: forecasts with ``cutoff``.
        how: names of the columns.
        known: tests and fits that may have them; the first that fits is taken.
        train: rows to find them in, instead.
        season: steps of the season for ``train``. Default: that of the frequency.
        metrics: what is measured.
        standardized: errors are in units of the deviation.

    Raises:
        DataError: if they are not known.
    """
    wanting = [metric for metric in metrics if metric in _SCALED] + ["standardized errors"] * standardized
    if not wanting:
        return None
    ids = frame[how.id_col] if how.id_col in frame else pd.Series(how.target_col, index=frame.index)
    times = parse_times(frame["cutoff"], "cutoff")
    if train is not None:
        first: Any = pd.Series(train.clock.stamps(times)).groupby(ids.to_numpy()).min()
        return measure_before(train, first, season or train.clock.season)
    for each in known:
        first: Any = pd.Series(each.clock.stamps(times)).groupby(ids.to_numpy()).min()
        at = each.scales.ids.get_indexer(first.index)
        if (at >= 0).all() and (each.scales.until[at] <= first.to_numpy()).all():
            return each.scales
    raise DataError(
        f"metric {wanting[0]!r} needs the rows before the first cutoff of each series, and this Forecaster has not "
        "measured them; pass train_df=..., or leave it out"
    )


def _measured(
    frame: pd.DataFrame, metric: Metric, models: list[str], by: str | None, key: str, target: str
) -> list[tuple[str, pd.DataFrame]]:
    """Frames of one metric, a row for each group and a column for each model, under the name of a line."""
    if by is not None:
        key = by
    elif metric == "wql":
        # one sum over all series
        frame = frame.assign(**{key: 0})
    if callable(metric):
        name = getattr(metric, "__name__", type(metric).__name__)
        groups = frame.groupby(key, sort=False)
        values = {m: [metric(g[target].to_numpy(), g[m].to_numpy()) for _, g in groups] for m in models}
        return [(name, pd.DataFrame({key: [k for k, _ in groups], **values}))]
    if metric in _POINT:
        return [(metric, _POINT[metric](frame, models=models, id_col=key, target_col=target))]
    if metric in _LEVELS:
        levels = _levels(frame, models)
        if not levels:
            raise DataError(f"{metric} needs intervals of every model; forecast with levels=[80], for example")
        score = losses.coverage if metric == "coverage" else _msis
        return [(f"{metric}-{level:g}", score(frame, models, plain(level), key, target)) for level in levels]
    quantiles = _quantiles(frame, models)
    if not quantiles:
        raise DataError(f"{metric} needs quantiles of every model; forecast with levels=[80], or quantiles=[0.1, 0.9]")
    given = {name: [columns[name] for columns in quantiles.values()] for name in models}
    score = losses.scaled_crps if metric == "wql" else losses.mqloss
    found = score(frame, given, np.array(list(quantiles)), id_col=key, target_col=target)
    # the mean over levels of twice the pinball loss tends to the CRPS
    return [(metric, found.assign(**{m: found[m] * (2 if metric == "crps" else 1) for m in models}))]


def _levels(frame: pd.DataFrame, models: list[str]) -> list[float]:
    """Levels of the intervals that all models have."""
    found = [m for c in frame if (m := _INTERVAL.fullmatch(str(c)))]
    return _common([{float(m[3]) for m in found if m[1] == name} for name in models])


def _quantiles(frame: pd.DataFrame, models: list[str]) -> dict[float, dict[str, str]]:
    """Columns by model of the quantiles that all models have."""
    columns = {name: _quantile_columns(frame, name) for name in models}
    return {q: {name: columns[name][q] for name in models} for q in _common([set(each) for each in columns.values()])}


def _warn_left_out(metric: str, what: str, groups: pd.Series, told: np.ndarray, why: str) -> None:
    """Say which series, or values of another column to group by, a mean does without."""
    out, every = (list(pd.unique(ids)) for ids in (groups[~told], groups))
    warn(f"{metric} leaves out {len(out)} of {len(every)} {what}, which {why}: {named(out)}")


def _quantile_columns(frame: pd.DataFrame, model: str) -> dict[float, str]:
    """Columns of the quantiles of a model; the point forecast is the median where that is not there."""
    found = {}
    for column in map(str, frame):
        interval, quantile = _INTERVAL.fullmatch(column), _QUANTILE.fullmatch(column)
        if interval and interval[1] == model:
            found[bounds(float(interval[3]))[interval[2] == "hi"]] = column
        elif quantile and quantile[1] == model:
            found[float(quantile[2])] = column
    return {0.5: model, **found} if found else {}


def _msis(frame: pd.DataFrame, models: list[str], level: float, key: str, target: str) -> pd.DataFrame:
    """Mean interval score of a frame in units of the seasonal naive error (Gneiting and Raftery, 2007)."""
    alpha, y = 1 - level / 100, frame[target]
    scores = {}
    for name in models:
        lo, hi = frame[f"{name}-lo-{level:g}"], frame[f"{name}-hi-{level:g}"]
        scores[name] = hi - lo + 2 / alpha * ((lo - y).clip(lower=0) + (y - hi).clip(lower=0))
    means: Any = pd.DataFrame(scores).groupby(frame[key], sort=False).mean()
    return means.reset_index()


def _common(found: list[set[float]]) -> list[float]:
    return sorted(set.intersection(*found))
