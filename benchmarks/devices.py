"""Training by two processes beside one: windows per second of a model whose time is arithmetic.

    python benchmarks/devices.py [--steps 60] [--repeats 3]

The Forecaster trains PatchTST, 64 windows a step in one process, and 64 in each of two that share their gradients
(gloo), one thread each; the runs alternate. The time is that from the first steps to the last, without the start of
processes. ``gain`` is how many times the windows per second of one process two make, of the clock. A busy machine has
no second core to give, so the load stands beside it, and so does ``by CPU``: twice the CPU time of a window in one
process over that in one of two, which is what the clock would show if each process had a core of its own.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd

from seqmix import Forecaster
from seqmix.environment import environment
from seqmix.tasks.rows import append_rows

OUT = Path(__file__).parent / "results" / "devices.csv"
BATCH = 64
COLUMNS = ("processes", "windows/s", "CPU ms/window", "gain", "by CPU", "load", "commit")


class Timed(pl.Callback):
    """Leaves seconds of the clock and of the process for the steps after the first few in a file.

    Args:
        path: the file.
        skip: steps that do not count.
    """

    def __init__(self, path: str, skip: int):
        self.path, self.skip, self.begin = path, skip, (0.0, 0.0)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock."""
        if trainer.global_step == self.skip:
            self.begin = time.perf_counter(), time.process_time()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop it."""
        if trainer.is_global_zero:
            clock, cpu = time.perf_counter() - self.begin[0], time.process_time() - self.begin[1]
            Path(self.path).write_text(f"{clock} {cpu} {trainer.global_step - self.skip}")


def main() -> None:
    """Train by one and by two, in turn; print and record medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    rng, t = np.random.default_rng(0), np.arange(4000)
    hours = pd.date_range("2026-01-01", periods=len(t), freq="h")
    parts = [np.sin(2 * np.pi * (t + k) / 24) + rng.normal(0, 0.2, len(t)) for k in range(4)]
    df = pd.concat([pd.DataFrame({"unique_id": k, "ds": hours, "y": y}) for k, y in enumerate(parts)])
    load, found = os.getloadavg()[0], {1: [], 2: []}
    for _ in range(given.repeats):
        for processes in found:
            found[processes].append(measure(df, processes, given.steps))
            print(f"{processes}: {found[processes][-1][0]:.0f} windows/s", flush=True)
    rate, cpu = ({n: np.median([run[i] for run in runs]) for n, runs in found.items()} for i in (0, 1))
    rows = []
    for n in found:
        row = {"processes": n, "windows/s": f"{rate[n]:.0f}", "CPU ms/window": f"{cpu[n]:.2f}", "load": f"{load:.1f}"}
        row |= {"gain": f"{rate[n] / rate[1]:.2f}", "by CPU": f"{n * cpu[1] / cpu[n]:.2f}"}
        rows.append({**row, "commit": environment()["commit"]})
        print("  ".join(f"{name} {rows[-1][name]}" for name in COLUMNS))
    append_rows(given.out, rows)


def measure(df: pd.DataFrame, processes: int, steps: int) -> tuple[float, float]:
    """Windows per second of all processes, and CPU milliseconds that one of them takes for a window of its own."""
    path = Path(tempfile.gettempdir(), f"devices-{os.getpid()}.txt")
    options = {"devices": processes, "callbacks": [Timed(str(path), 10)]}
    model = {"d_model": 128, "n_layers": 3}
    forecaster = Forecaster(
        *("PatchTST", 24),
        context_length=336,
        batch_size=BATCH,
        max_steps=steps + 10,
        early_stopping=None,
        device="cpu",
        model_kwargs=model,
        trainer_kwargs=options,
    )
    forecaster.fit(df, val_size=0)
    clock, cpu, n = map(float, path.read_text().split())
    path.unlink()
    return processes * BATCH * n / clock, 1e3 * cpu / (BATCH * n)


if __name__ == "__main__":
    main()
