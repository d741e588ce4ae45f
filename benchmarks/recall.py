"""Which mixers solve copying, selective copying and associative recall: accuracy on unseen sequences, over seeds.

Every mixer stands in the same stack: a convolution over three tokens, then the mixer, each with norm and residual; no
channel mixers. The convolution is there because tying a value to the key before it is a question of training time for
attention, not of ability. `Identity` in its place shows what the stack does alone. Steps, learning rate and sizes are
the same for all mixers; they were chosen on validation accuracy, so that Mamba, which breaks through last of those
known to recall, has time to.

python benchmarks/recall.py --mixers Attention Mamba --seeds 0 1 2    # appends to benchmarks/results/recall.csv
"""

import argparse
import csv
import inspect
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
from training import one_quiet_thread, trainer

from seqmix.commands.tables import markdown
from seqmix.data import AssociativeRecall, Copying, SelectiveCopying
from seqmix.data.sequences.recall import Recall
from seqmix.environment import environment
from seqmix.mixers import MixerFactory, SepConv, list_mixers, mixer_facts
from seqmix.tasks import AdamW, TokenPrediction
from seqmix.tasks.rows import append_rows

# of the mixers that have such options: their defaults are for widths and lengths ten times these
SIZES = {"d_state": 16, "headdim": 16, "qk_dim": 16, "n_codes": 32, "window": 4, "group": 16, "head_dim": 8}


class Problem(NamedTuple):
    """A task that mixers are trained on, and the settings that are the same for all of them.

    ``stages`` are data trained on one after another, ``steps`` steps in all; the last are tested, and have batches of
    ``batch_size``. ``convolution`` puts a block with one before the mixer. ``sizes`` go to the mixers that have such
    options.
    """

    stages: tuple[Callable[..., Recall], ...]
    steps: int
    positions: bool = False
    convolution: bool = True
    tied: bool = True
    d_model: int = 32
    batch_size: int = 64
    optim: AdamW = AdamW(lr=5e-3, weight_decay=0.1, warmup=0.1, schedule="constant")
    sizes: Mapping[str, Any] = SIZES


# data of 16 tokens; learned positions: which symbol a copy asks for is told by its place alone
PROBLEMS = {
    "copying": Problem((partial(Copying, n_symbols=8, n_copied=4, pause=8),), 1000, positions=True),
    "selective copying": Problem((partial(SelectiveCopying, n_symbols=8, n_copied=4, span=12),), 1000, positions=True),
    "associative recall": Problem((partial(AssociativeRecall, vocab_size=16, n_pairs=4, length=16),), 3000),
}


def main() -> None:
    """Train what the CSV lacks, then print the table of all it holds."""
    mixers = {name: mixer_facts(name).cls for name in list_mixers()}
    compare(__doc__, PROBLEMS, mixers, Path(__file__).parent / "results" / "recall.csv")


def compare(doc: str | None, problems: Mapping[str, Problem], mixers: Mapping[str, MixerFactory], out: Path) -> None:
    """Read the command line, train what the CSV lacks, then print the table of all it holds."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixers", nargs="+", default=list(mixers), choices=mixers, metavar="NAME")
    parser.add_argument("--tasks", nargs="+", default=list(problems), choices=problems)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=out)
    args = parser.parse_args()
    one_quiet_thread()

    for seed in args.seeds:
        for mixer in args.mixers:
            for task in args.tasks:
                done = {(row["task"], row["mixer"], row["seed"]) for row in read(args.out, problems)}
                if (task, mixer, str(seed)) not in done:
                    problem = problems[task]
                    row = {"task": task, "mixer": mixer, "seed": seed, **_settings(problem)}
                    row |= _train(problem, mixers[mixer], seed)
                    append_rows(args.out, [row])
                    print(*row.values(), flush=True)
    print(markdown(table(read(args.out, problems), problems)))


def _settings(problem: Problem) -> dict[str, Any]:
    return {
        "steps": problem.steps,
        "lr": problem.optim.lr,
        "d_model": problem.d_model,
        "batch_size": problem.batch_size,
    }


def _train(problem: Problem, factory: MixerFactory, seed: int) -> dict[str, Any]:
    pl.seed_everything(seed, verbose=False)
    seeds = {"eval_batch_size": 500, "data_seed": seed, "seed": seed}
    stages = [make(**seeds) for make in problem.stages]
    data = stages[-1]
    options = inspect.signature(factory).parameters
    sized = partial(factory, **{name: n for name, n in problem.sizes.items() if name in options})
    model = TokenPrediction(
        sized,
        data.vocab_size,
        data.max_len,
        layers=[partial(SepConv, kernel_size=3), sized] if problem.convolution else None,
        d_model=problem.d_model,
        n_layers=2 if problem.convolution else 1,
        channel_mixer=None,
        positions=problem.positions,
        tied=problem.tied,
        optim=problem.optim,
    )
    started = time.process_time()
    for stage in stages:
        fitting = trainer(max_steps=problem.steps // len(stages))
        fitting.fit(model, stage)
    seconds = time.process_time() - started
    (metrics,) = fitting.test(model, data, verbose=False)
    return {
        "accuracy": round(metrics["test_accuracy"], 4),
        "chance": data.chance,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": round(seconds, 1),
        "commit": environment()["commit"],
    }


def read(path: Path, problems: Mapping[str, Problem] = PROBLEMS) -> list[dict[str, str]]:
    """Rows of the CSV that were trained with the present settings."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] in problems]
    return [row for row in rows if all(row[name] == str(n) for name, n in _settings(problems[row["task"]]).items())]


def table(rows: list[dict[str, str]], problems: Mapping[str, Problem] = PROBLEMS) -> list[dict[str, Any]]:
    """One line for each mixer: mean and deviation of the accuracy on every task."""
    table = []
    for mixer in sorted({row["mixer"] for row in rows}):
        line: dict[str, Any] = {"mixer": mixer}
        for task in problems:
            found = [float(row["accuracy"]) for row in rows if (row["mixer"], row["task"]) == (mixer, task)]
            spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
            line[task] = f"{statistics.mean(found):.3f}{spread}" if found else ""
        table.append({**line, "seeds": len({row["seed"] for row in rows if row["mixer"] == mixer})})
    return table


if __name__ == "__main__":
    main()
