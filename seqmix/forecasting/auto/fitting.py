"""Automatic model selection: backtest a portfolio within a time budget, and learn ensemble weights."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seqmix.forecasting.auto.budget import Budget
from seqmix.forecasting.auto.ensemble import Ensemble, units
from seqmix.forecasting.auto.holdout import Holdout, make_holdout
from seqmix.forecasting.auto.parts import Learned, Local, Part, tails
from seqmix.forecasting.auto.portfolio import BASE, candidates
from seqmix.forecasting.auto.simple import seasonal_naive
from seqmix.forecasting.auto.spread import (
    BOUNDS,
    COVERAGES,
    NORMAL,
    Spread,
    learn_spread,
    learn_stretch,
    quantile_loss,
    stretched,
)
from seqmix.forecasting.auto.trying import Trial, Workshop
from seqmix.forecasting.auto.weights import Weights, combined, errors_of, learn
from seqmix.forecasting.fitting import frame_notes
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.long import Long
from seqmix.forecasting.options import AUTO
from seqmix.forecasting.plan import make_plan
from seqmix.forecasting.scales import measure
from seqmix.whole import raise_refusal


class Lesson(NamedTuple):
    """Results of the backtest on the held-out rows.

    Args:
        weights: weights of the models.
        spreads: errors of each model.
        stretch: factor that calibrates the intervals of the ensemble.
        scores: MASE and WQL of each model, then of the ensemble, ``(M + 1, 2)``; NaN where unknown.
    """

    weights: Weights
    spreads: list[Spread]
    stretch: np.ndarray
    scores: np.ndarray


def fit_auto(
    long: Long,
    static: pd.DataFrame | None,
    reading: Reading,
    options: Mapping[str, Any],
    val_size: int | str | np.ndarray,
    stage: str,
) -> Ensemble:
    """Learn an ensemble on a checked frame; the arguments are those of ``fit``."""
    started, budget = time.perf_counter(), Budget(options["budget"])
    portfolio = candidates((options["model_kwargs"] or {}).get("members"), options["budget"])
    plain = {**options, "levels": (), "model_kwargs": None}
    plan = make_plan(options, long, mixes_channels=False, linear=True, pretrained=False)
    # models that see whole histories know seasons that are longer than a context
    plan = replace(plan, season=options["season"] or long.clock.season, levels=options["levels"], notes=())
    shop = Workshop(long, static, reading, plain, val_size, stage, budget, tails(long), plan.season)
    test = make_holdout(long, plan.horizon, plan.season, plan.seed, options["mode"])
    trials = [
        shop.trial(each, test, sum(later.trained for later in portfolio[k + 1 :])) for k, each in enumerate(portfolio)
    ]
    lesson = learn_from(test, trials)
    at = np.full(len(long.ids), -1) if test is None else test.long.ids.get_indexer(long.ids)
    found = Weights(lesson.weights.panel, lesson.weights.of(at))
    shares = found.series.mean(1)
    parts: dict[str, Part] = {}
    for trial, share in zip(trials, shares, strict=True):
        if share:
            _finish(shop, trial, parts)
    used = [k for k, trial in enumerate(trials) if trial.candidate.name in parts]
    chosen = [parts[trials[k].candidate.name] for k in used]
    seconds = time.perf_counter() - started
    windows = 0 if test is None else test.truth[..., 0].size
    lines = [part.fitted.history for part in chosen if isinstance(part, Learned)]
    return Ensemble(
        reading=reading.again(long.clock.freq),
        plan=plan,
        clock=long.clock,
        kind=long.kind,
        ids=long.ids,
        last=long.last,
        scales=measure(long, long.y[:, None], long.indptr, np.diff(long.indptr), plan.season),
        unit=units(long, 0, plan.season),
        naive=Local(BASE, seasonal_naive, plan.season, shop.kept),
        parts=chosen,
        weights=found.kept(used),
        spreads=[lesson.spreads[k] for k in used],
        stretch=lesson.stretch,
        leaderboard=_leaderboard(
            trials, lesson.scores, dict(zip(used, found.kept(used).series.mean(1), strict=True)), seconds
        ),
        history=pd.concat(lines, ignore_index=True) if lines else pd.DataFrame(),
        report={"series": len(long.ids), "windows": windows, "seconds": round(seconds, 2)},
        notes=[
            *frame_notes(long, reading),
            *(f"{trial.candidate.name} {trial.note}" for trial in trials if trial.note),
        ],
    )


def learn_from(test: Holdout | None, trials: Sequence[Trial]) -> Lesson:
    """Weights, spreads and scores of models from their forecasts of the held-out rows.

    Args:
        test: the held-out rows; without them the weights are those of the prior, of models that need no training.
        trials: result of each model, the seasonal naive forecast first.
    """
    prior = np.array([trial.candidate.prior for trial in trials])
    spreads, scores = [NORMAL] * len(trials), np.full((len(trials) + 1, 2), math.nan)
    given = {k: trial.found for k, trial in enumerate(trials) if trial.found is not None}
    tried = list(given)
    if test is None or not tried:
        panel = prior * [not trial.candidate.trained for trial in trials]
        return Lesson(
            Weights(panel / panel.sum(), np.zeros((len(trials), 0))), spreads, np.ones(len(COVERAGES)), scores
        )
    truth, unit = test.truth, test.unit
    points = np.stack([found.point for found in given.values()])
    # a model without a forecast for a window is scored by the seasonal naive forecast
    points = np.where(np.isfinite(points), points, points[0])
    levels = []
    for k, point in zip(tried, points, strict=True):
        spreads[k] = learn_spread((point - truth) / unit[:, None, None])
        own, zero = given[k].spread, np.nan_to_num(unit)[:, None]
        own = spreads[k].quantiles(point, zero, BOUNDS) if own is None else own
        levels.append(np.where(np.isfinite(own), own, point[..., None]))
    losses = np.stack([quantile_loss(*each, truth) for each in zip(levels, points, strict=True)])
    found = learn(losses / unit[:, None, None], prior[tried])
    # an ensemble is judged by the weights of all series: those of one were made for it
    every = np.repeat(found.panel[:, None], len(unit), 1)
    point, spread = combined(points, every), combined(np.stack(levels), every)
    stretch = learn_stretch(spread, point, truth)
    everyone = np.concatenate([points, point[None]])
    scores[[*tried, -1], 0] = errors_of(everyone, truth, unit)
    whole = quantile_loss(stretched(spread, point, BOUNDS, stretch), point, truth)
    size = np.nansum(np.abs(truth))
    scores[[*tried, -1], 1] = [np.nansum(each) / size if size else math.nan for each in (*losses, whole)]
    panel, series = np.zeros(len(trials)), np.zeros((len(trials), len(unit)))
    panel[tried], series[tried] = found
    return Lesson(Weights(panel, series), spreads, stretch, scores)


def _finish(shop: Workshop, trial: Trial, parts: dict[str, Part]) -> None:
    """Fit a model to all rows; the weight of one that fails goes to the others."""
    started = time.perf_counter()
    try:
        parts[trial.candidate.name] = shop.part(trial.candidate)
    except Exception as e:
        raise_refusal(e)
        trial.note = f"failed in the fit to all rows: {type(e).__name__}: {' '.join(str(e).split())}"
    trial.seconds += time.perf_counter() - started


def _leaderboard(
    trials: Sequence[Trial], scores: np.ndarray, weights: Mapping[int, float], seconds: float
) -> pd.DataFrame:
    """A row for each model, the best first, under one for the ensemble."""
    rows = [
        {
            "model": trial.candidate.name,
            "MASE": scores[k, 0],
            "WQL": scores[k, 1],
            "weight": weights.get(k, 0.0),
            "seconds": trial.seconds,
            "note": trial.note,
        }
        for k, trial in enumerate(trials)
    ]
    whole = {"model": AUTO, "MASE": scores[-1, 0], "WQL": scores[-1, 1], "weight": 1.0, "seconds": seconds, "note": ""}
    rest = pd.DataFrame(rows).sort_values(["weight", "MASE"], ascending=[False, True], kind="stable")
    return pd.concat([pd.DataFrame([whole]), rest], ignore_index=True)
