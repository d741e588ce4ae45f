"""Time and memory against length, channels, batch and number of series; exponents, and where a mixer's cost turns.

    python benchmarks/scaling.py [--axes length,channels,batch,series] [--names Hydra,Mamba] 2>/dev/null

Rows of ``results/scaling.csv`` are kept: a run that was stopped goes on, and new mixers are added. ``--plot`` alone
draws ``results/scaling.png`` again. Times are CPU seconds of the process on one thread, the median of ``--repeats``.
``ratio`` is the time in units of a fixed workload, one training step of Attention at length 1,024, that is measured
right before each run: a machine that is busy slows both. A curve stops where the next point would take more than
``--seconds``, going by the points before, and says so.

- ``length``: forward and backward of every mixer with its defaults, width 64, batch 1.
- ``channels``: forward and backward of forecasting models, 8 windows of 96 steps, horizon 24.
- ``batch``: the same with 7 channels.
- ``series``: a Forecaster in global mode on a parquet folder of series of 96 hours, horizon 8, each in a process of its
  own; memory is the peak of what is no file, beyond the imports.
"""

import argparse
import csv
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import anonymous, peak_of
from mixers import peak_bytes

from seqmix.environment import environment
from seqmix.mixers import Attention, Hydra, list_mixers, mixer_facts
from seqmix.models import TSM2, DLinear, EncoderForecaster, MixerForecaster, Ridge, VariateEncoder
from seqmix.ops import tune_allocator
from seqmix.series import Series

RESULTS = Path(__file__).parent / "results" / "scaling.csv"
COLUMNS = ("axis", "name", "size", "seconds", "ratio", "MiB", "left out", "commit", "device", "torch")
SIZES = {
    "length": (256, 1024, 4096, 16384, 65536),
    "channels": (7, 21, 64, 200, 1000),
    "batch": (1, 4, 16, 64, 256, 1024),
    "series": (10, 100, 1000, 10_000, 100_000, 1_000_000),
}
MODELS: dict[str, Callable[[Series], torch.nn.Module]] = {
    "DLinear": DLinear,
    "Ridge": Ridge,
    "TSM2": TSM2,
    "Patches with Hydra": partial(MixerForecaster, mixer=Hydra),
    "Patches with Attention": partial(MixerForecaster, mixer=Attention),
    "Channels as tokens": partial(EncoderForecaster, encoder=VariateEncoder),
}
# verb and model of each curve over the number of series
VERBS = ("Ridge fit", "Ridge predict", "DLinear 100 steps", "DLinear predict", "ZeroShot predict")
ROWS, HORIZON = 96, 8

Row = dict[str, Any]


def main() -> None:
    """Measure what the CSV lacks, print exponents and turning points, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", default="length,channels,batch,series")
    parser.add_argument("--names", help="curves with commas between; all if not given")
    parser.add_argument("--repeats", type=int, default=3, help="runs that count in a median")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="limit on the time of a point; 20 times that of series"
    )
    parser.add_argument("--gib", type=float, default=2.0, help="limit on the memory of a point")
    parser.add_argument("--plot", action="store_true", help="draw the rows there are")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        _forecast(options.child[0], Path(options.child[1]), int(options.child[2]))
        return
    tune_allocator()
    if not options.plot:
        for axis in options.axes.split(","):
            names = {"length": list_mixers(), "series": VERBS}.get(axis, MODELS)
            for name in names if options.names is None else options.names.split(","):
                _curve(axis, name, options)
    rows = _read()
    _summary(rows)
    _draw(rows, RESULTS.with_suffix(".png"))


def _curve(axis: str, name: str, options: argparse.Namespace) -> None:
    """Measure the points of a curve that the CSV lacks, up to the first that would take too long."""
    before = [row for row in _read() if (row["axis"], row["name"]) == (axis, name)]
    limit = options.seconds * (20 if axis == "series" else 1)
    for size in SIZES[axis]:
        if any(row["left out"] for row in before):
            return
        if any(row["size"] == size for row in before):
            continue
        seconds, mib = (_expected(before, size, key) for key in ("seconds", "MiB"))
        row: Row = {"axis": axis, "name": name, "size": size}
        if seconds > limit:
            row["left out"] = f"over {limit:g} s: {seconds:.0f}"
        elif mib > options.gib * 1024:
            row["left out"] = f"over {options.gib:g} GiB: {mib / 1024:.0f}"
        else:
            row |= _series(name, size) if axis == "series" else _point(axis, name, size, options.repeats)
        before.append(_append(row))
        print(*row.values(), sep="  ", flush=True)


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


def _series(verb: str, n: int) -> Row:
    """A point of the Forecaster, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        _write_panel(Path(folder), n)
        child = [sys.executable, __file__, "--child", verb, folder, str(n)]
        run = subprocess.Popen(child, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        peak, out = peak_of(run)
    seconds, reference, base = (float(part) for part in out.split())
    return {"seconds": seconds, "ratio": seconds / reference, "MiB": max(0.0, peak - base)}


def _forecast(verb: str, folder: Path, n: int) -> None:
    """Print the CPU seconds of the verb, those of the fixed workload, and the memory before."""
    from seqmix import Forecaster

    model, what = verb.split(" ", 1)
    made = partial(Forecaster, model, HORIZON, context_length=None if model == "ZeroShot" else 48, device="cpu")
    with tempfile.TemporaryDirectory() as small:
        # imports, and what libraries keep once they have worked
        _write_panel(Path(small), 10)
        made(max_steps=None if model == "Ridge" else 1 if model == "DLinear" else 0).fit(small).predict(small)
    steps = {"Ridge": None, "DLinear": 100 if what != "predict" else 1, "ZeroShot": 0}[model]
    forecaster = made(max_steps=steps)
    if what == "predict" and model != "ZeroShot":
        # a fit to a few of the series
        with tempfile.TemporaryDirectory() as small:
            _write_panel(Path(small), min(n, 100))
            forecaster.fit(small)
    unit = _step(Attention(64), torch.randn(1, 1024, 64))
    _seconds(unit)
    reference, base = statistics.median(_seconds(unit) for _ in range(5)), anonymous()
    seconds = _seconds(lambda: forecaster.predict(folder) if what == "predict" else forecaster.fit(folder))
    print(seconds, reference, base)


def _write_panel(folder: Path, n: int) -> None:
    """``n`` series of ``ROWS`` hours in files of at most 2,000 series."""
    import pandas as pd

    rng, hours = np.random.default_rng(0), np.arange(ROWS)
    stamps = pd.date_range("2024-01-01", periods=ROWS, freq="h").to_numpy()
    for first in range(0, n, 2000):
        count = min(2000, n - first)
        values = np.sin(2 * np.pi * (hours / 24 + rng.random((count, 1)))) + 0.3 * rng.normal(size=(count, ROWS))
        ids = np.repeat(np.array([f"s{i:07}" for i in range(first, first + count)]), ROWS)
        frame = pd.DataFrame({"unique_id": ids, "ds": np.tile(stamps, count), "y": values.ravel()})
        frame.to_parquet(folder / f"{first:07}.parquet")


def _read() -> list[Row]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        rows: list[Row] = list(csv.DictReader(file))
    for row in rows:
        row["size"] = int(row["size"])
        row |= {key: float(row[key]) if row[key] else None for key in ("seconds", "ratio", "MiB")}
    return rows


def _append(row: Row) -> Row:
    facts = environment()
    row = dict.fromkeys(COLUMNS) | row
    row |= {"commit": facts["commit"] + "+" * facts["dirty"], "device": facts["cpu"], "torch": facts["torch"]}
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow({key: f"{x:.4g}" if isinstance(x, float) else x for key, x in row.items()})
    return row


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


def _summary(rows: list[Row]) -> None:
    from mixers import crossover

    from seqmix.commands.tables import print_table

    attention: Mapping[int, float] = {}
    for axis in SIZES:
        memory = {name: exponent(sizes, values) for name, sizes, values in curves(rows, axis, "MiB")}
        found = list(curves(rows, axis, "ratio"))
        if axis == "length":
            attention = next((dict(zip(*rest, strict=True)) for name, *rest in found if name == "Attention"), {})
        table = []
        for name, sizes, values in found:
            line: Row = {
                axis: name,
                "time ~ n^": round(exponent(sizes, values), 2),
                "memory ~ n^": round(memory[name], 2),
            }
            line["largest"] = sizes[-1]
            if axis == "length":
                line["below attention from"] = crossover(dict(zip(sizes, values, strict=True)), dict(attention))
            table.append(line)
        if table:
            print_table(f"\n{axis}: exponents of the last three points", table)


def _draw(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = ("Attention", "Hydra", "Mamba", "Mamba2", "LongVQ", "PoNet", "FNet", "Dense")
    titles = {
        "length": "a mixer, width 64, batch 1",
        "channels": "a model, 8 windows 96 -> 24",
        "batch": "a model, 7 channels, 96 -> 24",
        "series": f"Forecaster, series of {ROWS} hours",
    }
    figure, axes = plt.subplots(2, 4, figsize=(18, 8), layout="constrained", sharex="col")
    for column, axis in enumerate(SIZES):
        for line, (key, label) in enumerate((("seconds", "CPU seconds"), ("MiB", "peak MiB"))):
            place = axes[line, column]
            for name, sizes, values in curves(rows, axis, key):
                plain = axis != "length" or name in shown
                style = {"label": name, "marker": "o", "markersize": 3} if plain else {"color": "0.85", "zorder": 0}
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
