"""Time and peak memory per token of every registered mixer over lengths, against SDPA attention, on one thread.

    python benchmarks/mixers.py [--lengths 256,1024,4096,16384,65536] [--mixers Hydra,Mamba] 2>/dev/null

Mixers are built with their defaults. Times are CPU microseconds of the process, the median of ``--repeats`` runs after
one that does not count, forward, and forward with backward. Peak memory is the most that PyTorch held at once in one
forward and backward, beyond weights and input, as its allocator counts it; gradients of the weights are in it. A cell
that would take more than ``--seconds`` or ``--gib``, going by the one before and the registered cost, is left out and
says so. The rows of a mixer replace its earlier ones in the CSV as soon as it is done, the others stay.
The profiler, which counts the memory, writes two lines to stderr every time.
"""

import argparse
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from seqmix.commands.bench import median_seconds
from seqmix.commands.tables import print_table
from seqmix.environment import environment
from seqmix.mixers import Mixer, list_mixers, mixer_facts
from seqmix.ops import tune_allocator
from seqmix.tasks.rows import read_rows, write_rows

Row = dict[str, Any]

# a forward pass below this is the call alone, and how it grows says nothing
CALL_SECONDS = 1e-4

FORWARD, TIME, PEAK, SKIPPED = "forward us/token", "forward + backward us/token", "peak KiB/token", "left out"


def main() -> None:
    """Measure, print the tables, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="256,1024,4096,16384,65536", help="sequence lengths")
    parser.add_argument("--mixers", help="some of them, with commas between; default: all")
    parser.add_argument("--d_model", type=int, default=64, help="width D")
    parser.add_argument("--repeats", type=int, default=5, help="runs that count in a median")
    parser.add_argument("--seconds", type=float, default=120.0, help="limit on the time of a cell")
    parser.add_argument("--gib", type=float, default=8.0, help="limit on the memory of a cell, with weights")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "mixers.csv")
    options = parser.parse_args()

    lengths = sorted(int(L) for L in options.lengths.split(","))
    chosen = options.mixers.split(",") if options.mixers else list_mixers()
    facts = environment()
    rows = []
    # a process for each mixer: the memory that one leaves to the allocator is not there for the next
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        for name in ["Attention", *(name for name in chosen if name != "Attention")]:
            own = processes.submit(_rows, name, lengths, options).result()
            print(name, *(row[SKIPPED] or f"{row[TIME]:.3g}" for row in own), sep="  ", flush=True)
            _write(options.out, own, options.d_model, facts)
            rows += own

    where = f"width {options.d_model}, batch 1, float32, one thread of {facts['cpu']}, torch {facts['torch']}"
    print_table(f"\n{TIME}; {where}", table(rows))
    print_table(f"\n{PEAK}", memory(rows))


def _rows(name: str, lengths: list[int], options: argparse.Namespace) -> list[Row]:
    """A row for each length, with the numbers or with the reason why it was left out."""
    torch.set_num_threads(1)
    tune_allocator()
    facts = mixer_facts(name)
    rows = []
    before, took, held = lengths[0], 0.0, 0.0
    for L in lengths:
        row: Row = {"mixer": name, "cost": facts.cost, "length": L, FORWARD: "", TIME: "", PEAK: "", SKIPPED: ""}
        rows.append(row)
        growth = (L / before) ** (2 if facts.cost == "L^2" else 1)
        if took * growth > options.seconds:
            row[SKIPPED] = f"over {took * growth:.0f} s"
        elif held * growth > options.gib * 2**30:
            row[SKIPPED] = f"over {held * growth / 2**30:.0f} GiB"
        else:
            start = time.process_time()
            torch.manual_seed(0)
            mixer = facts.cls(options.d_model, L)
            row |= _measure(mixer, L, options)
            before, took = L, time.process_time() - start
            held = row[PEAK] * L * 1024 + sum(p.nbytes for p in mixer.parameters())
    return rows


def _measure(mixer: Mixer, L: int, options: argparse.Namespace) -> Row:
    x = torch.randn(1, L, options.d_model, requires_grad=True)

    def forward() -> None:
        with torch.no_grad():
            mixer(x)

    def train() -> None:
        mixer.zero_grad()
        x.grad = None
        mixer(x).sum().backward()

    scale = 1e6 / L
    return {
        FORWARD: median_seconds(forward, x.device, options.repeats) * scale,
        TIME: median_seconds(train, x.device, options.repeats) * scale,
        PEAK: peak_bytes(train) / L / 1024,
    }


def peak_bytes(run: Callable[[], None]) -> int:
    """The most that PyTorch held at once in one run."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        run()
    # an event for each allocation, positive, and each release, negative
    events = trace.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(change for _, change in changes))


def read(path: Path) -> list[Row]:
    """Rows of the CSV, with numbers as numbers."""
    numbers = {"length": int, FORWARD: float, TIME: float, PEAK: float}
    return [{k: numbers[k](v) if v and k in numbers else v for k, v in row.items()} for row in read_rows(path)]


def table(rows: list[Row]) -> list[Row]:
    """The times of each mixer over lengths."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["mixer"], []).append(row)
    return [_times(own, found["Attention"]) for own in found.values()]


def memory(rows: list[Row]) -> list[Row]:
    """The peak memory of each mixer over lengths."""
    names = dict.fromkeys(row["mixer"] for row in rows)
    return [{"mixer": name, **_by_length([r for r in rows if r["mixer"] == name], PEAK)} for name in names]


def _times(rows: list[Row], attention: list[Row]) -> Row:
    """A line of the table: times, how they grow, and from which length on they are below those of attention."""
    cost, measured = rows[0]["cost"], {row["length"]: row[TIME] for row in rows if row[TIME]}
    growths = [measured[L] * L / (measured[L // 4] * (L // 4)) for L in measured if L // 4 in measured]
    last = [row for row in rows if row[TIME]][-1:]
    works = any(row[FORWARD] * row["length"] > 1e6 * CALL_SECONDS for row in last)
    growth = growths[-1] if growths and works else ""
    return {
        "mixer": rows[0]["mixer"],
        "cost": cost,
        **_by_length(rows, TIME),
        "time(4L)/time(L)": growth,
        "linear": ("yes" if 3 <= growth <= 5 else "no") if cost == "L" and growth else "",
        "below attention from": crossover(measured, {row["length"]: row[TIME] for row in attention if row[TIME]}),
    }


def crossover(times: dict[int, float], attention: dict[int, float]) -> str:
    """Length from which on ``times`` stay below those of attention, straight between measured lengths in logarithms."""
    gaps = [(math.log(L), math.log(times[L] / attention[L])) for L in times if L in attention]
    if not gaps or gaps[-1][1] >= 0:
        return "-"
    for (x, gap), (next_x, next_gap) in reversed(list(pairwise(gaps))):
        if gap >= 0:
            return f"{math.exp(x + (next_x - x) * gap / (gap - next_gap)):,.0f}"
    return f"<= {min(attention):,}"


def _by_length(rows: list[Row], key: str) -> Row:
    return {f"{row['length']:,}": row[SKIPPED] or float(f"{row[key]:.3g}") for row in rows}


def _write(path: Path, rows: list[Row], d_model: int, facts: Row) -> None:
    of_all = {"d_model": d_model, "threads": 1, "commit": facts["commit"] + "+" * facts["dirty"]}
    of_all |= {"device": facts["cpu"], "torch": facts["torch"]}
    measured = {row["mixer"] for row in rows}
    rows = [*({**row, **of_all} for row in rows), *(row for row in read_rows(path) if row["mixer"] not in measured)]
    write_rows(path, sorted(rows, key=lambda row: (row["mixer"] != "Attention", row["mixer"])))


if __name__ == "__main__":
    main()
