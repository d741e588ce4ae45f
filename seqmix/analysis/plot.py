"""Plots of filled gaps, anomaly scores and classes. Every function returns a ``Figure`` outside of pyplot."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqmix.analysis.outputs import Sides
from seqmix.analysis.series import Collection
from seqmix.errors import DataError
from seqmix.forecasting.drawing import (
    COLORS,
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


def plot_gaps(
    series: Collection,
    filled: Sequence[np.ndarray],
    bounds: Mapping[float, Sides],
    *,
    ids: Sequence[Any] | None,
    max_panels: int,
    steps: int,
) -> Figure:
    """Observed values, and in color the filled gaps, a panel for each series and channel.

    Args:
        series: the series, as read.
        filled: a value for each cell, ``(T_i, C)`` per series.
        bounds: lower and upper bounds by level.
        ids: series to draw. Default: those with most missing values.
        max_panels: maximum number of panels.
        steps: time steps of a panel: those with most missing values.
    """
    missing = [np.isnan(x) for x in series.values]
    order = np.argsort([-m.sum() for m in missing], kind="stable") if ids is None else places(series, ids)
    panels = [(i, c) for i in order for c in range(len(series.channels)) if ids is not None or missing[i][:, c].any()]
    panels = panels[:max_panels] or [(int(order[0]), 0)]
    figure, all_axes = new_figure(len(panels), 1, (9, 2.6 if len(panels) > 1 else 3.8))
    for axes, (i, c) in zip(all_axes, panels, strict=True):
        gaps = missing[i][:, c]
        first = _busiest(gaps, steps)
        cut = slice(first, first + steps)
        times, hidden = times_of(series, i)[cut], gaps[cut]
        values, y = series.values[i][cut, c], filled[i][cut, c]
        # a filled piece begins and ends at the observed values beside it
        near = hidden | np.r_[hidden[1:], False] | np.r_[False, hidden[:-1]]
        for low, high in bounds.values():
            below, above = (np.where(near, side[i][cut, c], np.nan) for side in (low, high))
            axes.fill_between(times, below, above, color=COLORS[1], alpha=0.2, linewidth=0)
        axes.plot(times, values, color=INK, linewidth=1.1)
        axes.plot(times, np.where(near, y, np.nan), color=COLORS[1], linewidth=1.5)
        alone = hidden & ~np.r_[False, hidden[:-1]] & ~np.r_[hidden[1:], False]
        axes.plot(times[alone], y[alone], "o", color=COLORS[1], markersize=2.5)
        date_axis(axes, times)
        axes.margins(x=0.01)
        set_title(axes, panel_name(series, i, c), f"{int(gaps.sum()):,} of {len(gaps):,} values filled")
    all_axes[0].annotate(
        "filled", (1, 1), (0, -4), "axes fraction", "offset points", color=COLORS[1], ha="right", va="top"
    )
    return figure


def plot_scores(
    series: Collection,
    scores: Sequence[np.ndarray],
    threshold: float,
    *,
    labels: np.ndarray | None,
    i: int,
    max_channels: int,
) -> Figure:
    """Values, the score of each row under them, and in color the rows above the threshold.

    Args:
        series: the series, as read.
        scores: score of each row, ``(T_i,)`` per series.
        threshold: rows above it are anomalies.
        labels: true anomalies of the series, ``(T_i,)``. Default: not known.
        i: number of the series.
        max_channels: maximum number of channels to draw: those that differ most from themselves in flagged rows.
    """
    values, score, times = series.values[i], scores[i], times_of(series, i)
    flagged = score > threshold
    spread = np.nanstd(values, 0) + 1e-12
    far = np.nanmax(np.abs(values - np.nanmedian(values, 0)) / spread * (flagged | ~flagged.any())[:, None], 0)
    shown = np.sort(np.argsort(-far, kind="stable")[:max_channels])
    figure, all_axes = new_figure(len(shown) + 1, 1, (9, 2.1))
    for axes, c in zip(all_axes, shown, strict=False):
        axes.plot(times, values[:, c], color=INK, linewidth=0.9)
        axes.plot(times, np.where(flagged, values[:, c], np.nan), ".", color=COLORS[1], markersize=4)
        set_title(axes, panel_name(series, i, int(c)))
    bottom = all_axes[-1]
    bottom.plot(times, score, color=COLORS[0], linewidth=1)
    bottom.axhline(threshold, color=COLORS[1], linewidth=1, linestyle=(0, (4, 3)))
    bottom.set_ylim(bottom=min(0.0, float(np.nanmin(score))))
    name_lines(bottom, [("threshold", COLORS[1], threshold)])
    set_title(bottom, "Anomaly score", f"{int(flagged.sum()):,} of {len(flagged):,} rows above the threshold")
    for axes in all_axes:
        if labels is not None:
            for a, b in runs(np.asarray(labels, bool)):
                axes.axvspan(times[a], times[min(b, len(times) - 1)], color=COLORS[2], alpha=0.18, linewidth=0)
        date_axis(axes, times)
        axes.margins(x=0.01)
    return figure


def plot_classes(series: Collection, predicted: np.ndarray, classes: np.ndarray, truth: np.ndarray | None) -> Figure:
    """Mean and spread of the series of each class, and a table of true against predicted classes where they are known.

    Args:
        series: the series, as read.
        predicted: predicted class of each series.
        classes: the classes.
        truth: true class of each series. Default: not known.
    """
    shown = classes[:6]
    figure, all_axes = new_figure(1 + (truth is not None), 1 + (truth is not None), (5.2, 3.8))
    axes, given = all_axes[0], predicted if truth is None else truth
    lines = []
    for color, name in zip(colors(), shown, strict=False):
        members = [series.values[i][:, 0] for i in np.flatnonzero(given == name)]
        if not members:
            continue
        wide = np.full((len(members), max(map(len, members))), np.nan)
        for row, x in zip(wide, members, strict=True):
            row[: len(x)] = x
        # later steps exist in longer series only
        middle, low, high = np.nanquantile(wide[:, ~np.isnan(wide).all(0)], [0.5, 0.25, 0.75], axis=0)
        steps = np.arange(len(middle))
        axes.plot(steps, middle, color=color, linewidth=1.6)
        axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        lines.append((shortened(str(name), 18), color, float(middle[-1])))
    axes.margins(x=0.01)
    axes.set_xlabel("time step", color=GRAY, fontsize=9)
    name_lines(axes, lines)
    what = "predicted" if truth is None else "true"
    set_title(axes, f"Median of each {what} class", f"channel {series.channels[0]}" * (len(series.channels) > 1))
    if truth is not None:
        _confusion(all_axes[1], predicted, classes, truth)
    return figure


def places(series: Collection, ids: Sequence[Any]) -> list[int]:
    """Numbers of series by their names.

    Raises:
        DataError: for a name that none has.
    """
    at = series.ids.get_indexer(list(ids))
    if (at < 0).any():
        known = ", ".join(map(repr, series.ids[:5]))
        raise DataError(f"no series {list(ids)[int((at < 0).argmax())]!r}; there are {known}")
    return at.tolist()


def times_of(series: Collection, i: int) -> np.ndarray:
    """Times of the steps of a series; their numbers where it has none."""
    if series.times is None:
        return np.arange(len(series.values[i]))
    ends = np.cumsum(series.lengths)
    return plain_times(pd.Series(series.times[ends[i] - series.lengths[i] : ends[i]]))


def panel_name(series: Collection, i: int, c: int) -> str:
    """Series and channel in a title."""
    channel = series.channels[c] if series.form == "frame" else f"channel {series.channels[c]}"
    alone = len(series.values) == 1
    return shortened(channel if alone else f"{series.ids[i]}: {channel}", 60)


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """First row and last + 1 row of every run of True."""
    edges = np.flatnonzero(np.diff(np.r_[False, flags, False]))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _busiest(flags: np.ndarray, steps: int) -> int:
    """First of the ``steps`` rows with most flags, which are in the middle where they can be."""
    if len(flags) <= steps:
        return 0
    total = np.r_[0, np.cumsum(flags)]
    within = total[steps:] - total[:-steps]
    best = np.flatnonzero(within == within.max())
    return int(best[len(best) // 2])


def _confusion(axes: Axes, predicted: np.ndarray, classes: np.ndarray, truth: np.ndarray) -> None:
    names = list(dict.fromkeys([*classes.tolist(), *np.unique(truth).tolist()]))
    at = {name: k for k, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, ([at[t] for t in truth.tolist()], [at[p] for p in predicted.tolist()]), 1)
    share = counts / counts.sum(1, keepdims=True).clip(min=1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            color = "white" if share[row, column] > 0.6 else INK
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color, fontsize=9)
    labels = [shortened(str(name), 12) for name in names]
    axes.set_xticks(range(len(names)), labels)
    axes.set_yticks(range(len(names)), labels)
    axes.set_xlabel("predicted", color=GRAY, fontsize=9)
    axes.set_ylabel("true", color=GRAY, fontsize=9)
    set_title(axes, "Series by class", f"accuracy {np.mean(predicted == truth):.1%}")
