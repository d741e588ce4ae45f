"""Imputation of hidden cells: simple baselines, GaussianImputer, models on its residual, and SAITS of PyPOTS.

    python benchmarks/imputation.py                                  # appends to benchmarks/results/imputation.csv
    python benchmarks/imputation.py --data ETTh1 --rates 0.25 --models LinearInterpolation GaussianImputer
    python benchmarks/imputation.py --models SAITS                   # where pypots is installed (1.5 was used)
    python benchmarks/imputation.py --plot imputation.png            # the picture of what the CSV holds

Windows of 96 steps, standardized by training rows. Every model fills the same hidden cells of every test window; errors
are means over all hidden cells. What the CSV holds is not run again. CPU seconds are those of fit and test, of one
thread.

SAITS has two layers of width 64, Adam at 1e-3, batches of 64, every fourth training window of ETTm1 and Weather, and
ten epochs: what fits a budget of some minutes of CPU for a run, less than its authors give it. Its training windows
lack cells by the same pattern and rate, and it hides another fifth of the rest, as PyPOTS does.
"""

import argparse
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import matplotlib.pyplot as plt
import numpy as np
import torch

from seqmix.data import Gaps
from seqmix.environment import environment
from seqmix.models import (
    GaussianImputer,
    LastValue,
    LinearInterpolation,
    SeasonalInterpolation,
    WindowMean,
)
from seqmix.tasks import Imputation
from seqmix.tasks.rows import append_rows, read_rows

OUT = Path(__file__).parent / "results" / "imputation.csv"
KEY = ("data", "pattern", "rate", "model", "seed")
# without it all the values of 24 steps of the 21 channels of Weather would be too many to solve for
SPANS = {"Weather": 24}
MODELS = ("WindowMean", "LastValue", "LinearInterpolation", "SeasonalInterpolation", "GaussianImputer", "SAITS")
SIMPLE = {m.__name__: m for m in (WindowMean, LastValue, LinearInterpolation, SeasonalInterpolation)}


def main() -> None:
    """Run what the CSV lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["ETTh1", "ETTm1", "Weather"])
    parser.add_argument("--patterns", nargs="+", default=["point"])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.125, 0.25, 0.375, 0.5])
    parser.add_argument("--models", nargs="+", default=MODELS[:-1])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--plot", type=Path, help="file of a picture, nothing is run")
    args = parser.parse_args()
    if args.plot:
        draw(args.out, args.plot)
        return
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    cells = [
        dict(zip(KEY, (d, p, f"{r:g}", m, s), strict=True))
        for d in args.data
        for p in args.patterns
        for r in args.rates
        for m in args.models
        for s in args.seeds
    ]
    for cell in cells:
        known = [tuple(row[k] for k in KEY) for row in read_rows(args.out)]
        data = Gaps(cell["data"], 96, 256, stride=4 if cell["data"] != "ETTh1" else 1, seed=cell["seed"])
        seasonal = 1 < data.season <= data.context // 2
        if tuple(str(v) for v in cell.values()) in known or (cell["model"] == "SeasonalInterpolation" and not seasonal):
            continue
        begin = time.process_time()
        found = saits(cell, data) if cell["model"] == "SAITS" else ours(cell, data)
        cost = {"cpu_seconds": round(time.process_time() - begin, 1), "commit": environment()["commit"]}
        row = {**cell, **found, **cost}
        print(row, flush=True)
        append_rows(args.out, [row], key=KEY)


def ours(cell: dict[str, Any], data: Gaps) -> dict[str, Any]:
    """Train and test a model of this package."""
    pl.seed_everything(cell["seed"], verbose=False)
    span = SPANS.get(cell["data"])
    factory = partial(GaussianImputer, span=span) if cell["model"] == "GaussianImputer" else SIMPLE[cell["model"]]
    task = _task(cell, data, factory)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=10,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    if any(p.requires_grad for p in task.parameters()):
        trainer.fit(task, data)
    trainer.test(task, data, verbose=False)
    score = task.score()
    metrics = {name: round(value, 6) for name, value in score.metrics.items()}
    return {**metrics, "cells": score.count, "parameters": score.parameters}


def saits(cell: dict[str, Any], data: Gaps) -> dict[str, Any]:
    """Train and test SAITS of PyPOTS on the same windows and hidden cells."""
    from pypots.imputation import SAITS
    from pypots.optim import Adam

    torch.manual_seed(cell["seed"])
    np.random.seed(cell["seed"])
    task = _task(cell, data, WindowMean)
    data.setup()
    sets = {}
    for split, step in (("train", 1), ("val", 4), ("test", 1)):
        windows = data._splits[split]
        batch = windows.gather(torch.arange(0, len(windows), step))
        left, hidden = task.hide(batch, int(split == "train"))
        known = left["x"].masked_fill(~left["x_mask"], float("nan"))
        sets[split] = (known.numpy(), batch["x"].numpy(), hidden.numpy())
    model = SAITS(
        96,
        data.n_channels,
        n_layers=2,
        d_model=64,
        n_heads=4,
        d_k=16,
        d_v=16,
        d_ffn=128,
        dropout=0.1,
        batch_size=64,
        epochs=10,
        patience=3,
        optimizer=Adam(lr=1e-3),
        device="cpu",
        verbose=True,
    )
    (train, _, _), (val, val_truth, _), (test, truth, hidden) = sets.values()
    model.fit({"X": train}, {"X": val, "X_ori": val_truth})
    error = (model.impute({"X": test}) - truth)[hidden].astype(np.float64)
    metrics = {"mse": round(float(np.square(error).mean()), 6), "mae": round(float(np.abs(error).mean()), 6)}
    return {**metrics, "cells": int(hidden.sum()), "parameters": sum(p.numel() for p in model.model.parameters())}


def read(path: Path) -> list[dict[str, str]]:
    """Rows of the CSV, none if there is no file."""
    return read_rows(path)


def table(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """MSE of each model, a line for each set of hidden cells; CPU seconds of the two that are not simple."""
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["data"], row["pattern"], float(row["rate"]))):
        key = row["data"], row["pattern"], row["rate"]
        line = lines.setdefault(key, dict(zip(("data", "pattern", "hidden"), key, strict=True)))
        line[row["model"]] = f"{float(row['mse']):.4f}"
        line[f"{row['model']} CPU s"] = row["cpu_seconds"]
    columns = ("data", "pattern", "hidden", *MODELS, *(f"{name} CPU s" for name in MODELS if name not in SIMPLE))
    return [{name: line.get(name, "") for name in columns} for line in lines.values()]


def draw(table: Path, path: Path) -> None:
    """Draw MSE against the share of hidden cells, a panel for each data set."""
    rows = [row for row in read_rows(table) if row["pattern"] == "point"]
    names = list(dict.fromkeys(row["data"] for row in rows))
    figure, panels = plt.subplots(1, len(names), figsize=(3.6 * len(names), 3.2), layout="constrained", squeeze=False)
    for axes, name in zip(panels[0], names, strict=True):
        for i, model in enumerate(m for m in MODELS if m not in ("WindowMean", "SeasonalInterpolation")):
            points: dict[float, list[float]] = {}
            for row in rows:
                if row["data"] == name and row["model"] == model:
                    points.setdefault(float(row["rate"]), []).append(float(row["mse"]))
            if points:
                rates = sorted(points)
                axes.plot(rates, [np.mean(points[r]) for r in rates], "o-", color=f"C{i}", label=model, markersize=4)
        axes.set_title(name)
        axes.set_xlabel("share of hidden cells")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("test MSE of hidden cells")
    panels[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _task(cell: dict[str, Any], data: Gaps, factory: Any) -> Imputation:
    return Imputation(factory, data.series, pattern=cell["pattern"], rate=float(cell["rate"]), normalize="none")


if __name__ == "__main__":
    main()
