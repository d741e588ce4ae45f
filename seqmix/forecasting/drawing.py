"""Shared parts of plots: panels, titles, date axes, names of lines at their ends.

Figures are made outside of pyplot. Colors are those of Okabe and Ito, which every kind of color vision tells apart.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, GRAY, LIGHT = "#222222", "#8A8A8A", "#E6E6E6"


def plain_times(column: pd.Series) -> np.ndarray:
    """Time stamps to draw, those of a zone as its clocks show them; other columns as they are."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        column = column.dt.tz_localize(None)
    return column.to_numpy()


def new_figure(count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels, each of ``size`` inches."""
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    panels = []
    for i in range(count):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color=LIGHT, linewidth=0.8)
        for side in ("left", "right", "top"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color("#BBBBBB")
        axes.tick_params(colors=GRAY, labelsize=8.5, length=0)
        axes.tick_params(axis="x", length=3, color="#BBBBBB")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(_short))
        axes.xaxis.get_offset_text().set(color=GRAY, fontsize=8.5)
        panels.append(axes)
    return figure, panels


def date_axis(axes: Axes, times: np.ndarray) -> None:
    """Set short date labels on a panel whose times are dates."""
    if np.issubdtype(times.dtype, np.datetime64):
        locator = AutoDateLocator(minticks=3, maxticks=7)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def shortened(text: str, most: int) -> str:
    """A text without its middle where it is longer than ``most`` letters."""
    return text if len(text) <= most else f"{text[: most // 2]}\u2026{text[-(most // 2 - 1) :]}"


def set_title(axes: Axes, title: str, note: str = "") -> None:
    """A title on the left, and a note on the right."""
    axes.set_title(title, loc="left", fontsize=10.5, color=INK, fontweight="bold")
    if note:
        axes.set_title(note, loc="right", fontsize=9, color=GRAY)


def name_lines(axes: Axes, lines: Iterable[tuple[str, str, float]]) -> None:
    """Write the name of each line to the right of its end, in its color, without overlap."""
    low, high = axes.get_ylim()
    step, at = 0.085 * (high - low), -np.inf
    for name, color, y in sorted(lines, key=lambda line: line[2]):
        at = max(y, at + step)
        axes.annotate(
            name,
            (1, at),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=color,
            fontsize=9,
            va="center",
            annotation_clip=False,
        )


def _short(value: float, _: int) -> str:
    """``1.5k`` for 1500, so that the axis stays narrow."""
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if sign == 'k' else limit):g}{sign}"
    return f"{value:g}"


def colors() -> Iterable[str]:
    """The colors, again and again."""
    while True:
        yield from COLORS
