"""One fitted model: its predictor, its calibration errors, and its columns of a forecast."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from seqmix.data.series.panel import Panel, last_rows
from seqmix.errors import ConfigError
from seqmix.forecasting.arrange import Arrays, Ends
from seqmix.forecasting.factory import Choice, make_predictor
from seqmix.forecasting.intervals import (
    cqr_bounds,
    fit_conformal,
    fit_cqr,
    half_widths,
    local_scale,
    naive_scores,
    nest,
    series_sizes,
)
from seqmix.forecasting.plan import Plan, bounds
from seqmix.forecasting.training import Training, eval_batch, forecast, seeded
from seqmix.memory import advising
from seqmix.models import ForecastModel
from seqmix.tasks.predictor import WindowPredictor

# columns of the errors of each validation
_HISTORY = ["step", "train_loss", "val_mse", "val_mae"]


class SeriesErrors(NamedTuple):
    """Errors of a model in closed form in units of each series that it was fitted to."""

    scores: np.ndarray  # sorted errors of the calibration windows over the size of their series, (m, horizon)
    sizes: np.ndarray  # (n_series, C)


class Member(NamedTuple):
    """A fitted model."""

    choice: Choice
    plan: Plan
    predictor: WindowPredictor
    # sorted errors of the calibration windows in units of the scale of their series, of the window for models in closed
    # form: (m, horizon), or, where quantiles are calibrated, those of each level, (levels, m, horizon)
    scores: np.ndarray
    # the same in units of the series, of several; others have intervals by ``scores``
    series: SeriesErrors | None = None

    @property
    def name(self) -> str:
        """Name of the model in results."""
        return self.choice.name

    def columns(
        self,
        start: Ends,
        known: np.ndarray | None,
        horizon: int,
        levels: Sequence[float],
        quantiles: Sequence[float],
        at: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Columns of a forecast, each ``(N, horizon, C)``: the point forecast, then bounds and quantiles.

        Args:
            start: the windows that forecasts begin from, of this context or a longer one.
            known: known-future inputs of the horizon, ``(N, horizon, F)``.
            horizon: steps to forecast.
            levels: coverage of intervals in percent.
            quantiles: levels between 0 and 1.
            at: number of the series of each window among those of the fit, -1 for others, ``(N,)``.
        """
        wanted = [*(q for level in levels for q in bounds(level)), *quantiles]
        labels = [f"{self.name}-{side}-{level:g}" for level in levels for side in ("lo", "hi")]
        labels += [f"{self.name}_q{q:g}" for q in quantiles]
        plan = self.plan
        start = start.tail(plan.context)
        point, found = self._run(start, known, horizon, wanted if plan.spread else ())
        scale = start.scale[:, None]
        if wanted and self.choice.cls.closed_form:
            scale = scale * local_scale(start.values / scale, plan.season)[:, None]
        columns = self._bounded(scale, point, found, levels, labels, wanted, at)
        return {label: x.clip(min=0) for label, x in columns.items()} if plan.nonnegative else columns

    def _bounded(
        self,
        scale: np.ndarray,
        point: np.ndarray,
        found: np.ndarray,
        levels: Sequence[float],
        labels: Sequence[str],
        wanted: Sequence[float],
        at: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """The point forecast, and the quantiles ``wanted`` under their ``labels``."""
        plan, columns = self.plan, {self.name: point}
        if plan.spread:
            columns |= {label: found[..., i] for i, label in enumerate(labels)}
            return columns | (self._calibrated(levels, columns, scale) if plan.calibrated and levels else {})
        for label, q in zip(labels, wanted, strict=True):
            level = round(abs(2 * q - 1) * 100, 9)
            width = self._half_widths(level, point.shape[1], at) if level else 0.0
            columns[label] = point + math.copysign(1, q - 0.5) * width * scale
        return columns

    def _half_widths(self, level: float, horizon: int, at: np.ndarray) -> np.ndarray:
        """Half widths of intervals around point forecasts in units of the windows, ``(N or 1, horizon, C or 1)``."""
        pooled = half_widths(self.scores[:, :horizon], level)[None, :, None]
        if self.series is None:
            return pooled
        own = self.series.sizes[at][:, None] * half_widths(self.series.scores[:, :horizon], level)[:, None]
        return np.where((at >= 0)[:, None, None], own, pooled)

    def _calibrated(
        self, levels: Sequence[float], columns: Mapping[str, np.ndarray], scale: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Bounds calibrated on the validation rows; wider intervals hold narrower ones."""
        rising = sorted(levels)
        found = []
        for level in rising:
            lo, hi = (columns[f"{self.name}-{side}-{level:g}"] / scale for side in ("lo", "hi"))
            # axes (N, C, horizon): errors are pooled over series
            lo, hi = lo.transpose(0, 2, 1), hi.transpose(0, 2, 1)
            scores = self.scores[self.plan.calibrated.index(level), :, : lo.shape[2]]
            found.append([side.transpose(0, 2, 1) * scale for side in cqr_bounds(lo, hi, scores, level)])
        sides = nest(*(np.stack(side) for side in zip(*found, strict=True)))
        return {
            f"{self.name}-{side}-{level:g}": rows
            for side, all_rows in zip(("lo", "hi"), sides, strict=True)
            for level, rows in zip(rising, all_rows, strict=True)
        }

    def _run(
        self, start: Ends, known: np.ndarray | None, horizon: int, quantiles: Sequence[float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Forecasts in units of the data, ``(N, horizon, C)``, and quantiles, ``(N, horizon, C, K)``."""
        predictor = self._predictor_for(horizon)
        fitted = predictor.series.horizon
        loc, scale = start.loc[:, None], start.scale[:, None]
        points, levels = [], []
        for done in range(0, horizon, fitted):
            rows = None if known is None else known[:, done : done + fitted]
            yhat, q = forecast(predictor, start.batches(rows, eval_batch(predictor.series)), quantiles)
            points.append(yhat * scale + loc)
            levels.append(q * scale[..., None] + loc[..., None] if quantiles else q)
            if done + fitted < horizon:
                start = start.moved(points[-1], rows)
        point = np.concatenate(points, 1)[:, :horizon]
        return point, np.concatenate(levels, 1)[:, :horizon] if quantiles else levels[0]

    def _predictor_for(self, horizon: int) -> WindowPredictor:
        """The predictor; a pretrained model is built anew for a horizon beyond the fitted one."""
        if not self.choice.cls.pretrained or horizon <= self.plan.horizon:
            return self.predictor
        series = replace(self.predictor.series, horizon=horizon)
        longer = make_predictor(self.choice, replace(self.plan, horizon=horizon), series)
        longer.load_state_dict(self.predictor.state_dict())
        return longer.to(self.predictor.device)


def train(name: str, predictor: WindowPredictor, panel: Panel | None, how: Training, seed: int) -> pd.DataFrame:
    """Train a forecasting model, restore its best weights, and return the errors of each validation.

    A pretrained model is also validated before the first step: steps that do not help are undone. A model in closed
    form needs no Trainer, but for options of the Trainer that were given.
    """
    model = predictor.model
    if not any(p.requires_grad for p in predictor.parameters()) or (not how.max_steps and model.pretrained):
        return pd.DataFrame(columns=_HISTORY)
    if not model.by_steps:
        # what is fitted in closed form is fitted when training begins
        how = replace(how, max_steps=max(how.max_steps, 1))
    if not how.max_steps or panel is None:
        raise ConfigError(f"max_steps = 0 is for pretrained models, and {name} needs training; use 1 or more")
    if model.closed_form and not how.trainer_kwargs:
        with seeded(seed), advising(how.sizes, *how.others):
            held = panel.loader("val") if panel.has_val else None
            predictor.to(how.device).fit_closed_form(panel.loader("train"), held)
        if not all(bool(p.isfinite().all()) for p in predictor.parameters()):
            raise ConfigError(f"the closed form of {name} has no finite solution; fit with scaler='standard'")
        return pd.DataFrame(columns=_HISTORY)
    # it brings lightning
    from seqmix.forecasting.optimizing import optimize_predictor

    return optimize_predictor(name, predictor, panel, how, seed)


def calibrate(
    predictor: WindowPredictor, panel: Panel, levels: Sequence[float]
) -> tuple[np.ndarray, SeriesErrors | None]:
    """The ``scores`` and ``series`` of a member: sorted errors of the calibration windows of all series and channels.

    A model in closed form needs no validation rows: its training windows are forecast by fits without them. Its errors
    are in units of the scale of each window.
    """
    batches = calibration_windows(panel, type(predictor.model))
    if not batches:
        empty = np.zeros((0, panel.horizon))
        return np.stack([empty] * len(levels)) if levels else empty, None
    truth = _truth(batches)
    if predictor.model.closed_form:
        if panel.has_val:
            errors = truth - _pooled(forecast(predictor, batches)[0])
        else:
            errors = _pooled(predictor.left_out_errors(panel.loader("train"), panel.blocks()).cpu().numpy())
        scale = np.concatenate([local_scale(_observed(batch, "x"), panel.series.season) for batch in batches])
        errors = errors / scale.reshape(-1, 1)
        return fit_conformal(errors), None if panel.has_val else _series_errors(errors, panel)
    point, found = forecast(predictor, batches, [q for level in levels for q in bounds(level)])
    if not levels:
        return fit_conformal(truth - _pooled(point)), None
    pairs = [(_pooled(found[..., 2 * i]), _pooled(found[..., 2 * i + 1])) for i in range(len(levels))]
    return np.stack([fit_cqr(truth, lo, hi) for lo, hi in pairs]), None


def _series_errors(errors: np.ndarray, panel: Panel) -> SeriesErrors | None:
    """Errors ``(m, horizon)`` in the order of the blocks of a panel, in units of their series or channels."""
    shape = panel.scale.shape
    if panel.scale.size == 1:
        return None
    series = torch.cat([block.inside.series for block in panel.blocks()]).numpy()
    each = (series[:, None] * shape[1] + np.arange(shape[1])).ravel()
    sizes = series_sizes(np.abs(errors), each, panel.scale.size)
    return SeriesErrors(fit_conformal(errors / sizes[each][:, None]), sizes.reshape(shape))


def naive_calibration(arrays: Arrays, panel: Panel, plan: Plan, cls: type[ForecastModel]) -> np.ndarray:
    """The ``scores`` of the forecast that a model starts from, by season or by step, where windows are too few."""
    width = max(int(np.diff(arrays.indptr).max()), plan.context)
    rows = last_rows(arrays.values, arrays.indptr[:-1], arrays.indptr[1:], width) / panel.scale[:, None]
    if cls.closed_form:
        rows = rows / local_scale(rows[:, -plan.context :], plan.season)[:, None]
    # a closed form that has learned nothing repeats the last value
    seasonal = not cls.closed_form and (cls.repeats_season or plan.normalize == "season")
    return naive_scores(_pooled(rows), plan.season if seasonal else 1, plan.horizon)


def calibration_windows(panel: Panel, cls: type[ForecastModel]) -> list[dict[str, torch.Tensor]]:
    """Batches that models of a class are calibrated on; none where there are no such windows."""
    if panel.has_val:
        return list(panel.loader("test"))
    return [batch for block in panel.blocks() for batch in block.inside] if cls.closed_form else []


def calibration_rows(panel: Panel, cls: type[ForecastModel]) -> np.ndarray:
    """True values of the calibration windows, NaN where missing, ``(m, horizon)``."""
    batches = calibration_windows(panel, cls)
    return _truth(batches) if batches else np.zeros((0, panel.horizon))


def _truth(batches: Iterable[dict[str, torch.Tensor]]) -> np.ndarray:
    return np.concatenate([_pooled(_observed(batch, "y")) for batch in batches])


def _observed(batch: dict[str, torch.Tensor], name: str) -> np.ndarray:
    x, mask = batch[name], batch.get(f"{name}_mask")
    return (x if mask is None else x.masked_fill(~mask, math.nan)).numpy()


def _pooled(rows: np.ndarray) -> np.ndarray:
    return rows.transpose(0, 2, 1).reshape(-1, rows.shape[1])  # (N C, horizon)
