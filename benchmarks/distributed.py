"""Forecasts of many series by one process and by Ray on two workers: series per second and memory.

    python benchmarks/distributed.py [--series 100000] [--models Ridge,ZeroShot] [--engines frame,folder,ray]

Series of 200 daily steps, 28 are forecast. ``frame`` has them in a DataFrame, ``folder`` in parquet files, of which
``ray`` makes a Ray Dataset; Ridge is fitted in one process in any case, for ``ray`` on the folder. Each row of the
table is a process of its own. ``series/s`` is of the clock and counts what else the machine does, whose load stands
beside it; ``CPU s`` is that of all processes, with those of Ray itself. ``peak MiB`` is the most that the process held
beyond the frame, its interpreter and the libraries, ``worker MiB`` the most of a worker of Ray, without what it shares
with others. Rows replace those of the same model, engine and number of series. Memory is read in ``/proc`` (Linux).
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

OUT = Path(__file__).parent / "results" / "distributed.csv"
STEPS, HORIZON, FILES = 200, 28, 20
KEY = ("model", "engine", "series")
COLUMNS = (*KEY, "fit s", "predict s", "CPU s", "series/s", "peak MiB", "worker MiB", "load", "commit")


def main() -> None:
    """Measure each row in a process of its own, print them, write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--models", default="Ridge,ZeroShot")
    parser.add_argument("--engines", default="frame,folder,ray")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        measure(*given.row.split(","), given.series, given.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_files(given.series, Path(folder))
        for model in given.models.split(","):
            for engine in given.engines.split(","):
                command = [sys.executable, __file__, "--series", str(given.series), "--row", f"{model},{engine}"]
                subprocess.run([*command, "--out", str(given.out)], check=True, env={**os.environ, "FOLDER": folder})


def series(first: int, last: int) -> pd.DataFrame:
    """Daily series ``first`` to ``last`` with weekly cycles and a walk."""
    rng, n, t = np.random.default_rng(first), last - first, np.arange(STEPS)
    cycle = np.sin(2 * np.pi * (t + rng.integers(0, 7, (n, 1))) / 7)
    y = 20 + 3 * cycle + rng.normal(0, 0.3, (n, STEPS)).cumsum(1) + rng.normal(size=(n, STEPS))
    days = pd.date_range("2026-01-01", periods=STEPS)
    ids = [f"s{i:06d}" for i in range(first, last)]
    return pd.DataFrame({"unique_id": np.repeat(ids, STEPS), "ds": np.tile(days, n), "y": y.ravel()})


def write_files(n: int, folder: Path) -> None:
    """The series in files, each with whole ones."""
    edges = np.linspace(0, n, FILES + 1).astype(int)
    for a, b in pairwise(edges):
        series(a, b).to_parquet(folder / f"{a:06d}.parquet")


def measure(model: str, engine: str, n: int, out: Path) -> None:
    """Measure one row, and add it to the CSV."""
    from seqmix import Forecaster
    from seqmix.environment import environment

    folder, load = Path(os.environ["FOLDER"]), os.getloadavg()[0]
    frame: Any = str(folder)
    if engine == "frame":
        frame = pd.concat([pd.read_parquet(file) for file in sorted(folder.glob("*.parquet"))], ignore_index=True)
    forecaster = Forecaster(model, HORIZON, freq="D", device="cpu")
    # libraries that load with the first fit are not counted
    few = series(0, 3)
    (forecaster.clone().fit(few).predict() if model == "Ridge" else forecaster.predict(few))
    watch = Watch()
    started, fitted = time.perf_counter(), 0.0
    if model == "Ridge":
        forecaster.fit(frame)
        fitted = time.perf_counter() - started
    started = time.perf_counter()
    if engine == "ray":
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**30)
        found = forecaster.predict(ray.data.read_parquet(str(folder)))
        rows = sum(len(batch["ds"]) for batch in found.iter_batches(batch_size=None, batch_format="numpy"))
    else:
        rows = len(forecaster.predict(frame))
    predicted = time.perf_counter() - started
    assert rows == n * HORIZON
    watch.stop()
    row = {
        "model": model,
        "engine": engine,
        "series": str(n),
        "fit s": f"{fitted:.1f}",
        "predict s": f"{predicted:.1f}",
    }
    row |= {"CPU s": f"{watch.cpu:.0f}", "series/s": f"{n / (fitted + predicted):.0f}"}
    row |= {"peak MiB": f"{watch.peak:.0f}", "worker MiB": f"{watch.worker:.0f}" if engine == "ray" else ""}
    row |= {"load": f"{load:.1f}", "commit": str(environment()["commit"])}
    print("  ".join(f"{name} {row[name]}" for name in COLUMNS), flush=True)
    record(row, out)


class Watch(threading.Thread):
    """Memory and CPU time of this process, and of those that it starts, from now on."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before, self.own = resident(), time.process_time()
        self.worker, self.others, self.ended = 0.0, {}, threading.Event()
        self.most = self.before
        self.start()

    def run(self) -> None:
        """Look once in half a second."""
        while not self.ended.wait(0.5):
            self.most = max(self.most, resident())
            for pid in children(os.getpid()):
                try:
                    self.others[pid] = cpu_seconds(pid)
                    if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
                        self.worker = max(self.worker, private(pid))
                except OSError:
                    # it has ended
                    continue

    def stop(self) -> None:
        """Look no more."""
        self.ended.set()
        self.join()
        # what the system saw at once, if that was more
        self.peak = self.most - self.before
        self.cpu = time.process_time() - self.own + sum(self.others.values())


def children(pid: int) -> list[int]:
    """Processes that a process has started, and those that they did."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found + [each for child in found if Path(f"/proc/{child}").exists() for each in children(child)]


def resident() -> float:
    """MiB that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def private(pid: int) -> float:
    """MiB that a process holds and does not share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def cpu_seconds(pid: int) -> float:
    """CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def record(row: dict[str, str], out: Path) -> None:
    """Put a row in place of that of the same model, engine and number of series."""
    from seqmix.tasks.rows import read_rows, write_rows

    rows = [each for each in read_rows(out) if [each[name] for name in KEY] != [row[name] for name in KEY]]
    write_rows(out, [*rows, row])


if __name__ == "__main__":
    main()
