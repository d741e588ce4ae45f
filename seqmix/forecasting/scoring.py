"""Errors of forecasts by the losses of utilsforecast."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from utilsforecast import losses

from seqmix.errors import DataError, check_choice
from seqmix.forecasting.fitted import Fitted

# columns of intervals and quantiles
_BOUND = re.compile(r"-(lo|hi)-|_q0?\.")
_LOSSES: dict[str, Callable[..., Any]] = {
    "mse": losses.mse,
    "mae": losses.mae,
    "rmse": losses.rmse,
    "mape": losses.mape,
    "smape": losses.smape,
    "bias": losses.bias,
    # of errors in units of those that the season before makes
    "mase": losses.mae,
}


def errors(
    frame: pd.DataFrame, fitted: Fitted, metrics: Sequence[str], *, by: str | None, standardized: bool
) -> pd.DataFrame:
    """A row for each metric and model, of the mean over the series, or of each value of ``by``.

    Args:
        frame: forecasts beside the truth, with ``cutoff``; rows without a truth do not count.
        fitted: what was learned, for scales and names.
        metrics: names of metrics.
        by: column to have errors apart by.
        standardized: errors in units of the deviation of the training rows.
    """
    for metric in metrics:
        check_choice("metrics", metric, tuple(_LOSSES))
    key, target = fitted.reading.id_col, str(fitted.reading.target_col)
    facts = (key, fitted.reading.time_col, target, "cutoff")
    models = [str(c) for c in frame if c not in facts and not _BOUND.search(str(c))]
    if not models or target not in frame or (by is not None and by not in frame):
        raise DataError(
            f"columns are {[str(c) for c in frame]}; evaluate needs {target!r}, a column for each model"
            f"{'' if by is None else f', and {by!r}'}"
        )
    # the losses would tell cutoffs apart
    known: Any = frame[frame[target].notna()].reset_index(drop=True).drop(columns=[] if by == "cutoff" else "cutoff")
    at = fitted.ids.get_indexer(pd.Index(known[key]))
    scale = fitted.deviation[at] if standardized else np.ones(len(at))
    if (at < 0).any() and (standardized or "mase" in metrics):
        raise DataError(f"series {known[key].iloc[int((at < 0).argmax())]!r} was not fitted: it has no scale, no MASE")
    parts = []
    for metric in metrics:
        unit = fitted.naive[at] if metric == "mase" else scale
        scaled = known.assign(**{name: known[name] / unit for name in (*models, target)})
        found = _LOSSES[metric](scaled, models=models, id_col=by or key, target_col=target)
        if by is None:
            values = found[models].mean()
            parts.append(pd.DataFrame({"metric": metric, "model": models, "value": values.to_numpy()}))
        else:
            long = found.melt(id_vars=by, value_vars=models, var_name="model", value_name="value")
            parts.append(long.assign(metric=metric)[["metric", "model", by, "value"]])
    return pd.concat(parts, ignore_index=True)
