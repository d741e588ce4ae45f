"""What the DataFrame API costs and how well it forecasts, beside neuralforecast, in CPU time of one thread.

    python benchmarks/forecasting.py data           # batches of 1,024 windows of 50,000 ragged series, and of ETTh1
    python benchmarks/forecasting.py step           # DLinear on ETTh1, 96 -> 96, 224 windows a step, through fit
    python benchmarks/forecasting.py backtest       # 2,785 windows x 7 series of ETTh1
    python benchmarks/forecasting.py import         # seconds and resident memory after the import
    python benchmarks/forecasting.py folder         # 100,000 series x 200 points in parquet files: peak memory
    python benchmarks/forecasting.py accuracy       # DLinear on M4 Hourly, EPF NP, bike sharing and ETTh1, by default
    python benchmarks/forecasting.py panel          # DenseMLP, which takes two minutes, on M4 Hourly, by default

Each prints a line for each figure and replaces those of its part in ``results/forecasting.csv``. Needs
``$SEQMIX_DATA``. With ``--peer peer/bin/python`` step, backtest, import, accuracy and panel are measured there as well,
in the same run; ``forecasting_peer.py`` says how to make that environment. Its models train for the CPU time that ours
took. The last two have three seeds.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import forecasting_sets as sets
import numpy as np
import pandas as pd

HERE = Path(__file__).parent
OUT = HERE / "results" / "forecasting.csv"
Peer = Callable[..., Any]
SEEDS = (0, 1, 2)
# pairs of runs whose ratios have a median
PAIRS = 3


class Row(NamedTuple):
    """A measured figure."""

    what: str
    figure: str
    value: float
    unit: str
    seed: int = 0


def data(peer: Peer | None) -> Iterator[Row]:
    """Median time of a batch."""
    import torch

    from seqmix.data.series.panel import Panel

    rng = np.random.default_rng(0)
    lengths = rng.integers(200, 1200, 50_000)
    indptr = np.r_[0, np.cumsum(lengths)]
    values = rng.normal(size=(indptr[-1], 1)).astype(np.float32)
    ragged = Panel(values, indptr, 168, 24, 1024, n_val=np.zeros(50_000, int))
    wide = pd.read_csv(sets.DATA / "ett" / "ETTh1.csv.gz").iloc[:8640, 1:].to_numpy()
    one = Panel(wide, np.array([0, 8640]), 96, 96, 32, n_val=np.zeros(1, int))
    for name, panel in (("50,000 ragged series, 1,024 windows", ragged), ("ETTh1, 32 windows x 7", one)):
        windows = panel.splits["train"]
        order = torch.randint(0, len(windows), (50, panel.batch_size))
        yield Row(name, "batch", median([timed(lambda i=i, w=windows: w.gather(i)) for i in order]), "ms")


def step(peer: Peer | None) -> Iterator[Row]:
    """A training step with everything that Lightning does around it."""
    yield from beside("DLinear, ETTh1, 224 windows", "step", "ms", _step, peer and (lambda: peer("step", 60)))


def backtest(peer: Peer | None) -> Iterator[Row]:
    """Forecasts of every test window of ETTh1, as a frame: 1.87 million rows; the fit before it is left out."""
    from seqmix import Forecaster
    from seqmix.forecasting.fitting import fit
    from seqmix.forecasting.frame import Reading, read_frame
    from seqmix.forecasting.long import head
    from seqmix.forecasting.options import resolved

    long = read_frame(sets.etth1(), Reading())
    fc = Forecaster("DLinear", 96, context_length=96, max_steps=10, device="cpu")
    fitted = fit(head(long, np.full(7, 11520)), None, Reading(), resolved(fc.get_params()), 2880, "fit")
    rows = 2880 - np.arange(2785)

    def ours() -> float:
        return 1e3 * timed(lambda: fitted.backtest(long, None, rows, [], []))

    what = "DLinear, ETTh1, 2,785 windows x 7 series"
    yield from beside(what, "cross-validation", "ms", ours, peer and (lambda: peer("backtest")))


def imports(peer: Peer | None) -> Iterator[Row]:
    """The import in a process of its own."""
    code = (
        "import resource, time; import seqmix; from seqmix import Forecaster; "
        "print([time.process_time() * 1e3, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024])"
    )

    def ours() -> list[float]:
        return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)

    what = "from seqmix import Forecaster"
    yield from beside(what, "import", "ms", lambda: ours()[0], peer and (lambda: peer("import")[0]))
    yield from beside(what, "resident", "MiB", lambda: ours()[1], peer and (lambda: peer("import")[1]))


def folder(peer: Peer | None) -> Iterator[Row]:
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
        what = "100,000 x 200 points"
        yield Row(what, "fit on a folder", (fitted - started) * 1e3, "ms")
        yield Row(what, "predict", (time.process_time() - fitted) * 1e3, "ms")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        yield Row(what, "peak memory over that of a small fit", peak - before, "MiB")


def accuracy(peer: Peer | None) -> Iterator[Row]:
    """Errors on the test rows of each set, with default settings; the peer gets our CPU time for each of its models."""
    for name, seed in itertools.product(sets.NAMES, SEEDS):
        yield from _accuracy(peer, "DLinear", name, seed, ("None", "standard"))


def panel(peer: Peer | None) -> Iterator[Row]:
    """The same for a model that tells series apart, where one linear map is not enough."""
    for seed in SEEDS:
        yield from _accuracy(peer, "DenseMLP", "M4 Hourly", seed, ("standard",))


def _accuracy(peer: Peer | None, model: str, name: str, seed: int, scalers: tuple[str, ...]) -> Iterator[Row]:
    from seqmix import Forecaster

    given = sets.read(name)
    fc = Forecaster(model, given.horizon, season=24, future_covariates=given.future, seed=seed, device="cpu")
    windows = {"n_windows": given.windows, "step_size": given.step}
    started = time.process_time()
    cv = fc.cross_validation(given.frame, **windows)
    seconds = time.process_time() - started
    yield Row(f"{name}, {model}", "CPU", seconds, "s", seed)
    naive = fc.clone().set_params(model="SeasonalNaive").cross_validation(given.frame, **windows)
    found = {f"{name}, {k}": row for k, row in (sets.errors(cv, given) | sets.errors(naive, given)).items()}
    for scaler in scalers if peer else ():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "cv.csv"
            steps = peer("accuracy", name, 336, seconds, scaler, seed, out)
            theirs = sets.errors(pd.read_csv(out), given)
        for kind, row in theirs.items():
            what = f"{name}, neuralforecast {kind}, local_scaler_type={scaler}, CPU time of {model}"
            found[what] = row
            yield Row(what, "steps", steps[kind], "", seed)
    for what, row in found.items():
        for metric, value in row.items():
            yield Row(what, metric, value, "%" if metric == "smape" else "", seed)


def beside(
    what: str, figure: str, unit: str, ours: Callable[[], float], theirs: Callable[[], float] | None
) -> Iterator[Row]:
    """Medians over pairs of runs, ours and the peer's in turn, and of their ratios."""
    pairs = [(ours(), theirs() if theirs else float("nan")) for _ in range(PAIRS)]
    yield Row(what, figure, statistics.median(a for a, _ in pairs), unit)
    if theirs:
        peer = f"{what}, neuralforecast"
        yield Row(peer, figure, statistics.median(b for _, b in pairs), unit)
        yield Row(peer, f"{figure}, times ours", statistics.median(b / a for a, b in pairs), "")


def _step() -> float:
    """CPU milliseconds, the median over 100 steps."""
    from lightning.pytorch.callbacks import Callback

    from seqmix import Forecaster

    class Clock(Callback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_train_batch_end(self, *_: object) -> None:
            self.times.append(time.process_time())

    clock = Clock()
    Forecaster(
        "DLinear",
        96,
        context_length=96,
        batch_size=224,
        max_steps=100,
        early_stopping=None,
        device="cpu",
        trainer_kwargs={"callbacks": [clock]},
    ).fit(sets.etth1())
    return median(np.diff(clock.times))


def _peer(python: str) -> Peer:
    """What runs a part of ``forecasting_peer.py`` with that interpreter, on one thread."""

    def run(*arguments: object) -> Any:
        command = [python, str(HERE / "forecasting_peer.py"), *map(str, arguments)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "SEQMIX_DATA": str(sets.DATA.resolve())}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    return run


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


def read(path: Path) -> list[dict[str, str]]:
    """Rows of the CSV, none if there is no file."""
    from seqmix.tasks.rows import read_rows

    return read_rows(path)


def table(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """One line for each model on each set: mean errors over the seeds, and the CPU time of ours."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["part"] in ("accuracy", "panel"):
            found.setdefault(row["what"], {}).setdefault(row["figure"], []).append(float(row["value"]))
    table = []
    for what in sorted(found, key=lambda what: (sets.NAMES.index(what.partition(", ")[0]), "neural" in what)):
        name, _, model = what.partition(", ")
        means = {figure: f"{statistics.mean(values):.4g}" for figure, values in found[what].items()}
        line = {"set": name, "model": model.replace("local_scaler_type=", "scaled: ")}
        columns = {"MASE": "mase", "sMAPE, %": "smape", "MAE": "mae", "CPU s": "CPU"}
        table.append(line | {title: means.get(figure, "") for title, figure in columns.items()})
    return table


PARTS = {
    "data": data,
    "step": step,
    "backtest": backtest,
    "import": imports,
    "folder": folder,
    "accuracy": accuracy,
    "panel": panel,
}


def main() -> None:
    """Measure the parts that were named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "make"])
    parser.add_argument("path", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--peer", help="interpreter of an environment with neuralforecast")
    options = parser.parse_args()
    if options.part == "make":
        for k in range(100):
            _series(1000 * k, 1000).to_parquet(Path(options.path) / f"{k:02}.parquet")
        return
    import torch

    from seqmix.environment import environment
    from seqmix.tasks.rows import write_rows

    torch.set_num_threads(1)
    facts = environment()
    theirs = _version(options.peer) if options.peer else ""
    about = {
        "commit": facts["commit"] + "+" * facts["dirty"],
        "device": facts["cpu"],
        "versions": f"torch {facts['torch']}, lightning {facts['lightning']}{theirs}",
    }
    rows = []
    for row in PARTS[options.part](_peer(options.peer) if options.peer else None):
        print(f"{row.what:70} {row.figure:35} {row.value:10.3f} {row.unit}", flush=True)
        rows.append({"part": options.part, **row._asdict(), "value": f"{row.value:.5g}", **about})
    kept = [row for row in read(OUT) if row["part"] != options.part]
    write_rows(OUT, [*kept, *rows])


def _version(python: str) -> str:
    code = "from importlib.metadata import version; print(version('neuralforecast'), version('torch'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return ", neuralforecast {} on torch {}".format(*done.stdout.split())


if __name__ == "__main__":
    main()
