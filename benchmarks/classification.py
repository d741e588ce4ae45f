"""Classifiers of series on eight sets of the UCR and UEA archives: test accuracy and CPU seconds, beside aeon.

Ours are the configs ``configs/<model>_ucr.yaml``, whose runs are recorded in ``configs/results`` as well. Every model
is trained on all training series; the test series are used once. 1-NN DTW (no window, channels together) and ROCKET
with its ridge are those of aeon with their defaults; ROCKET sees series of different lengths padded with zeros.

SEQMIX_DATA=... python benchmarks/classification.py --peer peer/bin/python   # appends to results/classification.csv
"""

import argparse
import csv
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from seqmix.commands.tables import markdown
from seqmix.commands.train import Train
from seqmix.data import UCR
from seqmix.environment import environment
from seqmix.tasks.rows import append_rows

SETS = (
    *("ItalyPowerDemand", "BasicMotions", "GunPoint", "ArrowHead"),
    *("JapaneseVowels", "OSULeaf", "ACSF1", "PLAID"),
)
CONFIGS = {"RandomConvolutions": "random_convolutions_ucr", "MambaSL": "mambasl_ucr"}
PEERS = ("1-NN DTW", "ROCKET")


def main() -> None:
    """Run what the CSV lacks, then print the table of all it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=[*CONFIGS, *PEERS], default=[*CONFIGS, *PEERS], metavar="NAME")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, metavar="SET")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--peer", help="interpreter of an environment with aeon")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "classification.csv")
    args = parser.parse_args()
    for seed in args.seeds:
        for name in args.sets:
            for model in args.models:
                known = {(row["data"], row["model"], row["seed"]) for row in read(args.out)}
                # without a peer, or without a seed, there is nothing more to run
                absent = model in PEERS and not args.peer
                if absent or (name, model, str(seed)) in known or (model == "1-NN DTW" and seed != args.seeds[0]):
                    continue
                found = ours(CONFIGS[model], name, seed) if model in CONFIGS else peers(args.peer, model, name, seed)
                row = {"data": name, "model": model, "seed": seed, **found, "commit": environment()["commit"]}
                append_rows(args.out, [row])
                print(*row.values(), flush=True)
    print(markdown(accuracy(read(args.out))))


def read(path: Path) -> list[dict[str, str]]:
    """Rows of the CSV, none where there is none yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def accuracy(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Accuracy of each model on each set, mean over seeds, and CPU seconds of all sets together."""
    models = [name for name in (*CONFIGS, *PEERS) if any(row["model"] == name for row in rows)]
    found: list[dict[str, Any]] = []
    for name in SETS:
        line: dict[str, Any] = {"data": name}
        for model in models:
            values = [float(r["accuracy"]) for r in rows if (r["data"], r["model"]) == (name, model)]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            line[model] = f"{statistics.mean(values):.3f}{spread}" if values else ""
        found.append(line)
    have = {m: {row["data"] for row in rows if row["model"] == m} for m in models}
    shared = set.intersection(*have.values()) if have else set()
    of_all = {m: f"{_mean(rows, m, SETS, _accuracy):.3f}" if len(have[m]) == len(SETS) else "" for m in models}
    every = {m: f"{_mean(rows, m, shared, _accuracy):.3f}" for m in models if shared}
    seconds = {m: f"{_mean(rows, m, shared, _seconds) * len(shared):.0f}" for m in models if shared}
    return [
        *found,
        {"data": f"mean of all {len(SETS)} sets", **of_all},
        {"data": f"mean of the {len(shared)} sets that all have", **every},
        {"data": "CPU seconds for one seed of those, fit and prediction", **seconds},
    ]


def _mean(
    rows: list[dict[str, str]], model: str, sets: Collection[str], value: Callable[[dict[str, str]], float]
) -> float:
    """Mean over sets of the mean over seeds."""
    own = [row for row in rows if row["model"] == model]
    return statistics.mean(statistics.mean(value(r) for r in own if r["data"] == name) for name in sets)


def _accuracy(row: dict[str, str]) -> float:
    return float(row["accuracy"])


def _seconds(row: dict[str, str]) -> float:
    return float(row["fit_s"]) + float(row["predict_s"])


def ours(config: str, name: str, seed: int) -> dict[str, Any]:
    """Train a config, record the run, and return its accuracy."""
    root = Path(__file__).parents[1]
    argv = ["--config", str(root / "configs" / f"{config}.yaml"), "--data.name", name, "--seed_everything", str(seed)]
    cli = Train("fit", [*argv, "--record", "true", "--test", "false", "--trainer.accelerator", "cpu"])
    started = time.process_time()
    cli.fit()
    fitted = time.process_time()
    cli.test()
    cli.run.release()
    metrics = cli.model.score().metrics
    return _row(metrics["accuracy"], metrics["balanced_accuracy"], fitted - started, time.process_time() - fitted)


def peers(python: str, model: str, name: str, seed: int) -> dict[str, Any]:
    """Accuracy of a model of aeon, run with its own interpreter."""
    data = UCR(name)
    train, test = data._files()
    series = [*train.series, *test.series]
    lengths = [len(x) for x in series]
    x = np.zeros((len(series), data.n_channels, max(lengths)))
    for k, each in enumerate(series):
        x[k, :, : len(each)] = each.T
    labels = np.array([data.class_names.index(label) for label in (*train.labels, *test.labels)])
    rows = np.arange(len(series)) < len(train.series)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/data.npz"
        np.savez(file, x=x, lengths=lengths, labels=labels, train=rows)
        script = Path(__file__).with_name("classification_peer.py")
        call = [python, str(script), model, file, str(seed)]
        found = json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    right = np.array(found["predicted"]) == labels[~rows]
    recalls = [right[labels[~rows] == k].mean() for k in np.unique(labels[~rows])]
    return _row(right.mean(), np.mean(recalls), found["fit_s"], found["predict_s"])


def _row(accuracy: float, balanced: float, fit_s: float, predict_s: float) -> dict[str, Any]:
    found = {"accuracy": accuracy, "balanced_accuracy": balanced}
    return {
        **{k: round(float(v), 6) for k, v in found.items()},
        "fit_s": round(fit_s, 2),
        "predict_s": round(predict_s, 2),
    }


if __name__ == "__main__":
    main()
