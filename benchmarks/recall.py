"""Which mixers solve copying, selective copying and associative recall: accuracy on unseen sequences, over seeds.

Every mixer with its default options stands in the same stack: a convolution over three tokens, then the mixer twice, no
channel mixers; learned positions. The convolution is there because tying a value to the key before it is a question of
training time for attention, not of ability. `Identity` in its place shows what the stack does alone.

python benchmarks/recall.py --mixers Attention Mamba --seeds 0 1 2    # appends to benchmarks/results/recall.csv
"""

import argparse
import csv
import logging
import statistics
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from seqmix.commands._table import markdown
from seqmix.data import AssociativeRecall, Copying, SelectiveCopying
from seqmix.environment import environment
from seqmix.mixers import SepConv, list_mixers, mixer_facts
from seqmix.tasks import TokenPrediction
from seqmix.tasks._run import append_rows

TASKS = {
    "copying": partial(Copying, n_symbols=8, n_copied=4, pause=8),
    "selective copying": partial(SelectiveCopying, n_symbols=8, n_copied=4, span=12),
    "associative recall": partial(AssociativeRecall, vocab_size=32, n_pairs=4, length=32),
}
KEY = ("task", "mixer", "seed", "steps", "lr")


def main() -> None:
    """Train what the CSV lacks, then print the table of all it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixers", nargs="+", default=list_mixers(), choices=list_mixers(), metavar="NAME")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "recall.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")

    for seed in args.seeds:
        for mixer in args.mixers:
            for task in args.tasks:
                key = dict(zip(KEY, (task, mixer, seed, args.steps, args.lr), strict=True))
                if not any(all(row[name] == str(key[name]) for name in KEY) for row in _read(args.out)):
                    row = {**key, **_train(task, mixer, seed, args.steps, args.lr)}
                    append_rows(args.out, [row])
                    print(*row.values(), flush=True)
    print(markdown(_table([row for row in _read(args.out) if row["steps"] == str(args.steps)])))


def _train(task: str, mixer: str, seed: int, steps: int, lr: float) -> dict[str, Any]:
    pl.seed_everything(seed, verbose=False)
    data = TASKS[task](data_seed=seed, seed=seed)
    cls = mixer_facts(mixer).cls
    model = TokenPrediction(
        cls,
        data.vocab_size,
        data.max_len,
        layers=[partial(SepConv, kernel_size=3), cls, cls],
        d_model=32,
        n_layers=3,
        channel_mixer=None,
        lr=lr,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        max_steps=steps,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    started = time.process_time()
    trainer.fit(model, data)
    seconds = time.process_time() - started
    (metrics,) = trainer.test(model, data, verbose=False)
    return {
        "accuracy": round(metrics["test_accuracy"], 4),
        "chance": data.chance,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": round(seconds, 1),
        "commit": environment()["commit"],
    }


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _table(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """One line for each mixer: mean and deviation of the accuracy on every task."""
    table = []
    for mixer in sorted({row["mixer"] for row in rows}):
        line: dict[str, Any] = {"mixer": mixer}
        for task in TASKS:
            found = [float(row["accuracy"]) for row in rows if (row["mixer"], row["task"]) == (mixer, task)]
            spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
            line[task] = f"{statistics.mean(found):.3f}{spread}" if found else ""
        table.append({**line, "seeds": len({row["seed"] for row in rows if row["mixer"] == mixer})})
    return table


if __name__ == "__main__":
    main()
