"""``seqmix sweep``: train a config with every combination of options and seeds, in one process or several."""

import argparse
import io
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from seqmix.commands._settings import digest
from seqmix.commands._workers import in_processes
from seqmix.commands.tables import print_table
from seqmix.commands.train import Train
from seqmix.errors import ConfigError, SeqmixError
from seqmix.tasks.lock import locked
from seqmix.tasks.rows import append_rows, read_rows

DESCRIPTION = """\
Train and test a config with every combination of options and seeds. Other options are those of `seqmix fit`.

  seqmix sweep --config demo --model.model MixerForecaster --grid model.model.mixer=Hydra,Mamba --seeds 0,1,2
  seqmix sweep --config demo --grid model.model.d_model=16,32 data.horizon=12,24 --jobs 2

Rows of finished runs are kept in runs/<name>/sweep.csv: the same line goes on where it was stopped, and a run that was
killed goes on from its last checkpoint. Baselines are trained once for the same data and seed. The table ranks the
combinations of the same data by the mean of the best validation; the test chooses nothing.
"""
# baselines depend on the data, on the seed, and on nothing of the model
_OF_DATA = "data."


@dataclass(frozen=True)
class Trial:
    """One run: its changed options, its seed, and the digest of its settings and of those of its data."""

    changes: str
    argv: tuple[str, ...]
    seed: int
    settings: str
    data: str


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    # an option of fit may begin like one of ours
    parser = argparse.ArgumentParser(
        prog=f"seqmix {command}",
        usage="seqmix sweep --config CONFIG --grid OPTION=VALUE,... [OPTION=VALUE,...] [options]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--grid", nargs="+", default=[], metavar="OPTION=VALUES", help="an option and its values")
    parser.add_argument("--seeds", default="0", metavar="N,N", help="seeds of each combination. Default: 0")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes, of one thread each. Default: 1")
    given, rest = parser.parse_known_args(argv)
    sweep(rest, grid_of(given.grid), _seeds(given.seeds), given.jobs)


def sweep(argv: Sequence[str], grid: dict[str, list[str]], seeds: list[int], jobs: int) -> None:
    """Run the remaining trials, then print a line for each combination.

    Args:
        argv: options of ``seqmix fit``.
        grid: values of each option that varies.
        seeds: seeds of each combination.
        jobs: processes.

    Raises:
        ConfigError: if an option is wrong, which is found before the first run, or runs have failed.
    """
    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {jobs}; use 1 or the number of cores")
    trials, table = plan(argv, grid, seeds)
    try:
        if jobs == 1:
            run_all(trials, table)
        else:
            in_processes(run_all, (trials, table), jobs)
    except KeyboardInterrupt as e:
        raise type(e)(*e.args, "the same line goes on with the sweep") from None
    finally:
        _summarize(table, trials)
    if failed := [trial for trial in trials if not _rows(table, trial)]:
        count = f"{len(failed)} of {len(trials)}"
        raise ConfigError(f"{count} runs failed, or run elsewhere; the same line tries them again")


def plan(argv: Sequence[str], grid: dict[str, list[str]], seeds: list[int]) -> tuple[list[Trial], Path]:
    """Every run, one seed of all combinations after another, and the table of the results."""
    found: list[Trial] = []
    table = Path()
    for values in product(*grid.values()):
        pairs = list(zip(grid, values, strict=True))
        changed = tuple(part for name, value in pairs for part in (f"--{name}", value))
        cli = Train("fit", [*argv, *changed], build=False)
        table, settings = cli.parent / "sweep.csv", cli.settings()
        of_data = {name: value for name, value in settings.items() if name.startswith(_OF_DATA)}
        said = " ".join(f"{name}={value}" for name, value in pairs) or cli.config.name
        found += [Trial(said, (*argv, *changed), seed, digest(settings), digest(of_data)) for seed in seeds]
    if len({trial.settings for trial in found}) * len(set(seeds)) < len(found):
        raise ConfigError("two combinations have the same settings, or a seed stands twice; leave one of them out")
    return sorted(found, key=lambda trial: seeds.index(trial.seed)), table


def run_all(trials: Sequence[Trial], table: Path) -> None:
    """Run every trial that is not done and that no other process runs; a failure is printed."""
    for number, trial in enumerate(trials, 1):
        name = f"{trial.changes} seed={trial.seed}"
        table.parent.mkdir(parents=True, exist_ok=True)
        try:
            with locked(table.with_name(f".{trial.settings}-{trial.seed}.lock"), wait=False):
                if not _rows(table, trial):
                    row = _run(trial, table)
                    print(f"{number}/{len(trials)}  {name}  {_said(row)}", flush=True)
        except BlockingIOError:
            continue
        except SeqmixError as e:
            print(f"{number}/{len(trials)}  {name}  failed: {e}", file=sys.stderr, flush=True)


def _run(trial: Trial, table: Path) -> dict[str, Any]:
    """Train and test, or go on; the row of the model."""
    known = {row["data_settings"] for row in read_rows(table) if row["seed"] == str(trial.seed)}
    argv = [*trial.argv, "--seed_everything", str(trial.seed), "--resume", "auto"]
    if trial.data in known and "--baselines" not in argv:
        argv += ["--baselines", "[]"]
    # the output of a run is in its folder
    with redirect_stdout(io.StringIO()):
        cli = Train("fit", argv)
        try:
            cli.run_command()
        finally:
            cli.run.release()
    if cli.run.folder is None:
        raise ConfigError("a sweep needs runs with a folder; leave --trainer.fast_dev_run out")
    rows = [row for row in read_rows(cli.run.folder / "results.csv") if row["settings"] == trial.settings]
    score = cli.run.best[0] * (1 if cli.model.better == "lower" else -1)
    facts = {"changes": trial.changes, "data_settings": trial.data, cli.model.monitor: round(score, 6)}
    rows = [{**row, **(facts if row["role"] == "model" else {**facts, cli.model.monitor: ""})} for row in rows]
    append_rows(table, rows, key=("settings", "seed", "role", "model"))
    return next(row for row in rows if row["role"] == "model")


def _rows(table: Path, trial: Trial) -> list[dict[str, str]]:
    """Row of the model of a trial, none if it is not done."""
    return [
        row
        for row in read_rows(table)
        if row["role"] == "model" and row["settings"] == trial.settings and row["seed"] == str(trial.seed)
    ]


def _summarize(table: Path, trials: Sequence[Trial]) -> None:
    """Print mean and deviation over the seeds of each combination, the best validation first."""
    found = defaultdict(list)
    for trial in trials:
        found[trial.changes] += _rows(table, trial)
    lines = {changes: rows for changes, rows in found.items() if rows}
    if not lines:
        return
    first = next(iter(lines.values()))[0]
    monitor = next(name for name in first if name.startswith("val_") and first[name])
    metric = monitor.removeprefix("val_")
    sign = -1 if _higher(first["task"]) else 1
    of_data = list(dict.fromkeys(trial.data for trial in trials))
    place = {trial.changes: of_data.index(trial.data) for trial in trials}
    ranked = sorted(lines.items(), key=lambda line: (place[line[0]], sign * _mean(line[1], monitor)))
    print_table(
        f"{len(lines)} combinations, {sum(map(len, lines.values()))} runs, in {table}",
        [
            {
                "changed": changes,
                "model": rows[0]["model"],
                "seeds": len(rows),
                f"validation {metric}": _spread(rows, monitor),
                f"test {metric}": _spread(rows, metric),
                "seconds": f"{_mean(rows, 'seconds'):.1f}",
            }
            for changes, rows in ranked
        ],
    )


def _higher(task: str) -> bool:
    from seqmix import tasks

    return getattr(tasks, task).better == "higher"


def _mean(rows: Sequence[dict[str, str]], name: str) -> float:
    return statistics.mean(float(row[name]) for row in rows)


def _spread(rows: Sequence[dict[str, str]], name: str) -> str:
    values = [float(row[name]) for row in rows]
    return f"{statistics.mean(values):.4f}" + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")


def _said(row: dict[str, Any]) -> str:
    monitor = next(name for name in row if name.startswith("val_"))
    metric = monitor.removeprefix("val_")
    return f"{metric}: validation {row[monitor]:.4f}, test {float(row[metric]):.4f}, {row['seconds']} s"


def grid_of(entries: Sequence[str]) -> dict[str, list[str]]:
    """Values of each option from ``option=value,value``; commas inside brackets and braces are part of a value.

    Raises:
        ConfigError: if an entry has no value, or an option stands twice.
    """
    grid: dict[str, list[str]] = {}
    for entry in entries:
        name, _, values = entry.partition("=")
        name = name.removeprefix("--")
        found = list(split(values))
        if not name or not all(found):
            raise ConfigError(f"--grid {entry!r} should be option=value,value; use for example data.horizon=96,192")
        if name in grid:
            raise ConfigError(f"--grid names {name} twice; put all of its values into one entry")
        grid[name] = found
    return grid


def split(values: str) -> Iterator[str]:
    """Values between commas; commas inside brackets and braces are part of a value."""
    part, depth = "", 0
    for letter in values:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and not depth:
            yield part
            part = ""
        else:
            part += letter
    yield part


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text!r} should be whole numbers between commas; use for example 0,1,2") from None
