"""What the DataFrame API costs and how well it forecasts, in CPU time of one thread.

    python benchmarks/forecasting.py data           # batches of 1,024 windows of 50,000 ragged series, and of ETTh1
    python benchmarks/forecasting.py step           # DLinear on ETTh1, 96 -> 96, 224 windows a step, through fit
    python benchmarks/forecasting.py backtest       # 2,785 windows x 7 series of ETTh1
    python benchmarks/forecasting.py import         # seconds and resident memory after the import
    python benchmarks/forecasting.py folder         # 100,000 series x 200 points in parquet files: peak memory
    python benchmarks/forecasting.py accuracy       # M4 Hourly and EPF NP: default settings

Each prints a line for each figure and adds it to ``results/forecasting.csv``. Needs ``$SEQMIX_DATA``.
"""

import argparse
import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

DATA = Path(os.environ.get("SEQMIX_DATA", "data"))
OUT = Path(__file__).parent / "results" / "forecasting.csv"
Row = tuple[str, str, float, str]


def etth1() -> pd.DataFrame:
    """The benchmark's rows of ETTh1, long: 8,640 for training, 2,880 each for validation and test."""
    from seqmix import long_from_wide

    return long_from_wide(pd.read_csv(DATA / "ett" / "ETTh1.csv.gz").iloc[:14400])


def data() -> Iterator[Row]:
    """Median time of a batch."""
    import torch

    from seqmix.data.panel import Panel

    rng = np.random.default_rng(0)
    lengths = rng.integers(200, 1200, 50_000)
    indptr = np.r_[0, np.cumsum(lengths)]
    values = rng.normal(size=(indptr[-1], 1)).astype(np.float32)
    ragged = Panel(values, indptr, 168, 24, 1024, n_val=np.zeros(50_000, int))
    wide = pd.read_csv(DATA / "ett" / "ETTh1.csv.gz").iloc[:8640, 1:].to_numpy()
    one = Panel(wide, np.array([0, 8640]), 96, 96, 32, n_val=np.zeros(1, int))
    for name, panel in (("50,000 ragged series, 1,024 windows", ragged), ("ETTh1, 32 windows x 7", one)):
        panel.setup()
        windows = panel._splits["train"]
        order = torch.randint(0, len(windows), (50, panel.batch_size))
        yield name, "batch", median([timed(lambda i=i, w=windows: w.gather(i)) for i in order]), "ms"


def step() -> Iterator[Row]:
    """A training step with everything that Lightning does around it."""
    from lightning.pytorch.callbacks import Callback

    from seqmix import Forecaster

    class Clock(Callback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_train_batch_end(self, *_: object) -> None:
            self.times.append(time.process_time())

    for normalize in ("none", "window"):
        clock = Clock()
        Forecaster(
            "DLinear",
            96,
            context_length=96,
            batch_size=224,
            max_steps=300,
            early_stopping=None,
            normalize=normalize,
            trainer_kwargs={"callbacks": [clock]},
        ).fit(etth1())
        yield f"DLinear, ETTh1, 224 windows, normalize={normalize}", "step", median(np.diff(clock.times)), "ms"


def backtest() -> Iterator[Row]:
    """Forecasts of every test window of ETTh1, as a frame: 1.87 million rows; the fit before it is left out."""
    from seqmix import Forecaster
    from seqmix.forecasting.forecasts import backtest as run
    from seqmix.forecasting.frame import head, read_frame

    long = read_frame(etth1(), id_col="unique_id", time_col="ds", target_col="y")
    fc = Forecaster("DLinear", 96, context_length=96, max_steps=10)
    columns = {"id": "unique_id", "time": "ds", "target": "y"}
    fc._learn(head(long, np.full(7, 11520)), columns, None, 2880)
    rows = 2880 - np.arange(2785)
    seconds = [timed(lambda: run(fc, fc.fitted_, long, None, rows, [], [])) for _ in range(3)]
    yield "DLinear, ETTh1, 2,785 windows x 7 series", "cross-validation", median(seconds), "ms"


def imports() -> Iterator[Row]:
    """The import in a process of its own."""
    code = (
        "import resource, time; import seqmix; from seqmix import Forecaster; "
        "print(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    found = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() for _ in "123"]
    yield "from seqmix import Forecaster", "import", statistics.median(float(a) for a, _ in found) * 1e3, "ms"
    yield "from seqmix import Forecaster", "resident", statistics.median(float(b) for _, b in found), "MiB"


def folder() -> Iterator[Row]:
    """A panel in 100 files, fitted and forecast; the files are made by another process, so that they cost nothing."""
    from seqmix import Forecaster

    with tempfile.TemporaryDirectory() as path:
        subprocess.run([sys.executable, __file__, "make", path], check=True)
        # what torch and lightning take by themselves, with data of no size
        Forecaster("DLinear", 12, context_length=36, max_steps=2).fit(_series(0, 10)).predict()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.process_time()
        fc = Forecaster("DLinear", 12, context_length=36, max_steps=100).fit(path)
        fitted = time.process_time()
        fc.predict()
        yield "100,000 x 200 points", "fit on a folder", (fitted - started) * 1e3, "ms"
        yield "100,000 x 200 points", "predict", (time.process_time() - fitted) * 1e3, "ms"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        yield "100,000 x 200 points", "peak memory over that of a small fit", peak - before, "MiB"


def accuracy() -> Iterator[Row]:
    """Errors on the test rows of each set, with default settings."""
    from seqmix import Forecaster

    train, test = (pd.read_csv(DATA / "m4" / f"Hourly-{part}.csv.gz", index_col=0) for part in ("train", "test"))
    hourly = pd.concat([part.stack().dropna() for part in (train, test)]).rename("y").rename_axis(["unique_id", "ds"])
    hourly = hourly.reset_index().assign(ds=lambda df: df.groupby("unique_id").cumcount())
    nord = pd.read_csv(DATA / "epf" / "NP.csv.gz", skipinitialspace=True, parse_dates=["Date"])
    nord.columns = ["ds", "y", "load", "wind"]
    known = {"future_covariates": ["load", "wind"]}
    sets = {
        "M4 Hourly": (hourly, 48, {"season": 24}, 1),
        "EPF NP": (nord.assign(unique_id="NP"), 24, known, 728),
    }
    models = ["DLinear", "SeasonalNaive"]
    for name, (frame, horizon, options, windows) in sets.items():
        fc = Forecaster(models, horizon, **options)
        started = time.process_time()
        cv = fc.cross_validation(frame, n_windows=windows)
        yield name, f"CPU of {'+'.join(models)}", (time.process_time() - started) * 1e3, "ms"
        # errors of the season before, which MASE is in units of, come with any fit
        scale = fc.clone().set_params(model="SeasonalNaive").fit(frame)
        for row in scale.evaluate(cv, ("mase", "smape", "mae")).itertuples():
            yield f"{name}, {row.model}", str(row.metric), float(row.value), ""


def _series(first: int, n: int) -> pd.DataFrame:
    rng, t = np.random.default_rng(first), np.arange(200)
    y = np.sin(t / 7 * 2 * np.pi) + rng.normal(size=(n, 1)) + 0.3 * rng.normal(size=(n, 200))
    ids = [f"series_{first + i}" for i in range(n)]
    days = pd.date_range("2024-01-01", periods=200)
    return pd.DataFrame({"unique_id": np.repeat(ids, 200), "ds": np.tile(days, n), "y": y.ravel()})


def timed(run: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def median(seconds: list[float] | np.ndarray) -> float:
    """Median in milliseconds."""
    return float(np.median(seconds) * 1e3)


PARTS = {"data": data, "step": step, "backtest": backtest, "import": imports, "folder": folder, "accuracy": accuracy}


def main() -> None:
    """Measure the parts that were named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "make"])
    parser.add_argument("path", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "make":
        for k in range(100):
            _series(1000 * k, 1000).to_parquet(Path(options.path) / f"{k:02}.parquet")
        return
    import torch

    torch.set_num_threads(1)
    rows = []
    for what, figure, value, unit in PARTS[options.part]():
        print(f"{what:55} {figure:40} {value:10.3f} {unit}", flush=True)
        rows.append([options.part, what, figure, round(value, 4), unit])
    OUT.parent.mkdir(exist_ok=True)
    if not OUT.exists():
        OUT.write_text("part,what,figure,value,unit\n")
    with OUT.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
