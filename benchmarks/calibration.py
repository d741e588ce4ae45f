"""How often the truth lies inside intervals of 80 and 95 percent: M4 Hourly, 414 series, the 48 hours held out.

One model for all series, from the last week to the next two days, forecasts points, quantiles or a Student-t: DLinear,
or patches of a day without a mixer, whose scale is no linear function of the window. The last eight days of each series
before the test hours are kept from training: their windows, seven a series, all series pooled in units of each window's
deviation, calibrate the intervals that say so. Needs M4 in ``$SEQMIX_DATA``.

    python benchmarks/calibration.py [--seeds 0 1 2]    # appends to benchmarks/results/calibration.csv
"""

import argparse
import csv
import gzip
import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from training import one_quiet_thread, trainer

from seqmix.commands.tables import markdown
from seqmix.data.loader import WindowLoader
from seqmix.data.series.windows import Windows
from seqmix.environment import environment
from seqmix.forecasting.intervals import conformal_bounds, cqr_bounds, fit_conformal, fit_cqr, nest
from seqmix.mixers import Identity
from seqmix.models import DLinear, MixerForecaster
from seqmix.models.norm import window_moments
from seqmix.series import Series
from seqmix.tasks import AdamW, Forecasting
from seqmix.tasks.rows import append_rows, read_rows

CONTEXT, HORIZON, HELD_OUT = 168, 48, 192
LEVELS = (80, 95)
QUANTILES = [0.025, 0.1, 0.5, 0.9, 0.975]
MODELS = {
    "DLinear": DLinear,
    "patches": partial(MixerForecaster, mixer=Identity, d_model=32, n_layers=1, patch_len=24, patch_stride=24),
}
# what is trained, and what its intervals are made of: as they come, or calibrated
METHODS = {
    ("DLinear", "mse"): ["conformal"],
    ("DLinear", "quantile"): ["none", "CQR"],
    ("DLinear", "student_t"): ["none", "CQR"],
    ("patches", "student_t"): ["none", "CQR"],
}


def main() -> None:
    """Train what the CSV lacks, then print means over the seeds it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "calibration.csv")
    args = parser.parse_args()
    one_quiet_thread()
    warnings.filterwarnings("ignore", message=".*no `val_dataloader`")

    series = read_m4()
    for seed in args.seeds:
        for model, loss in METHODS:
            key = {"model": model, "loss": loss, "seed": str(seed), "steps": str(args.steps)}
            if not any(key.items() <= row.items() for row in read(args.out)):
                append_rows(args.out, measure(series, model, loss, seed, args.steps))
    print(markdown(table([row for row in read(args.out) if row["steps"] == str(args.steps)])))


def read_m4(limit: int | None = None) -> list[np.ndarray]:
    """The series of M4 Hourly, test hours at the end."""
    folder = Path(os.environ["SEQMIX_DATA"]) / "m4"
    parts = []
    for name in ("Hourly-train", "Hourly-test"):
        with gzip.open(folder / f"{name}.csv.gz", "rt") as file:
            lines = list(csv.reader(file))[1:][:limit]
        parts.append([np.array([float(v) for v in line[1:] if v]) for line in lines])
    return [np.concatenate(pair) for pair in zip(*parts, strict=True)]


def measure(series: list[np.ndarray], model: str, loss: str, seed: int, steps: int) -> list[dict[str, Any]]:
    """Coverage and mean width, in deviations of the window, of every kind of interval around one trained model."""
    pl.seed_everything(seed, verbose=False)
    fit, calibration, test = _windows(series)
    quantiles = QUANTILES if loss == "quantile" else None
    options: dict[str, Any] = {
        "loss": loss,
        "quantiles": quantiles,
        "normalize": "window",
        "normalize_affine": model == "patches",
        "optim": AdamW(lr=5e-3),
        "patience": None,
    }
    task = Forecasting(MODELS[model], Series(1, CONTEXT, HORIZON), **options)
    trainer(max_steps=steps).fit(task, WindowLoader(fit, 256, shuffle=True, seed=seed))
    task.eval()
    known, new = _forecast(task, calibration, loss), _forecast(task, test, loss)
    return [
        {
            "model": model,
            "loss": loss,
            "intervals": method,
            "level": level,
            "coverage": round(100 * float(((lo <= new["y"]) & (new["y"] <= hi)).mean()), 2),
            "width": round(float((hi - lo).mean()), 4),
            "seed": seed,
            "series": len(series),
            "steps": steps,
            "commit": environment()["commit"],
        }
        for method in METHODS[model, loss]
        for level, lo, hi in zip(LEVELS, *_bounds(method, known, new), strict=True)
    ]


def _windows(series: list[np.ndarray]) -> tuple[Windows, Windows, Windows]:
    """Windows to train on, every hour; to calibrate on, every day; and of the test hours, one a series."""
    ends = [len(values) - HORIZON for values in series]
    scaled = [
        (values - values[: end - HELD_OUT].mean()) / values[: end - HELD_OUT].std()
        for values, end in zip(series, ends, strict=True)
    ]
    values = torch.from_numpy(np.concatenate(scaled)).float().unsqueeze(1)
    indptr = torch.tensor([0, *np.cumsum([len(v) for v in series]).tolist()])
    make = partial(Windows, values, indptr, CONTEXT, HORIZON)
    return (
        make(targets=torch.tensor([[0, end - HELD_OUT] for end in ends])),
        make(targets=torch.tensor([[end - HELD_OUT, end] for end in ends]), stride=24),
        make(targets=torch.tensor([[end, end + HORIZON] for end in ends])),
    )


@torch.no_grad()
def _forecast(task: Forecasting, windows: Windows, loss: str) -> dict[str, np.ndarray]:
    """Truth ``y (n, horizon)``, and point ``yhat`` or quantiles ``q (n, horizon, K)``, in deviations of the window."""
    batch = windows.gather(torch.arange(len(windows)))
    mean, std = (m.squeeze(1).numpy() for m in window_moments(batch["x"]))  # (n, 1)
    found = {"y": (batch["y"].squeeze(2).numpy() - mean) / std}
    if loss == "mse":
        return {**found, "yhat": (task(batch).squeeze(2).numpy() - mean) / std}
    q = task.quantile_forecast(batch, QUANTILES).squeeze(2).numpy()
    return {**found, "q": (q - mean[..., None]) / std[..., None]}


def _bounds(method: str, known: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of ``LEVELS``, ``(2, n, horizon)`` each."""
    if method == "conformal":
        scores = fit_conformal(known["y"] - known["yhat"])
        bounds = [conformal_bounds(new["yhat"], scores, level) for level in LEVELS]
    else:
        bounds = []
        for level, i in zip(LEVELS, (1, 0), strict=True):
            lo, hi = new["q"][..., i], new["q"][..., -1 - i]
            if method == "CQR":
                scores = fit_cqr(known["y"], known["q"][..., i], known["q"][..., -1 - i])
                lo, hi = cqr_bounds(lo, hi, scores, level)
            bounds.append((lo, hi))
    lo, hi = (np.stack(side) for side in zip(*bounds, strict=True))
    return nest(lo, hi)


def read(path: Path) -> list[dict[str, str]]:
    """Rows of the CSV, none if there is no file."""
    return read_rows(path)


def table(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """A line for each way to make intervals: coverage and width, means over the seeds."""
    table = []
    trained = {(row["model"], row["loss"]) for row in rows}
    for (model, loss), methods in METHODS.items():
        for method in methods if (model, loss) in trained else []:
            line: dict[str, Any] = {"model": model, "loss": loss, "intervals": method}
            for level in LEVELS:
                key = {"model": model, "loss": loss, "intervals": method, "level": str(level)}
                found = [row for row in rows if key.items() <= row.items()]
                line[f"coverage at {level} %"] = f"{np.mean([float(row['coverage']) for row in found]):.1f}"
                line[f"width at {level} %"] = f"{np.mean([float(row['width']) for row in found]):.2f}"
            table.append(line)
    return table


if __name__ == "__main__":
    main()
