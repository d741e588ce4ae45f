"""Scores of forecasts beside the seasonal naive forecast, and their means over panels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import panels


def scores(panel: panels.Panel, forecasts: np.ndarray, quantiles: Sequence[float]) -> dict[str, float]:
    """MASE, weighted quantile loss and coverage of the middle 80 percent, and the first two over the seasonal naive.

    MASE is the mean over series of absolute errors in units of the seasonal naive error on the rows before the first
    cutoff; series where that is 0 do not count. The weighted quantile loss is over the sum of absolute values. Both are
    divided by those of the seasonal naive point forecast, whose quantile losses are its absolute errors. A forecast
    that is not finite is a failure: the seasonal naive forecast takes its place.

    Args:
        panel: the series.
        forecasts: point forecast and quantiles, ``(windows, n, horizon, 1 + K)``.
        quantiles: their K levels.
    """
    truth = np.stack([panel.truth(rows) for rows in panel.held_back])  # (W, n, H)
    naive = np.stack([_seasonal_naive(panel, rows) for rows in panel.held_back])
    failed = ~np.isfinite(forecasts).all((2, 3))
    found = np.where(failed[..., None, None], naive[..., None], forecasts)
    error, naive_error = np.abs(truth - found[..., 0]), np.abs(truth - naive)
    levels, known = np.array(quantiles), ~np.isnan(truth)
    under = truth[..., None] - found[..., 1:]  # (W, n, H, K)
    pinball = 2 * np.maximum(levels * under, (levels - 1) * under).mean(-1)
    mase, naive_mase = _mase(panel, error), _mase(panel, naive_error)
    inside = (found[..., 1] <= truth) & (truth <= found[..., -1])
    return {
        "mase": mase,
        "wql": float(np.nansum(pinball) / np.nansum(np.abs(truth))),
        "coverage80": float(100 * inside[known].mean()),
        "relative_mase": mase / naive_mase,
        "relative_wql": float(np.nansum(pinball) / np.nansum(naive_error)),
        "failures": int(failed.sum()),
        "forecasts": failed.size,
    }


def _seasonal_naive(panel: panels.Panel, rows: int) -> np.ndarray:
    """The last season, repeated over the horizon, ``(n, horizon)``; missing values are those of the season earlier."""
    found = []
    for values in panel.series.values():
        past = values[: len(values) - rows]
        last = past[-panel.season :].copy()
        for back in range(2, len(past) // panel.season + 1):
            before = past[len(past) - back * panel.season :][: panel.season]
            last = np.where(np.isnan(last), before, last)
        found.append(np.resize(np.where(np.isnan(last), np.nanmean(past), last), panel.horizon))
    return np.stack(found)


def _mase(panel: panels.Panel, error: np.ndarray) -> float:
    first, scales = panel.held_back[0], []
    for values in panel.series.values():
        past = values[: len(values) - first]
        scales.append(np.nanmean(np.abs(past[panel.season :] - past[: -panel.season])))
    unit = np.array(scales)
    usable = unit > 0
    each = np.nansum(error, (0, 2)) / np.maximum((~np.isnan(error)).sum((0, 2)), 1)
    return float((each[usable] / unit[usable]).mean())


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean, NaN of nothing."""
    logs = np.log(list(values))
    return float(np.exp(logs.mean())) if len(logs) else float("nan")


def bootstrap(values: Sequence[float], n: int = 2000) -> tuple[float, float]:
    """The middle 90 percent of geometric means of panels drawn with replacement."""
    logs = np.log(values)
    drawn = np.random.default_rng(0).integers(len(logs), size=(n, len(logs)))
    lo, hi = np.exp(np.quantile(logs[drawn].mean(1), (0.05, 0.95)))
    return float(lo), float(hi)


def win_rates(errors: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Percent of other models that a model beats, averaged over panels; a tie is half a win.

    Args:
        errors: for each model its error on each panel; a pair of models is compared where both have one.
    """
    rates: dict[str, Any] = {}
    for model, own in errors.items():
        wins = [win for other, theirs in errors.items() if other != model for win in _wins(own, theirs)]
        rates[model] = 100 * float(np.mean(wins)) if wins else float("nan")
    return rates


def win_matrix(errors: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Percent of panels on which the model of the row beats that of the column, NaN where no panel has both."""
    return {
        model: {
            other: 100 * float(np.mean(wins)) if other != model and (wins := _wins(own, theirs)) else float("nan")
            for other, theirs in errors.items()
        }
        for model, own in errors.items()
    }


def _wins(own: Mapping[str, float], theirs: Mapping[str, float]) -> list[float]:
    """1 for each shared panel where ``own`` is lower, 0.5 where both are equal."""
    return [(error < theirs[panel]) + 0.5 * (error == theirs[panel]) for panel, error in own.items() if panel in theirs]
