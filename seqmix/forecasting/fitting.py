"""What fitting a Forecaster means: sizes from the data, windows, one task for each model, errors kept for intervals."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from seqmix.data.series.panel import Panel, Scaler, moments, season_error
from seqmix.errors import ConfigError
from seqmix.forecasting.arrange import Ends, arrange, ends, static_rows, together
from seqmix.forecasting.clock import Clock
from seqmix.forecasting.covariates import Code, learn
from seqmix.forecasting.folder import mapped
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.intervals import fit_conformal, fit_cqr
from seqmix.forecasting.long import Long, named
from seqmix.forecasting.training import (
    EVAL_BATCH,
    column_names,
    forecast,
    model_class,
    model_factory,
    train,
    without_revin,
)
from seqmix.series import Series
from seqmix.tasks import Forecasting

if TYPE_CHECKING:
    from seqmix.forecasting.forecaster import Forecaster

# losses whose forecast holds its own uncertainty
SPREAD = ("quantile", "normal", "student_t", "negative_binomial")


@dataclass
class Fitted:
    """Everything a Forecaster has learned, and what it needs to go on from the last row it saw.

    Args:
        reading: how frames are read.
        clock: the time steps.
        ids: the series, in order of first appearance.
        context: steps that the models see.
        season: steps of the season.
        joint: the series are channels of one.
        facts: what a task is built from.
        codes: how covariates become numbers.
        loc: mean of the training rows, ``(n, C)``.
        scale: what they are divided by, ``(n, C)``.
        deviation: standard deviation of the training rows, one for each id.
        naive: mean absolute error of the season before on the training rows, for MASE, one for each id.
        ends: the last rows of each series.
        last: stamp of the last row of each series, one for each id.
        names: what the results call each model.
        tasks: the trained tasks.
        scores: sorted errors of calibration windows in units of ``scale``, for each model ``(m, horizon)``, or for each
            level as well where quantiles are calibrated, ``(levels, m, horizon)``.
        history: errors during training.
        report: what was fitted, in figures.
        notes: what a user should know.
    """

    reading: Reading
    clock: Clock
    ids: pd.Index
    context: int
    season: int
    joint: bool
    facts: dict[str, int]
    codes: dict[str, list[Code]]
    loc: np.ndarray
    scale: np.ndarray
    deviation: np.ndarray
    naive: np.ndarray
    ends: Ends
    last: np.ndarray
    names: list[str]
    tasks: list[Forecasting] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    report: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def fit(
    fc: Forecaster,
    long: Long,
    how: Reading,
    static_df: pd.DataFrame | None,
    val_size: int | str | np.ndarray,
    before: Fitted | None = None,
    max_steps: int | None = None,
    learning_rate: float | None = None,
) -> Fitted:
    """Fit the models of ``fc`` on a checked frame; with ``before`` go on from what it has learned."""
    started = time.perf_counter()
    models = _models(fc)
    if fc.model_kwargs and len(models) > 1:
        raise ConfigError("model_kwargs go with one model, got a list; put functools.partial(Model, ...) in the list")
    lengths = np.diff(long.indptr)
    season = fc.season or long.clock.season
    context = before.context if before else fc.context_length or default_context(lengths, fc.horizon, long.clock)
    n_val = validation_rows(lengths, val_size, fc.horizon, context, season, fc.levels)
    # intervals are calibrated on rows that early stopping has not seen, where there are enough for both
    need = _calibration_rows(len(lengths), fc.horizon, season, fc.levels)
    n_test = np.where(n_val >= 2 * need, n_val // 2, 0)
    joint = before.joint if before else together(long, fc.mode, any(model_class(m).mixes_channels for m in models))
    static = static_rows(long, fc.static_covariates, static_df, how.id_col)
    codes = before.codes if before else _codes(fc, long, static, lengths - n_val)
    arrays = arrange(long, joint=joint, static=static, codes=codes, calendar=fc.calendar)
    panel = Panel(
        arrays.values,
        arrays.indptr,
        context,
        fc.horizon,
        fc.batch_size or (32 if joint else 256),
        n_val=n_val[:1] if joint else n_val,
        n_test=n_test[:1] if joint else n_test,
        past=arrays.past,
        future=arrays.future,
        static=arrays.static,
        weight=None if arrays.weight is None else arrays.weight.astype(np.float32),
        scaler=scaler_of(fc),
        season=season,
        short=fc.short,
        ids=[str(i) for i in (long.ids[:1] if joint else long.ids)],
        eval_batch_size=EVAL_BATCH,
        out=mapped(arrays.values.shape) if isinstance(long.y, np.memmap) else None,
        seed=fc.seed,
    )
    n_series = len(arrays.indptr) - 1
    fitted = Fitted(
        reading=how.again(long.clock.freq),
        clock=long.clock,
        ids=long.ids,
        context=context,
        season=season,
        joint=joint,
        facts=asdict(panel.series),
        codes=codes,
        loc=panel.loc,
        scale=panel.scale,
        # an id is a series, or a channel of the only one
        deviation=moments(arrays.values, arrays.indptr, panel.n_train)[1].ravel(),
        naive=season_error(arrays.values, arrays.indptr, panel.n_train, season).ravel(),
        ends=ends(arrays, np.arange(n_series), arrays.indptr[1:], context, panel.loc, panel.scale),
        last=long.last,
        names=column_names(models),
        notes=_notes(fc, long, panel, n_val),
    )
    lines = []
    for k, model in enumerate(models):
        task = build_task(fc, model, fitted, learning_rate)
        if before:
            task.load_state_dict(before.tasks[k].state_dict())
        lines.append(
            train(
                task,
                panel,
                max_steps=max_steps or fc.max_steps,
                seed=fc.seed,
                device=fc.device,
                verbose=fc.verbose,
                trainer_kwargs=fc.trainer_kwargs,
            )
        )
        fitted.tasks.append(task.eval())
        fitted.scores.append(_scores(task, panel, calibrated(fc)))
    fitted.history = pd.concat(
        [line.assign(model=name) for name, line in zip(fitted.names, lines, strict=True)], ignore_index=True
    )
    fitted.report = {
        "series": len(long.ids),
        "windows": panel.n_windows,
        "parameters": {
            n: sum(p.numel() for p in t.parameters()) for n, t in zip(fitted.names, fitted.tasks, strict=True)
        },
        "best_val_mse": [_least(line) for line in lines],
        "seconds": round(time.perf_counter() - started, 2),
    }
    return fitted


def build_task(fc: Forecaster, model: Any, fitted: Fitted, learning_rate: float | None = None) -> Forecasting:
    """An untrained task for one model."""
    factory = model_factory(model, fc.model_kwargs)
    normalize = fc.normalize
    if normalize == "auto":
        # the season before would carry the effect of its covariates into the forecast, and counts have no differences
        plain = fitted.facts["n_future"] or fitted.season == 1 or fc.loss == "negative_binomial"
        normalize = "window" if plain else "season"
    if normalize != "none":
        factory = without_revin(factory)
    series = Series(**{**fitted.facts, "season": min(fitted.season, fitted.context)})
    able = [model_class(each).covariates == "used" for each in _models(fc)]
    if any(able) and model_class(model).covariates == "refused":
        # a baseline beside a model
        series = series.without_covariates()
    named_loss: Any = fc.loss if isinstance(fc.loss, str) else "mse"
    # weights come from the seed, whatever was drawn before
    with torch.random.fork_rng():
        torch.manual_seed(fc.seed)
        try:
            return Forecasting(
                factory,
                series,
                loss=named_loss,
                loss_module=None if isinstance(fc.loss, str) else fc.loss,
                quantiles=_quantiles(fc.levels) if fc.loss == "quantile" else None,
                normalize=normalize,
                lr=learning_rate or fc.learning_rate,
                patience=fc.early_stopping,
            )
        except TypeError as e:
            raise ConfigError(f"{fitted.names[0]} cannot be built: {e}; see model_kwargs") from e


def default_context(lengths: np.ndarray, horizon: int, clock: Clock) -> int:
    """Three horizons or the cycle of the frequency, as far as half of the series are long enough."""
    room = int(np.median(lengths)) - 2 * horizon
    return min(max(3 * horizon, clock.cycle), max(room, horizon))


def scaler_of(fc: Forecaster) -> Scaler:
    """How training rows scale each series."""
    # a distribution of counts needs counts
    if fc.loss == "negative_binomial":
        return "none"
    if fc.scaler == "auto":
        # on M4 Hourly MASE is lower by season for a linear map, by deviation for DenseMLP and Hydra (LOG.md)
        return "season" if all(model_class(model).linear for model in _models(fc)) else "standard"
    return fc.scaler


def validation_rows(
    lengths: np.ndarray,
    val_size: int | str | np.ndarray,
    horizon: int,
    context: int,
    season: int,
    levels: Sequence[float] | None,
) -> np.ndarray:
    """Validation rows of each series, 0 where it is too short; enough windows for the intervals that are wanted."""
    if isinstance(val_size, np.ndarray):
        return val_size
    if val_size != "auto":
        if isinstance(val_size, str) or val_size < 0 or 0 < val_size < horizon:
            raise ConfigError(f"val_size = {val_size!r} should be 'auto', 0, or at least horizon = {horizon}")
        return np.where(lengths > val_size + horizon, val_size, 0)
    want = np.maximum(lengths // 10, _calibration_rows(len(lengths), horizon, season, levels))
    roomy = lengths >= want + context + horizon
    return np.where(roomy, want, np.where(lengths >= context + 2 * horizon, horizon, 0))


def _calibration_rows(n_series: int, horizon: int, season: int, levels: Sequence[float] | None) -> int:
    """Rows of each series that intervals need: one of 90 percent takes 9 windows, of all series together."""
    top = min(max(levels or (90,)), 99.9)
    windows = math.ceil(top / (100 - top) / n_series)
    # hours: a week of days, the errors of a weekend are not those of a Monday
    return horizon - 1 + (max(windows, 6 * season + 1) if levels and season == 24 else windows)


def calibrated(fc: Forecaster) -> list[float]:
    """Levels whose quantiles are calibrated, rising; none for point forecasts, whose errors serve every level."""
    return sorted(fc.levels or ()) if fc.conformal and fc.loss in SPREAD else []


def bounds(level: float) -> tuple[float, float]:
    """The quantiles that an interval is between."""
    return round(0.5 - level / 200, 9), round(0.5 + level / 200, 9)


def _models(fc: Forecaster) -> list[Any]:
    return list(fc.model) if isinstance(fc.model, list | tuple) else [fc.model]


def _codes(fc: Forecaster, long: Long, static: pd.DataFrame | None, n_train: np.ndarray) -> dict[str, list[Code]]:
    ours = np.zeros(0, bool)
    if len(long.columns.columns):
        rows = np.arange(len(long.y)) - np.repeat(long.indptr[:-1], np.diff(long.indptr))
        ours = rows < np.repeat(n_train, np.diff(long.indptr))
    return {
        "past": learn(long.columns[list(fc.past_covariates)], ours),
        "future": learn(long.columns[list(fc.future_covariates)], ours),
        "static": [] if static is None else learn(static, np.ones(len(static), bool)),
    }


def _scores(task: Forecasting, panel: Panel, levels: Sequence[float]) -> np.ndarray:
    """Sorted errors of the calibration windows, series and channels together: ``(m, horizon)``.

    With ``levels`` those of the quantiles that bound them, ``(levels, m, horizon)``.
    """
    if not panel.has_val:
        return np.zeros((len(levels), 0, panel.horizon) if levels else (0, panel.horizon))
    batches = list(panel.test_dataloader())
    point, found = forecast(task, batches, [q for level in levels for q in bounds(level)])
    truth = np.concatenate([_observed(batch) for batch in batches])  # (N, horizon, C)
    if not levels:
        return fit_conformal(_pooled(truth - point))
    pairs = [(_pooled(found[..., 2 * i]), _pooled(found[..., 2 * i + 1])) for i in range(len(levels))]
    return np.stack([fit_cqr(_pooled(truth), lo, hi) for lo, hi in pairs])


def _observed(batch: dict[str, torch.Tensor]) -> np.ndarray:
    y = batch["y"]
    return (y.masked_fill(~batch["y_mask"], math.nan) if "y_mask" in batch else y).numpy()


def _pooled(rows: np.ndarray) -> np.ndarray:
    return rows.transpose(0, 2, 1).reshape(-1, rows.shape[1])  # (N C, horizon)


def _notes(fc: Forecaster, long: Long, panel: Panel, n_val: np.ndarray) -> list[str]:
    notes = []
    if fc.freq is None:
        notes.append(f"freq {long.clock.freq!r} was inferred")
    if long.ignored:
        notes.append(f"columns that are not used: {', '.join(long.ignored)}")
    if np.isnan(long.y).any():
        codes = np.repeat(np.arange(len(long.ids)), np.diff(long.indptr))
        counts = np.bincount(codes, np.isnan(long.y), len(long.ids)).astype(int)
        first = ", ".join(f"{long.ids[i]} {counts[i]}" for i in np.flatnonzero(counts)[:5])
        notes.append(f"{counts.sum()} missing values are left out of input and loss: {first}")
    if panel.has_val:
        notes.append(f"the last {int(n_val.max())} rows are for validation, not trained on")
    else:
        notes.append("no series is long enough for validation: training goes on to max_steps")
    few = np.flatnonzero(np.diff(long.indptr) - n_val < fc.horizon + panel.context)
    if len(few) and len(long.ids) > 1:
        notes.append(f"series shorter than a window: {named([long.ids[i] for i in few])}; short={fc.short!r}")
    return notes


def _quantiles(levels: Sequence[float] | None) -> list[float] | None:
    if not levels:
        return None
    return sorted({q for level in levels for q in bounds(level)} | {0.5})


def _least(line: pd.DataFrame) -> float:
    return float(line["val_mse"].min()) if line["val_mse"].notna().any() else math.nan
