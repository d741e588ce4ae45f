"""60 short runs by one `seqmix sweep` and by commands of their own.

    python benchmarks/sweep.py [--singles 6]

Both train the same tiny model on generated series for one epoch, test it, and print it beside its baselines. Times are
CPU seconds of the processes, for which other work on the machine hardly counts; half of the single commands run before
the sweep and half after it. Writes ``results/sweep.csv``.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from seqmix.environment import environment
from seqmix.tasks.rows import read_rows, write_rows

CONFIG = """
model:
  class_path: Forecasting
  init_args:
    model: {class_path: MixerForecaster, init_args: {mixer: Pool, n_layers: 1, patch_len: 4}}
data: {class_path: Cycles, init_args: {context: 24, horizon: 8, batch_size: 64, n_channels: 3, n_steps: 600}}
trainer: {max_epochs: 1, accelerator: cpu}
"""
WIDTHS, RATES, SEEDS = (4, 8, 12, 16, 20), ("1e-3", "2e-3", "5e-3", "1e-2"), (0, 1, 2)
RESULTS = Path(__file__).parent / "results" / "sweep.csv"


def cpu_seconds(folder: Path, *argv: str) -> float:
    """CPU seconds of a command, user and system."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "seqmix", *argv], cwd=folder, env=environ, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"`seqmix {' '.join(argv)}` ended with code {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure both sides, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--singles", type=int, default=6, help="single commands that are measured")
    singles = parser.parse_args().singles
    runs = len(WIDTHS) * len(RATES) * len(SEEDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tiny.yaml").write_text(CONFIG)

        def single(seed: int) -> float:
            return cpu_seconds(folder, "fit", "--config", "tiny.yaml", "--seed_everything", str(seed), "--name", "one")

        times = [single(seed) for seed in range(singles // 2)]
        grid = [f"model.model.d_model={','.join(map(str, WIDTHS))}", f"model.optim.lr={','.join(RATES)}"]
        seeds = ",".join(map(str, SEEDS))
        swept = cpu_seconds(folder, "sweep", "--config", "tiny.yaml", "--grid", *grid, "--seeds", seeds)
        done = sum(row["role"] == "model" for row in read_rows(folder / "runs" / "tiny" / "sweep.csv"))
        times += [single(seed) for seed in range(singles // 2, singles)]
    assert done == runs, f"{done} of {runs} runs are done"
    each = statistics.mean(times)
    facts = {"commit": environment()["commit"]}
    rows = [
        {"side": "seqmix fit", "runs": singles, "cpu_seconds_a_run": round(each, 2), "times_faster": 1.0, **facts},
        {
            "side": "seqmix sweep",
            "runs": runs,
            "cpu_seconds_a_run": round(swept / runs, 2),
            "times_faster": round(each * runs / swept, 2),
            **facts,
        },
    ]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    write_rows(RESULTS, rows)


if __name__ == "__main__":
    main()
