"""Pictures on the pages of results, drawn of the recorded rows at build, for the light and the dark page."""

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from seqmix.commands import justdense, report

Drawing = Callable[[Path, Path], None]
_COLORS = {"light": ("#1f2328", "#ffffff"), "dark": ("#cfd0d0", "#131416")}
_CYCLE = ["#3b82c4", "#d9822b", "#4a9d5b", "#c44e52", "#8a72b5", "#a07a5a", "#cf7fb4", "#8c8c8c", "#b5a642", "#35a7b5"]


def draw(root: Path, name: str, theme: str, path: Path) -> tuple[int, int] | None:
    """Draw a picture of recorded results as SVG; its width and height in pixels, None where nothing is recorded.

    Args:
        root: of the repository.
        name: of the picture.
        theme: ``light`` or ``dark``.
        path: file to write.
    """
    ink, paper = _COLORS[theme]
    colors = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style = dict.fromkeys(colors, ink) | {
        "axes.prop_cycle": matplotlib.cycler(color=_CYCLE),
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "svg.hashsalt": name,
        "image.cmap": "viridis",
        # what must stand out from the page itself
        "patch.edgecolor": paper,
    }
    with matplotlib.rc_context(style):
        path.unlink(missing_ok=True)
        _PICTURES[name](root, path)
    if not path.exists():
        return None
    found = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', path.read_text()[:2000])
    assert found is not None, f"{path} has no size"
    return round(float(found[1]) * 4 / 3), round(float(found[2]) * 4 / 3)


def _rows(root: Path, name: str) -> tuple[Any, Any]:
    """A script of the benchmarks and the rows that it wrote."""
    folder = str(root / "benchmarks")
    sys.path.insert(0, folder)
    try:
        script = importlib.import_module(name)
    finally:
        sys.path.remove(folder)
    return script, script.read(root / "benchmarks" / "results" / f"{name}.csv")


def _zoo(root: Path, path: Path) -> None:
    script, rows = _rows(root, "zoo")
    script.draw(rows, path)


def _scaling(root: Path, path: Path) -> None:
    script, rows = _rows(root, "scaling")
    script.draw(rows, path)


def _detection_scores(root: Path, path: Path) -> None:
    script, _ = _rows(root, "detection")
    script.picture(path)


def _wins(root: Path, path: Path) -> None:
    script, rows = _rows(root, "zoo")
    lines = script.wins(rows)
    names = [line["model"] for line in lines]
    cells = np.array([[float(line[name] or "nan") for name in names] for line in lines])
    _heat(cells, names, names, "% of panels won", path, digits=0, cmap="RdBu", limits=(0, 100))


def _accuracy(name: str, root: Path, path: Path) -> None:
    """Accuracy of each mixer on each task, the best on average first."""
    script, rows = _rows(root, name)
    lines = script.table(rows)
    if not lines:
        return
    tasks = [key for key in lines[0] if key not in ("mixer", "seeds")]
    cells = np.array([[float((line[task] or "nan").split()[0]) for task in tasks] for line in lines])
    order = np.argsort(-np.nanmean(cells, 1), kind="stable")
    _heat(cells[order], [lines[i]["mixer"] for i in order], tasks, "accuracy", path, digits=2, limits=(0, 1))


def _heat(
    cells: np.ndarray,
    lines: Sequence[str],
    columns: Sequence[str],
    label: str,
    path: Path,
    *,
    digits: int,
    limits: tuple[float, float],
    cmap: str = "viridis",
) -> None:
    wide = max(0.62, 0.09 * max(map(len, columns)) if len(columns) < 6 else 0)
    figure = Figure(figsize=(1.6 + wide * len(columns), 0.9 + 0.24 * len(lines)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(cells, vmin=limits[0], vmax=limits[1], cmap=cmap, aspect="auto")
    for (y, x), value in np.ndenumerate(cells):
        if not np.isnan(value):
            r, g, b, _ = image.cmap(image.norm(value))
            ink = "black" if 0.3 * r + 0.6 * g + 0.1 * b > 0.5 else "white"
            axes.text(x, y, f"{value:.{digits}f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_yticks(range(len(lines)), lines, fontsize=9)
    turned = {"rotation": 30, "ha": "left", "rotation_mode": "anchor"} if len(columns) >= 6 else {}
    axes.set_xticks(range(len(columns)), columns, fontsize=9, **turned)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xlabel(label, fontsize=9)
    axes.spines[:].set_visible(False)
    figure.savefig(path)


def _kernels(root: Path, path: Path) -> None:
    """Time of the forward and backward pass of each implementation of each op, allocator tuned."""
    _, rows = _rows(root, "kernels")
    tuned = [row for row in rows if row["allocator"] == "tuned"]
    ops = list(dict.fromkeys(row["op"] for row in tuned))
    kinds = ("native", "torch", "peer", "reference")
    figure = Figure(figsize=(8, 0.9 + 0.45 * len(ops)), layout="constrained")
    axes = figure.subplots()
    for color, kind in enumerate(kinds):
        own = [row for row in tuned if (row["implementation"] if row["implementation"] in kinds else "peer") == kind]
        times = [float(row["forward + backward ms"]) for row in own]
        axes.scatter(times, [ops.index(row["op"]) for row in own], s=45, color=f"C{color}", label=kind, zorder=2)
        for i, (row, time) in enumerate(zip(own, times, strict=True)):
            if kind == "peer":
                place, offset = (time, ops.index(row["op"])), (0, -14 if i % 2 else 7)
                axes.annotate(row["implementation"], place, offset, textcoords="offset points", ha="center", fontsize=7)
    axes.set_yticks(range(len(ops)), ops)
    axes.set_ylim(len(ops) - 0.4, -0.7)
    axes.set(xscale="log", xlabel="milliseconds, forward and backward")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper right", ncols=len(kinds), frameon=False)
    figure.savefig(path)


def _calibration(root: Path, path: Path) -> None:
    """Coverage and width of the intervals of each method, at both levels."""
    script, rows = _rows(root, "calibration")
    lines = script.table(rows)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, level in zip(figure.subplots(1, 2), script.LEVELS, strict=True):
        axes.axvline(level, color="0.5", linestyle="--", linewidth=1)
        for i, line in enumerate(lines):
            calibrated = line["intervals"] != "none"
            label = f"{line['model']}, {line['loss']}, {line['intervals']}"
            x, y = float(line[f"coverage at {level} %"]), float(line[f"width at {level} %"])
            face = f"C{i}" if calibrated else "none"
            axes.scatter(x, y, s=60, facecolors=face, edgecolors=f"C{i}", marker="o", label=label)
        axes.set(xlabel=f"values inside the intervals of {level} %, %", ylabel="mean width")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(path)


def _dots(kind: str, root: Path, path: Path) -> None:
    report.draw(root / "configs" / "results", root / "configs" / "published", kind, path)


def _ranks(root: Path, path: Path) -> None:
    justdense.draw(justdense.cells_of(justdense.read(root / "configs/results/study"), report.all_tasks()), path)


def _images(root: Path, path: Path) -> None:
    script, rows = _rows(root, "fashion_mnist")
    script.draw(script.table(rows), path)


def _published(root: Path, path: Path) -> None:
    """Test MSE of TSM2 and of Ridge over the published one of TSM2, by data and horizon."""
    lines = report.summary(root / "configs" / "results", root / "configs" / "published")
    ours = {(line["config"].split()[0], line["steps"].split()[-1]): line for line in lines}
    names = [config for config, _ in ours if config.startswith("tsm2_")]
    configs = list(dict.fromkeys(names))
    horizons = sorted({steps for config, steps in ours if config in configs}, key=int)
    titles, cells = [], []
    for config in configs:
        known = {steps: float(ours[config, steps]["published"]) for steps in horizons if (config, steps) in ours}
        for model in (config, config.replace("tsm2", "ridge")):
            found = [ours.get((model, steps)) for steps in horizons]
            pairs = zip(found, horizons, strict=True)
            cells.append([float(x["test MSE"].split()[0]) / known[h] if x and h in known else np.nan for x, h in pairs])
            titles.append(f"{ours[config, horizons[0]]['data']}, {'TSM2' if model == config else 'Ridge'}")
    _heat(np.array(cells), titles, horizons, "MSE / published", path, digits=2, limits=(0.7, 1.3), cmap="RdBu_r")


_PICTURES: dict[str, Drawing] = {
    "zoo": _zoo,
    "wins": _wins,
    "published": _published,
    "calibration": _calibration,
    "ranks": _ranks,
    "images": _images,
    "kernels": _kernels,
    "scaling": _scaling,
    "detection_scores": _detection_scores,
    **{name: partial(_accuracy, name) for name in ("recall", "state_tracking")},
    **{name: partial(_dots, name) for name in ("lra", "classification", "imputation", "detection")},
}
