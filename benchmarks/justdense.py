"""The study of dense mixers (JustDense): is the sequence mixer of a model needed? Models and their twins, five tasks.

    python benchmarks/justdense.py                                   # appends to configs/results/study/<study>.csv
    python benchmarks/justdense.py --only study=long_term data=ETTh1 seed=0 --jobs 2
    python benchmarks/justdense.py --status                          # how many of the runs are done
    seqmix report justdense                                          # the tables

The twin of a model has a dense layer along the sequence in place of every sequence mixer (``--densify true``). Both are
trained with the same data, seed, optimizer, number of steps and validations; no setting was tuned for either. Studies
are ``configs/study/<study>.yaml``; their data sets and models stand in ``justdense_grid.py``. The baselines of a task
run once for each data set and seed, beside the first model.

A run that the CSV of its study holds is not run again. One that was killed goes on from its last validation, and
several processes share the work. Rows are those of ``seqmix fit --record true``, with the cell, which stands for
settings and seed, and the CPU seconds of the fit.
"""

import argparse
import hashlib
import json
import multiprocessing
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from justdense_grid import HEAD_MIXES, MODELS, Cell, cells

from seqmix.commands.justdense import Pair, Run, pairs_of, verdict
from seqmix.commands.report import all_tasks
from seqmix.commands.tables import markdown
from seqmix.commands.train import Train
from seqmix.errors import SeqmixError
from seqmix.tasks.folders import run_folders
from seqmix.tasks.lock import locked
from seqmix.tasks.rows import append_rows, read_rows

CONFIGS = Path(__file__).parents[1] / "configs"
WORK = Path("runs") / "justdense"
# axes of the answer, and those of the models
_AXES = {"time": ("time", "patches"), "variates": ("variates",)}


class CpuClock(pl.Callback):
    """CPU seconds of this process between the begin and the end of the fit."""

    seconds = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start."""
        self.seconds -= time.process_time()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self.seconds += time.process_time()


def main() -> None:
    """Run what the CSV files lack, the cheapest and most informative first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME=VALUE", help="study, model, data or seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after this time")
    parser.add_argument("--status", action="store_true", help="say how many runs are done, and run nothing")
    parser.add_argument("--out", type=Path, default=CONFIGS / "results" / "study", help="folder of the CSV files")
    args = parser.parse_args()
    chosen = list(select(cells(), dict(word.split("=", 1) for word in args.only)))
    if args.status:
        print(markdown(progress([row for file in args.out.glob("[!.]*.csv") for row in read_rows(file)], chosen)))
        return
    until = time.monotonic() + 60 * args.minutes
    work = [(chosen, args.out, until)] * args.jobs
    if args.jobs == 1:
        run_all(*work[0])
        return
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        pool.starmap(run_all, work)


def select(grid: Iterable[Cell], wanted: Mapping[str, str]) -> Iterator[Cell]:
    """The cells whose facts are those wanted, by name."""
    for cell in grid:
        facts = cell.facts()
        if unknown := wanted.keys() - facts.keys():
            raise SystemExit(f"--only {', '.join(unknown)}: no such fact, there are {', '.join(facts)}")
        if all(facts[name] == value for name, value in wanted.items()):
            yield cell


def progress(rows: Sequence[Run], grid: Iterable[Cell] | None = None) -> list[dict[str, Any]]:
    """Runs of the grid that are done, and that are missing by seed, for each study and for all.

    Args:
        rows: rows of the CSV files.
        grid: the runs to count. Default: all.
    """
    done = {row["cell"] for row in rows if row["role"] == "model"}
    chosen = list(cells() if grid is None else grid)
    left = Counter((study, cell.seed) for cell in chosen if digest(cell) not in done for study in (cell.study, "all"))
    total = Counter(study for cell in chosen for study in (cell.study, "all"))
    seeds = sorted({cell.seed for cell in chosen})
    missing = {study: {f"missing, seed {seed}": left[study, seed] for seed in seeds} for study in total}
    studies = [*(study for study in total if study != "all"), "all"]
    return [{"study": s, "runs": total[s], "done": total[s] - sum(missing[s].values()), **missing[s]} for s in studies]


def answer(rows: Sequence[Run]) -> list[dict[str, Any]]:
    """Verdicts on the pairs by what is left to the mixer."""
    pairs = pairs_of(rows, [], all_tasks())
    head = [pair for pair in pairs if pair.study in HEAD_MIXES]
    imputation = [pair for pair in pairs if pair.study == "imputation"]
    along = {axis: [p for p in imputation if MODELS[p.model].axis in axes] for axis, axes in _AXES.items()}
    groups = {
        "forecasting and classification: a linear head mixes time too": head,
        "the same without Autoformer": _without("Autoformer", head),
        "imputation, mixers of time without Autoformer": _without("Autoformer", along["time"]),
        "imputation, Autoformer": [pair for pair in imputation if pair.model == "Autoformer"],
        "imputation, mixers of variates": along["variates"],
        "anomaly detection": [pair for pair in pairs if pair.study == "detection"],
        "all": pairs,
        "all without Informer, whose twin is that of the Transformer": _without("Informer", pairs),
    }
    return [{"pairs of": name, "number": len(group), **_row(group)} for name, group in groups.items() if group]


def run_all(grid: list[Cell], out: Path, until: float = float("inf")) -> None:
    """Run every cell that is not done and that no other process runs."""
    torch.set_num_threads(1)
    for cell in grid:
        if time.monotonic() > until:
            return
        folder = WORK / digest(cell)
        if is_done(cell, out):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(folder.with_suffix(".lock"), wait=False):
                if not is_done(cell, out):
                    run(cell, folder, out)
        except BlockingIOError:
            continue
        except (SeqmixError, SystemExit) as e:
            # Lightning makes an exit of Ctrl-C, the parser of an unknown option
            if isinstance(e.__context__, KeyboardInterrupt):
                raise
            # it is tried again when the benchmark is run again, the other cells do not wait for it
            print(f"FAILED {cell}\n{traceback.format_exc(limit=-2)}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)


def run(cell: Cell, folder: Path, out: Path) -> None:
    """Train and test one cell, or go on where it was killed; then its rows are in the CSV and its folder is gone."""
    given = folder / "cell.yaml"
    given.write_text(yaml.safe_dump(cell.settings()))
    argv = ["--config", str(CONFIGS / "study" / f"{cell.study}.yaml"), "--config", str(given)]
    argv += ["--trainer.default_root_dir", str(folder)]
    if run_folders(folder / "runs" / cell.study, cell.seed):
        argv += ["--ckpt_path", "last"]
    cli, clock = Train("fit", argv), CpuClock()
    cli.trainer.callbacks.append(clock)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        cli.fit()
    finally:
        cli.run.release()
    assert cli.run.folder is not None
    rows = [row for row in read_rows(cli.run.folder / "results.csv") if row["role"] == "model" or cell.baselines]
    facts = {"name": cell.name, "dense": cell.dense, "cpu_seconds": round(clock.seconds, 1)}
    left = ("config", "changed", "run")
    rows = [
        {"cell": digest(cell), **{name: value for name, value in row.items() if name not in left}}
        | (facts if row["role"] == "model" else {"name": row["model"]})
        for row in rows
    ]
    append_rows(out / f"{cell.study}.csv", rows, key=("cell", "role", "model"))
    shutil.rmtree(folder)


def is_done(cell: Cell, out: Path) -> bool:
    """Whether the CSV of its study has the row of the model."""
    wanted = digest(cell)
    return any(row["cell"] == wanted and row["role"] == "model" for row in read_rows(out / f"{cell.study}.csv"))


def _without(model: str, pairs: Sequence[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair.model != model]


def _row(pairs: Sequence[Pair]) -> dict[str, Any]:
    return {name: value for name, value in verdict(pairs).items() if name not in ("pairs", "p, over pairs")}


def digest(cell: Cell) -> str:
    """Digits that two runs share if and only if they have the same settings and seed."""
    both: Any = [_parsed((CONFIGS / "study" / f"{cell.study}.yaml").read_text()), cell.settings()]
    return hashlib.sha256(json.dumps(both, sort_keys=True).encode()).hexdigest()[:12]


@cache
def _parsed(text: str) -> Any:
    return yaml.safe_load(text)


if __name__ == "__main__":
    main()
