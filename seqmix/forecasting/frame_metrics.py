"""Metrics that are functions of a frame, as in utilsforecast, called with the arguments of their signature."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import pandas as pd

from seqmix.errors import DataError
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.long import Long
from seqmix.forecasting.times import parse_times


class Offer(NamedTuple):
    """Arguments that a metric may take."""

    models: list[str]
    levels: Sequence[float]  # of intervals that all models have, in percent
    quantiles: Mapping[float, Mapping[str, str]]  # columns of the models by quantile, those that all of them have
    train: Long | None
    season: int | None


def takes_frame(metric: Any) -> TypeGuard[Callable[..., Any]]:
    """Whether a metric is a function ``(df, models, ...)`` rather than one of truth and forecast."""
    try:
        return {"df", "models"} <= inspect.signature(metric).parameters.keys()
    except (TypeError, ValueError):
        # names have no signature, nor have some functions that are not written in Python
        return False


def scales_itself(metric: Callable[..., Any]) -> bool:
    """Whether a metric wants the rows before the cutoffs to divide errors by."""
    bound = metric.keywords if isinstance(metric, partial) else {}
    return "train_df" in inspect.signature(metric).parameters and "train_df" not in bound


def frame_metric(
    frame: pd.DataFrame, metric: Callable[..., Any], key: str, how: Reading, offer: Offer
) -> list[tuple[str, pd.DataFrame]]:
    """Frames of one metric, a row for each value of ``key`` and a column for each model, under the name of a line.

    There is a line for each level, or each quantile, where the metric takes one at a time. Arguments that a
    ``functools.partial`` holds are left as they are.

    Args:
        frame: forecasts beside the truth, with the cutoff as ``origin``.
        metric: the function.
        key: column to group errors by.
        how: names of the columns.
        offer: arguments that the metric may take.

    Raises:
        DataError: if the metric needs an argument that is not available.
    """
    name = getattr(metric.func if isinstance(metric, partial) else metric, "__name__", type(metric).__name__)
    bound = metric.keywords if isinstance(metric, partial) else {}
    asked = inspect.signature(metric).parameters
    options: dict[str, Any] = {"id_col": key, "time_col": how.time_col, "target_col": how.target_col}
    if scales_itself(metric):
        if key not in (how.id_col, "origin"):
            raise DataError(f"{name} is measured for each series and cutoff; use by={how.id_col!r} or 'cutoff'")
        if offer.train is None:
            raise DataError(f"{name} needs the rows before the cutoffs; pass train_df=...")
        frame = frame.assign(origin=parse_times(frame["origin"], "cutoff"))
        options |= {"id_col": how.id_col, "cutoff_col": "origin", "train_df": _rows(offer.train, how)}
        options["seasonality"] = offer.season or offer.train.clock.season
    options = {option: value for option, value in options.items() if option in asked and option not in bound}
    found = [
        (f"{name}{label}", metric(frame, **options, **given)) for label, given in _forms(name, asked, bound, offer)
    ]
    return [(label, part.groupby(key, sort=False)[offer.models].mean().reset_index()) for label, part in found]


def _forms(
    name: str, asked: Mapping[str, inspect.Parameter], bound: Mapping[str, Any], offer: Offer
) -> list[tuple[str, dict[str, Any]]]:
    """Ends of the names of lines, and the arguments of each."""
    if "level" in asked and "level" not in bound:
        if not offer.levels:
            raise DataError(f"{name} needs intervals of every model; forecast with levels=[80], for example")
        return [(f"-{level:g}", {"models": offer.models, "level": plain(level)}) for level in offer.levels]
    all_at_once = "quantiles" in asked
    # of a model's columns, one for each quantile, or one at a time
    if not all_at_once and not str(asked["models"].annotation).lower().endswith("dict[str, str]"):
        return [("", {"models": offer.models})]
    wanted = [float(q) for q in bound.get("quantiles", [bound["q"]] if "q" in bound else offer.quantiles)]
    if not wanted or not offer.quantiles.keys() >= {*wanted}:
        raise DataError(f"{name} needs quantiles of every model; forecast with levels=[80], or quantiles=[0.1, 0.9]")
    if all_at_once:
        columns = {model: [offer.quantiles[q][model] for q in wanted] for model in offer.models}
        return [("", {"models": columns, **({} if "quantiles" in bound else {"quantiles": np.array(wanted)})})]
    one = "q" in asked and "q" not in bound
    return [(f"-{q:g}", {"models": dict(offer.quantiles[q]), **({"q": q} if one else {})}) for q in wanted]


def plain(level: float) -> Any:
    """A level as it stands in the name of a column."""
    return int(level) if float(level).is_integer() else level


def _rows(long: Long, how: Reading) -> pd.DataFrame:
    lengths = np.diff(long.indptr)
    at = np.arange(len(long.y)) - np.repeat(long.indptr[:-1], lengths)
    stamps = long.clock.after(np.repeat(long.first, lengths), at)
    ids = long.ids.take(np.repeat(np.arange(len(long.ids)), lengths))
    return pd.DataFrame({how.id_col: ids, how.time_col: long.clock.column(stamps), how.target_col: long.y})
