"""Pictures of forecasts and backtests: history, forecasts and intervals of each series.

Figures are made outside of pyplot: show one in a notebook, or ``savefig`` it. Colors are those of Okabe and Ito, which
every kind of color vision tells apart; lines are labeled where they end, not in a legend.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqmix.errors import DataError
from seqmix.forecasting.drawing import (
    GRAY,
    INK,
    colors,
    date_axis,
    name_lines,
    new_figure,
    plain_times,
    set_title,
    shortened,
)
from seqmix.forecasting.kind import names_of, to_pandas
from seqmix.forecasting.times import parse_times


def plot_forecast(
    history: Any,
    forecast: Any,
    *,
    ids: Sequence[Any] | None = None,
    levels: Sequence[float] | None = None,
    max_series: int | None = None,
    max_history: int | None = None,
    unit: str | None = None,
    id_col: str = "unique_id",
    time_col: str = "ds",
    target_col: str = "y",
) -> Figure:
    """History, forecasts after it or from every cutoff, and their intervals, a panel for each series.

    Args:
        history: long frame; the truth of the forecast steps is drawn too where it is in it.
        forecast: result of ``predict`` or ``cross_validation``: a column for each model, with ``-lo-90`` and ``-hi-90``
            where known.
        ids: series to draw. Default: the first ``max_series``; a note says how many there are.
        levels: intervals to draw, in percent. Default: all that there are. Beside the first model, others show the
            bounds of the widest alone.
        max_series: number of panels when ``ids`` are not given. Default: 6, or 4 for forecasts from several cutoffs.
        max_history: time steps of history before the first forecast. Default: twice the horizon, at least 12.
        unit: unit of the values, for the axis. Default: the name of the target column.
        id_col: column of the series.
        time_col: column of the time stamps.
        target_col: column of the truth.

    Raises:
        DataError: if an id or a level is not in the frames.
    """
    names = (id_col, time_col, target_col)
    history, forecast = (
        frame.assign(**{time_col: parse_times(frame[time_col], time_col)})
        for frame in (to_pandas(history), to_pandas(forecast))
    )
    backtest = "cutoff" in forecast
    max_series = max_series or (4 if backtest else 6)
    known = list(pd.unique(forecast[id_col]))
    notes = [f"{max_series} of {len(known)} series"] if ids is None and max_series < len(known) else []
    ids = known[:max_series] if ids is None else names_of(ids)
    unknown = [i for i in ids if i not in known]
    if unknown:
        raise DataError(f"no forecast of series {unknown[0]!r}; the frame has {', '.join(map(repr, known[:5]))}")
    models = _models(forecast, names)
    levels = _levels(forecast, models, levels)
    columns = min(1 if backtest else 2, len(ids))
    figure, all_axes = new_figure(len(ids), columns, (9 / columns if columns > 1 else 9, 2.6 if len(ids) > 1 else 3.8))
    for i, (axes, which) in enumerate(zip(all_axes, ids, strict=True)):
        past = history.loc[history[id_col] == which].sort_values(by=time_col)
        ahead = forecast.loc[forecast[id_col] == which].sort_values(by=time_col)
        # models and levels are labeled once, in the panels with none to their right
        _draw(axes, past, ahead, models, levels, max_history, names, named=i == columns - 1)
        set_title(axes, shortened(str(which), 70 // columns))
        if i % columns == 0:
            axes.set_ylabel(shortened(unit or target_col, 30), color=GRAY, fontsize=9)
    if levels and len(models) > 1:
        percent = ", ".join(f"{level:g}" for level in levels)
        notes.append(f"bands: {percent} % intervals of {models[0]}; dashed: {levels[-1]:g} % intervals of the others")
    if notes:
        figure.supxlabel(". ".join(notes), x=0.01, ha="left", color=GRAY, fontsize=9)
    return figure


def _draw(
    axes: Axes,
    past: pd.DataFrame,
    ahead: pd.DataFrame,
    models: list[str],
    levels: list[float],
    max_history: int | None,
    names: tuple[str, str, str],
    *,
    named: bool,
) -> None:
    """One series: its history, and its forecasts from each cutoff."""
    _, time_col, target_col = names
    windows = [rows for _, rows in ahead.groupby("cutoff")] if "cutoff" in ahead else [ahead]
    first, last = ahead[time_col].min(), ahead[time_col].max()
    before = past.loc[past[time_col] < first]
    keep = max(12, 2 * len(windows[0])) if max_history is None else max_history
    shown = pd.concat([before.tail(keep), past.loc[past[time_col].between(first, last)]])
    axes.plot(plain_times(shown[time_col]), shown[target_col], color=INK, linewidth=1.1)
    lines = []
    for i, (color, model) in enumerate(zip(colors(), models, strict=False)):
        for rows in windows:
            # from the last observed value on
            start = past.loc[past[time_col] < rows[time_col].iloc[0]].tail(1 if keep else 0)
            x, y = (
                np.r_[plain_times(start[c]), plain_times(rows[d])]
                for c, d in ((time_col, time_col), (target_col, model))
            )
            # intervals of one model are nested, those of several models would hide each other
            for level in sorted(levels, reverse=True)[: None if i == 0 else 1]:
                bounds = [f"{model}-{side}-{level:g}" for side in ("lo", "hi")]
                if bounds[0] not in rows:
                    continue
                lo, hi = (np.r_[plain_times(start[target_col]), rows[b].to_numpy(float)] for b in bounds)
                if i == 0:
                    axes.fill_between(x, lo, hi, color=color, alpha=0.16, linewidth=0)
                else:
                    axes.plot(x, np.stack([lo, hi], 1), color=color, linewidth=0.8, linestyle=(0, (3, 2)))
            # the first model on top
            axes.plot(x, y, color=color, linewidth=1.7 if i == 0 else 1.2, zorder=3 - i / len(models))
        lines.append((shortened(model, 24), color, float(windows[-1][model].iloc[-1])))
    if len(windows) > 1 or len(past) > len(before):
        # mark where each window begins, since the truth goes on
        for rows in windows:
            axes.axvline(plain_times(rows[time_col])[0], color=GRAY, linewidth=0.7, linestyle=(0, (2, 3)), zorder=0)
    date_axis(axes, plain_times(ahead[time_col]))
    axes.margins(x=0.01)
    if named:
        note = f"\n{', '.join(f'{level:g}' for level in levels)} %" if levels else ""
        name_lines(axes, [(model + note * (len(models) == 1), color, y) for model, color, y in lines])


def _models(frame: pd.DataFrame, names: tuple[str, str, str]) -> list[str]:
    """Columns that are point forecasts."""
    numbers = [c for c in frame.select_dtypes("number").columns if c not in (*names, "cutoff")]
    return [c for c in numbers if "-lo-" not in c and "-hi-" not in c and "_q0." not in c]


def _levels(frame: pd.DataFrame, models: list[str], wanted: Sequence[float] | None) -> list[float]:
    """Levels of the intervals in the frame, rising; those wanted, if they are among them."""
    marks = [c.rpartition("-lo-") for c in frame.columns]
    known = sorted({float(level) for model, mark, level in marks if mark and model in models})
    wanted = None if wanted is None else np.atleast_1d(wanted).tolist()
    missing = [level for level in wanted or [] if level not in known]
    if missing:
        have = ", ".join(f"{level:g}" for level in known) or "none"
        raise DataError(f"no intervals of level {missing[0]:g} in the forecasts, they have {have}; predict with levels")
    return known if wanted is None else sorted(wanted)
