"""``seqmix report``: the recorded results as Markdown tables and plots."""

import inspect
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

import seqmix.tasks
from seqmix.commands._function import call
from seqmix.commands.justdense import print_report
from seqmix.commands.outputs import check_picture, save_picture
from seqmix.commands.tables import EXACT, Format, print_as
from seqmix.errors import ConfigError, DataError, check_choice
from seqmix.importing import load_names
from seqmix.tasks import Task
from seqmix.tasks.rows import read_rows

Run = Mapping[str, str]

# a task is found once it has been imported
load_names(seqmix.tasks)


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    # `seqmix report lra` reads better than `seqmix report --table lra`
    call(report, command, ["--table", *argv] if argv and not argv[0].startswith("-") else argv)


def report(
    *,
    table: str = "forecasts",
    folder: str = "configs/results",
    published: str = "configs/published",
    plot: str | None = None,
    format: Format = "markdown",
) -> None:
    """Print the results of runs recorded with ``--record true``, as mean and standard deviation over seeds.

    Args:
        table: table of a task: ``forecasts``, ``lra`` (Long Range Arena), ``language``, ``glue``, ...; ``justdense``
            is the study of models and their dense twins, in ``study/`` of the folder.
        folder: folder of the CSV files.
        published: folder of published numbers, a CSV file for each table; they are printed beside ours.
        plot: file for a plot of the table; the ending gives the format. Default: none.
        format: ``markdown`` or ``table``; for programs ``csv`` or ``json``, with every digit, and means and standard
            deviations apart.
    """
    if plot is not None:
        check_picture("plot", Path(plot))
    if table == "justdense":
        if format != "markdown":
            raise ConfigError(
                f"justdense is several tables, for --format markdown only; read the CSV files in {folder}/study"
            )
        print_report(Path(folder) / "study", Path(published), None if plot is None else Path(plot), all_tasks())
        return
    rows = (measured if format in EXACT else summary)(Path(folder), Path(published), table)
    if not rows:
        raise DataError(
            f"no results of {table} in {folder!r}; record some with `seqmix fit --config ... --record true`"
        )
    print_as(format, table, rows)
    if plot is not None:
        draw(Path(folder), Path(published), table, Path(plot))


def summary(folder: Path, published: Path, table: str = "forecasts") -> list[dict[str, Any]]:
    """One row for each config, settings, model and data in the CSV files of ``folder``.

    Of a seed the newest run counts. Runs recorded before they had a digest of their settings are told apart by their
    config alone.

    The baselines that were trained in the same runs have columns of their own.
    """
    task = _tasks(table)[0]
    first, *others = task.metrics
    return [
        {
            "config": line.config,
            "data": line.cell[1],
            task.table.size: " → ".join(line.cell[2:]),
            "model": line.cell[0],
            f"test {_TITLES.get(first, first)}": _spread(line.runs, first),
            "published": _said(line.published, first),
            **{name: _spread(found, first) for name, found in line.beside.items()},
            **{f"test {_TITLES.get(metric, metric)}": _spread(line.runs, metric) for metric in others},
            task.counted: f"{int(line.runs[0][task.counted]):,}",
            "parameters": f"{int(line.runs[0]['parameters']):,}",
            "hours": _hours(line.runs),
            "seeds": len(line.runs),
        }
        for line in _lines(sorted(folder.glob("[!.]*.csv")), published, table)
    ]


def measured(folder: Path, published: Path, table: str) -> list[dict[str, Any]]:
    """The rows of ``summary`` for programs: numbers with every digit, means and standard deviations apart."""
    task = _tasks(table)[0]
    first, *_ = task.metrics
    return [
        {
            "config": line.config,
            **dict(zip(("model", "data", *task.table.facts), line.cell, strict=True)),
            **{name: value for metric in task.metrics for name, value in _moments(line.runs, metric).items()},
            "published": None if line.published is None else float(line.published[first]),
            **{name: _moments(runs, first).get(first) for name, runs in line.beside.items()},
            task.counted: int(line.runs[0][task.counted]),
            "parameters": int(line.runs[0]["parameters"]),
            "seconds": statistics.mean(float(run["seconds"]) for run in line.runs),
            "seeds": len(line.runs),
        }
        for line in _lines(sorted(folder.glob("[!.]*.csv")), published, table)
    ]


def recorded(folder: Path, published: Path, configs: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each line of the results of some configs of any task, in its first metric."""
    files = [file for name in configs if (file := folder / f"{name}.csv").is_file()]
    rows = []
    for table in dict.fromkeys(task.table.name for task in all_tasks().values()):
        metric = _tasks(table)[0].metrics[0]
        rows += [
            {
                "config": line.config,
                "data": ", ".join((line.cell[1], " → ".join(line.cell[2:]))),
                "model": line.cell[0],
                "metric": _TITLES.get(metric, metric),
                "ours": _spread(line.runs, metric),
                "published": _said(line.published, metric),
                **{name: _spread(runs, metric) for name, runs in line.beside.items()},
                "seeds": len(line.runs),
            }
            for line in _lines(files, published, table)
        ]
    return rows


def runs_of(files: Iterable[Path], table: str) -> Mapping[str, Sequence[Run]]:
    """The rows of a table in each CSV file, models and baselines, by the name of the file."""
    tasks = _tasks(table)
    found = {file.stem: [row for row in read_rows(file) if _stands_in(row, tasks)] for file in files}
    return {name: rows for name, rows in found.items() if rows}


def draw(folder: Path, published: Path, table: str, path: Path) -> None:
    """Draw the first metric: ours as dots with their deviation, baselines as bars, published values as rings."""
    metric = _tasks(table)[0].metrics[0]
    lines = sorted(_lines(sorted(folder.glob("[!.]*.csv")), published, table), key=lambda line: line.cell[1])
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for y, line in enumerate(lines):
        values = [float(run[metric]) for run in line.runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        axes.errorbar(statistics.mean(values), y, xerr=spread, fmt="o", color="C0", label="seqmix")
        for i, (name, runs) in enumerate(line.beside.items()):
            known = [float(run[metric]) for run in runs]
            axes.scatter(known, [y] * len(known), marker="|", s=120, color=f"C{i + 1}", label=name)
        # figures of other tasks or selections are in the table only, which names them
        if line.published is not None and not line.published.get("protocol"):
            value = float(line.published[metric])
            axes.scatter([value], [y], s=80, facecolors="none", edgecolors="0.5", label="published")
    names = ["  ".join((line.cell[1], " → ".join(line.cell[2:]), line.cell[0])) for line in lines]
    axes.set_yticks(range(len(lines)), names)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel(f"test {_TITLES.get(metric, metric)}, mean and deviation over the seeds")
    axes.spines[["top", "right"]].set_visible(False)
    # every line has entries of its own
    entries = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(entries.values(), entries.keys(), frameon=False, loc="outside upper center", ncols=5)
    save_picture(figure, path)


def all_tasks() -> dict[str, type[Task]]:
    """Tasks that can be built, by name."""
    return {task.__name__: task for task in _concrete(Task)}


class _Line(NamedTuple):
    config: str
    cell: tuple[str, ...]  # model, data, facts
    runs: list[Run]  # one for each seed
    published: Run | None
    beside: dict[str, list[Run]]  # of the baselines


_ROLES = ("model", "baseline")
_TITLES = {"mse": "MSE", "mae": "MAE", "bits_per_byte": "bits per byte", "f1": "F1"}


def _tasks(table: str) -> list[type[Task]]:
    """The tasks whose results stand in a table, a task before those that derive from it."""
    found: dict[str, list[type[Task]]] = defaultdict(list)
    for task in _concrete(Task):
        found[task.table.name].append(task)
    check_choice("table", table, (*found, "justdense"))
    return found[table]


def _concrete(cls: type[Task]) -> Iterator[type[Task]]:
    if not inspect.isabstract(cls):
        yield cls
    # the order of tables does not depend on what was imported first
    for child in sorted(cls.__subclasses__(), key=attrgetter("__module__")):
        yield from _concrete(child)


def _lines(files: Iterable[Path], published: Path, table: str) -> list[_Line]:
    """One line for each config, settings, model and data: runs of other settings are never averaged."""
    task, known, lines = _tasks(table)[0], read_rows(published / f"{table}.csv"), []
    for config, rows in runs_of(files, table).items():
        roles: dict[str, dict[tuple[str, ...], dict[str, Run]]] = {role: defaultdict(dict) for role in _ROLES}
        for run in rows:
            same = tuple(run.get(name, "") for name in ("settings", "data", *task.table.facts, task.counted))
            # the newest run of a seed counts
            roles[run.get("role") or "model"][(run["model"], *same)][run["seed"]] = run
        for key, seeds in roles["model"].items():
            runs, found = (
                list(seeds.values()),
                {k[0]: rows for k, rows in roles["baseline"].items() if k[1:] == key[1:]},
            )
            beside = {name: list(rows.values()) for name, rows in found.items()}
            row = next((row for row in known if _is_of(row, runs[0])), None)
            unlike = any(k != key and (k[0], *k[2:]) == (key[0], *key[2:]) for k in roles["model"])
            lines.append(_Line(_label(config, runs, unlike), (key[0], *key[2:-1]), runs, row, beside))
    lines.sort(key=lambda line: (line.config.partition(" ")[0], *line.cell[:2], *map(_order, line.cell[2:])))
    names = sorted({name for line in lines for name in line.beside})
    return [line._replace(beside={name: line.beside.get(name, []) for name in names}) for line in lines]


def _order(fact: str) -> tuple[float, str]:
    """Numbers by their size, then words."""
    try:
        return float(fact), ""
    except ValueError:
        return math.inf, fact


def _stands_in(run: Run, tasks: Sequence[type[Task]]) -> bool:
    """Is a row of one of the tasks? One without a task, of an earlier version, is if it has all the columns."""
    if run.get("task"):
        return run["task"] in {task.__name__ for task in tasks}
    first = tasks[0]
    return all(run.get(name) for name in (*first.table.facts, *first.metrics, first.counted))


def _label(config: str, runs: Sequence[Run], unlike: bool) -> str:
    """The config and its changed options; where these do not distinguish two lines, the digest of the settings."""
    changed = next((run["changed"] for run in runs if run.get("changed")), "")
    note = changed or (runs[0].get("settings", "")[:6] if unlike else "")
    return f"{config} ({note})" if note else config


def _is_of(published: Run, run: Run) -> bool:
    """Are published numbers of the same model and data? The length of a short variant ends its name: ListOps-10."""
    told = [name for name in ("context", "horizon") if name in published]
    base = re.sub(r"-\d+$", "", run["data"])
    return (
        published["model"] == run["model"]
        and published["data"] in (run["data"], base)
        and all(published[name] == run[name] for name in told)
    )


def _said(published: Run | None, metric: str) -> str:
    """The published value, and in brackets how it was measured where that differs from one data set to the next."""
    if published is None:
        return ""
    value, protocol = published[metric], published.get("protocol")
    return f"{value} ({protocol})" if protocol else value


def _hours(runs: Sequence[Run]) -> str:
    return f"{statistics.mean(float(run['seconds']) for run in runs) / 3600:.2f}"


def _moments(runs: Sequence[Run], metric: str) -> dict[str, float | None]:
    """Mean over the seeds and standard deviation; None of one seed, as there is none."""
    values = [float(run[metric]) for run in runs]
    if not values:
        return {}
    return {metric: statistics.mean(values), f"{metric}_std": statistics.stdev(values) if len(values) > 1 else None}


def _spread(runs: Sequence[Run], metric: str) -> str:
    values = [float(run[metric]) for run in runs]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.3f}"
    # a deterministic baseline has no spread
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(set(values)) > 1 else mean
