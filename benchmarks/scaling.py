"""Time and memory against length, channels, batch and number of series; exponents, and where a mixer's cost turns.

    python benchmarks/scaling.py [--axes length,channels,batch,series] [--names Hydra,Mamba] 2>/dev/null

Rows of ``results/scaling.csv`` are kept: a run that was stopped goes on, and new mixers are added. ``--plot`` alone
draws ``results/scaling.png``. Times are CPU seconds of the process on one thread, the median of ``--repeats``.
``ratio`` is the time in units of a fixed workload, one training step of Attention at length 1,024, that is measured
right before each run: a machine that is busy slows both. A curve stops where the next point would take more than
``--seconds``, going by the points before, and says so.

- ``length``: forward and backward of every mixer with its defaults, width 64, batch 1.
- ``channels``: forward and backward of forecasting models, 8 windows of 96 steps, horizon 24.
- ``batch``: the same with 7 channels.
- ``series``: a Forecaster in global mode on a parquet folder of series of 48 hours, context 24, horizon 8; each number
  of series in a process of its own; memory is the peak of what is not a file, beyond what there was before.
- ``rows``: the same with 200 series of quarters of an hour, context 288, horizon 96: a month has 2,880.
"""

import argparse
import csv
import ctypes
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import anonymous, peaks_of
from mixers import crossover, peak_bytes

from seqmix.commands.tables import print_table
from seqmix.environment import environment
from seqmix.mixers import Attention, Hydra, list_mixers, mixer_facts
from seqmix.models import TSM2, DLinear, EncoderForecaster, MixerForecaster, Ridge, VariateEncoder, ZeroShot
from seqmix.ops import tune_allocator
from seqmix.series import Series

RESULTS = Path(__file__).parent / "results" / "scaling.csv"
COLUMNS = ("axis", "name", "size", "seconds", "ratio", "MiB", "left out", "commit", "device", "torch")
SIZES = {
    "length": (256, 1024, 4096, 16384, 65536),
    "channels": (7, 21, 64, 200, 1000),
    "batch": (1, 4, 16, 64, 256, 1024),
    "series": (10, 1000, 30_000, 1_000_000),
    "rows": (480, 960, 2880),
}
MODELS: dict[str, Callable[[Series], torch.nn.Module]] = {
    "DLinear": DLinear,
    "Ridge": Ridge,
    "TSM2": TSM2,
    "Patches with Hydra": partial(MixerForecaster, mixer=Hydra),
    "Patches with Attention": partial(MixerForecaster, mixer=Attention),
    "Channels as tokens": partial(EncoderForecaster, encoder=VariateEncoder),
    "ZeroShot": ZeroShot,
}
# the curves of a Forecaster: model and what it does
VERBS = ("Ridge fit", "Ridge predict", "ZeroShot predict", "Hydra predict", "Hydra 20 steps")
# frequency, rows of a series or their number, context and horizon
PANELS = {"series": ("h", 48, 24, 8), "rows": ("15min", 200, 288, 96)}

Row = dict[str, Any]


def main() -> None:
    """Measure what the CSV lacks, print exponents and turning points, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", default=",".join(SIZES))
    parser.add_argument("--names", help="curves with commas between; default: all")
    parser.add_argument("--repeats", type=int, default=3, help="runs that count in a median")
    parser.add_argument("--seconds", type=float, default=3.0, help="limit on a point, 20 times that for a Forecaster")
    parser.add_argument("--gib", type=float, default=2.0, help="limit on the memory of a point")
    parser.add_argument("--plot", action="store_true", help="draw the rows there are")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        axis, size, folder, *verbs = options.child
        _forecasts(axis, int(size), Path(folder), verbs)
        return
    tune_allocator()
    if not options.plot:
        for axis in options.axes.split(","):
            names = {"length": list_mixers()}.get(axis, VERBS if axis in PANELS else MODELS)
            chosen = list(names) if options.names is None else options.names.split(",")
            for size in SIZES[axis] if axis in PANELS else ():
                _panel(axis, size, chosen, options)
            for name in chosen if axis not in PANELS else ():
                _curve(axis, name, options)
    rows = read(RESULTS)
    for part in (table, others, month):
        print_table(f"\n{part.__doc__}", part(rows))
    draw(rows, RESULTS.with_suffix(".png"))


def _curve(axis: str, name: str, options: argparse.Namespace) -> None:
    """Measure the points of a curve that the CSV lacks, up to the first that would take too long."""
    for size in SIZES[axis]:
        if (row := _wanted(axis, name, size, options, 1)) is not None:
            _append(row if "left out" in row else row | _point(axis, name, size, options.repeats))


def _wanted(axis: str, name: str, size: int, options: argparse.Namespace, times: float) -> Row | None:
    """The row of a point, with the reason if it would take too long; None if there is one, or the curve has ended."""
    before = [row for row in read(RESULTS) if (row["axis"], row["name"]) == (axis, name)]
    if any(row["left out"] or row["size"] == size for row in before):
        return None
    seconds, mib = (_expected(before, size, key) for key in ("seconds", "MiB"))
    row: Row = {"axis": axis, "name": name, "size": size}
    if seconds > options.seconds * times:
        return {**row, "left out": f"over {options.seconds * times:g} s: {seconds:.0f}"}
    if mib > options.gib * 1024:
        return {**row, "left out": f"over {options.gib:g} GiB: {mib / 1024:.0f}"}
    return row


def _expected(rows: list[Row], size: int, key: str) -> float:
    """What the next point takes if the curve goes on as between its last two points, and not less than linearly."""
    known = [(row["size"], row[key]) for row in rows if row[key]]
    if not known:
        return 0.0
    slope = 1.0
    if len(known) > 1:
        (a, x), (b, y) = known[-2:]
        slope = max(1.0, math.log(y / x) / math.log(b / a))
    return known[-1][1] * (size / known[-1][0]) ** slope


def _point(axis: str, name: str, size: int, repeats: int) -> Row:
    torch.manual_seed(0)
    if axis == "length":
        run = _step(mixer_facts(name).cls(64, size), torch.randn(1, size, 64))
    else:
        B, C = (8, size) if axis == "channels" else (size, 7)
        run = _step(MODELS[name](Series(C, 96, 24)), torch.randn(B, 96, C))
    unit = _step(Attention(64), torch.randn(1, 1024, 64))
    times, ratios = [], []
    for number in range(repeats + 1):
        reference, seconds = _seconds(unit), _seconds(run)
        if number or seconds > 1:
            times.append(seconds)
            ratios.append(seconds / reference)
    return {"seconds": statistics.median(times), "ratio": statistics.median(ratios), "MiB": peak_bytes(run) / 2**20}


def _step(module: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    x.requires_grad_()

    def step() -> None:
        module(x).sum().backward()
        # at the end: the next step begins without gradients, so that its peak has them in it
        module.zero_grad()
        x.grad = None

    return step


def _seconds(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _panel(axis: str, size: int, verbs: list[str], options: argparse.Namespace) -> None:
    """Measure the verbs of a Forecaster in one process."""
    rows = {verb: row for verb in verbs if (row := _wanted(axis, verb, size, options, 20)) is not None}
    for row in [row for row in rows.values() if "left out" in row]:
        _append(rows.pop(row["name"]))
    if not rows:
        return
    with tempfile.TemporaryDirectory() as folder:
        _write_panel(Path(folder), axis, size)
        child = [sys.executable, __file__, "--child", axis, str(size), folder, *rows]
        run = subprocess.Popen(child, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for peak, line in peaks_of(run):
            verb, *numbers = line.split("\t")
            seconds, reference, base = map(float, numbers)
            found = {"seconds": seconds, "ratio": seconds / reference, "MiB": max(0.0, peak - base)}
            _append(rows[verb] | found)


def _forecasts(axis: str, size: int, folder: Path, verbs: list[str]) -> None:
    """Print the CPU seconds of each verb, those of the fixed workload, and the memory before."""
    from seqmix import Forecaster

    _, _, context, horizon = PANELS[axis]
    with tempfile.TemporaryDirectory() as name:
        small = Path(name)
        _write_panel(small, axis, 10 if axis == "series" else size, most=10)
        for verb in verbs:
            model, what = verb.split(" ", 1)
            # a few steps, to imports and to what libraries keep once they have worked
            few = {"Ridge": None, "ZeroShot": 0}.get(model, 1)
            made = partial(Forecaster, model, horizon, device="cpu")
            made = made if model == "ZeroShot" else partial(made, context_length=context)
            forecaster = made(max_steps=few).fit(small)
            forecaster.predict(small)
            if what not in ("fit", "predict"):
                forecaster = made(max_steps=int(what.split()[0]))
            unit = _step(Attention(64), torch.randn(1, 1024, 64))
            reference = statistics.median(_seconds(unit) for _ in range(5))
            ctypes.CDLL(None).malloc_trim(0)
            run, base = partial(forecaster.predict if what == "predict" else forecaster.fit, folder), anonymous()
            print("begin", flush=True)
            seconds = _seconds(run)
            print(verb, seconds, reference, base, sep="\t", flush=True)


def _write_panel(folder: Path, axis: str, size: int, most: int | None = None) -> None:
    """Series in files of about 100,000 rows."""
    import pandas as pd

    freq, other, _, _ = PANELS[axis]
    n, rows = (size, other) if axis == "series" else (other, size)
    rng, steps, n = np.random.default_rng(0), np.arange(rows), min(n, most or n)
    stamps = pd.date_range("2024-01-01", periods=rows, freq=freq).to_numpy()
    for first in range(0, n, 100_000 // rows):
        count = min(100_000 // rows, n - first)
        values = np.sin(2 * np.pi * (steps / 24 + rng.random((count, 1)))) + 0.3 * rng.normal(size=(count, rows))
        ids = np.repeat(np.array([f"s{i:07}" for i in range(first, first + count)]), rows)
        frame = pd.DataFrame({"unique_id": ids, "ds": np.tile(stamps, count), "y": values.ravel()})
        frame.to_parquet(folder / f"{first:07}.parquet")


def read(path: Path) -> list[Row]:
    """The rows of the CSV; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows: list[Row] = list(csv.DictReader(file))
    for row in rows:
        row["size"] = int(row["size"])
        row |= {key: float(row[key]) if row[key] else None for key in ("seconds", "ratio", "MiB")}
    return rows


def _append(row: Row) -> None:
    facts = environment()
    row = dict.fromkeys(COLUMNS) | row
    row |= {"commit": facts["commit"] + "+" * facts["dirty"], "device": facts["cpu"], "torch": facts["torch"]}
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow({key: f"{x:.4g}" if isinstance(x, float) else x for key, x in row.items()})
    print(*(row[key] for key in COLUMNS[:7]), sep="  ", flush=True)


def curves(rows: list[Row], axis: str, key: str) -> Iterator[tuple[str, list[int], list[float]]]:
    """Name, sizes and values of each curve of an axis."""
    for name in dict.fromkeys(row["name"] for row in rows if row["axis"] == axis):
        known = [(row["size"], row[key]) for row in rows if (row["axis"], row["name"]) == (axis, name) and row[key]]
        if known:
            sizes, values = zip(*known, strict=True)
            yield name, list(sizes), list(values)


def exponent(sizes: list[int], values: list[float]) -> float:
    """Slope of the last three points in logarithms; NaN of fewer."""
    if len(sizes) < 3:
        return math.nan
    return float(np.polyfit(np.log(sizes[-3:]), np.log(values[-3:]), 1)[0])


def table(rows: list[Row]) -> list[Row]:
    """The mixers: how time and memory grow with the length, and where each becomes cheaper than attention."""
    found = list(curves(rows, "length", "ratio"))
    attention = next((dict(zip(*rest, strict=True)) for name, *rest in found if name == "Attention"), {})
    lines = _lines(rows, "length")
    for line, (_, sizes, values) in zip(lines, found, strict=True):
        line["below attention from"] = crossover(dict(zip(sizes, values, strict=True)), attention)
    return lines


def others(rows: list[Row]) -> list[Row]:
    """How time and memory of models and of the Forecaster grow."""
    return [{"against": axis, **line} for axis in SIZES if axis != "length" for line in _lines(rows, axis)]


def month(rows: list[Row]) -> list[Row]:
    """What a month of quarters of an hour of ten million series costs, by the largest points of 200 such series."""
    lines = []
    for name, sizes, values in curves(rows, "rows", "seconds"):
        model, what = name.split(" ", 1)
        line: Row = {"model": model, "what": what, "rows a series": sizes[-1], "CPU s": float(f"{values[-1]:.3g}")}
        # what is not in proportion to the rows, the forecasts, is counted as if it were
        hours = values[-1] / sizes[-1] * 2880 / 200 * 1e7 / 3600
        whole = what in ("fit", "predict")
        line |= {"core hours of ten million": f"{hours:,.0f}" if whole else ""}
        line |= {"hours on 64 cores": f"{hours / 64:,.1f}" if whole else ""}
        lines.append(line)
    return lines


def _lines(rows: list[Row], axis: str) -> list[Row]:
    memory = {name: exponent(sizes, values) for name, sizes, values in curves(rows, axis, "MiB")}
    seconds = {name: values[-1] for name, _, values in curves(rows, axis, "seconds")}
    return [
        {
            "mixer" if axis == "length" else "what": name,
            "time ~ n^": _rounded(exponent(sizes, values)),
            "memory ~ n^": _rounded(memory.get(name, math.nan)),
            "largest n": f"{sizes[-1]:,}",
            "CPU s there": float(f"{seconds[name]:.3g}"),
        }
        for name, sizes, values in curves(rows, axis, "ratio")
    ]


def _rounded(x: float) -> str:
    return "" if math.isnan(x) else f"{x:.2f}"


def draw(rows: list[Row], path: Path) -> None:
    """Time and memory of each curve against the sizes of each axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = ("Attention", "Hydra", "Mamba", "Mamba2", "LongVQ", "PoNet", "FNet", "Dense")
    titles = {
        "length": "a mixer, width 64, batch 1",
        "channels": "a model, 8 windows 96 -> 24",
        "batch": "a model, 7 channels, 96 -> 24",
        "series": "Forecaster, series of 48 hours",
        "rows": "Forecaster, 200 series of 15 minutes",
    }
    drawn = [axis for axis in SIZES if any(len(sizes) > 1 for _, sizes, _ in curves(rows, axis, "seconds"))]
    figure, axes = plt.subplots(2, len(drawn), figsize=(3.4 * len(drawn), 7), layout="constrained", sharex="col")
    for column, axis in enumerate(drawn):
        for line, (key, label) in enumerate((("seconds", "CPU seconds"), ("MiB", "peak MiB"))):
            place = axes[line, column]
            for name, sizes, values in curves(rows, axis, key):
                plain = axis != "length" or name in shown
                style = (
                    {"label": name, "marker": "o", "markersize": 3}
                    if plain
                    else {"color": "0.5", "alpha": 0.25, "zorder": 0}
                )
                place.plot(sizes, values, linewidth=1.2 if plain else 0.8, **style)
            place.set(xscale="log", yscale="log", ylabel=label if column == 0 else "")
            place.grid(alpha=0.3)
        axes[0, column].set_title(f"{axis}: {titles[axis]}", fontsize=10)
        if axes[0, column].lines:
            axes[0, column].legend(fontsize=7)
        axes[1, column].set_xlabel(axis)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
