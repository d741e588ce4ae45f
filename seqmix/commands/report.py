"""``seqmix report``: the recorded results as Markdown tables, those of the README, and as pictures."""

import csv
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib.figure import Figure

from seqmix.commands._function import call
from seqmix.commands.tables import markdown
from seqmix.errors import DataError

Kind = Literal["forecasts", "lra", "language", "glue"]
Run = Mapping[str, str]


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    # `seqmix report lra` reads better than `seqmix report --table lra`
    call(report, command, ["--table", *argv] if argv and not argv[0].startswith("-") else argv)


def report(
    *,
    table: Kind = "forecasts",
    folder: str = "configs/results",
    published: str = "configs/published",
    plot: str | None = None,
) -> None:
    """Print what the runs recorded with ``--record true`` have reached, mean and deviation over their seeds.

    Args:
        table: forecasts, Long Range Arena, causal language models, or fine-tuning on GLUE.
        folder: where the CSV files lie.
        published: folder of published numbers, a CSV file for each table; they are printed beside ours.
        plot: file of a picture of the same; its ending chooses the format.
    """
    rows = summary(Path(folder), Path(published), table)
    if not rows:
        raise DataError(
            f"no results of {table} in {folder!r}; record some with `seqmix fit --config ... --record true`"
        )
    print(markdown(rows))
    if plot is not None:
        draw(Path(folder), Path(published), table, Path(plot))


def summary(folder: Path, published: Path, table: Kind = "forecasts") -> list[dict[str, Any]]:
    """One row for each config, model and data in the CSV files of ``folder``; of a seed the newest run counts.

    The baselines that were trained in the same runs have columns of their own.
    """
    kind = _TABLES[table]
    first, *others = kind.metrics
    return [
        {
            "config": line.config,
            "data": line.cell[1],
            kind.size: " → ".join(line.cell[2:]),
            "model": line.cell[0],
            f"test {_TITLES.get(first, first)}": _spread(line.runs, first),
            "published": _said(line.published, first),
            **{name: _spread(found, first) for name, found in line.beside.items()},
            **{f"test {_TITLES.get(metric, metric)}": _spread(line.runs, metric) for metric in others},
            kind.counted: f"{int(line.runs[0][kind.counted]):,}",
            "parameters": f"{int(line.runs[0]['parameters']):,}",
            "hours": _hours(line.runs),
            "seeds": len(line.runs),
        }
        for line in _lines(folder, published, table)
    ]


def draw(folder: Path, published: Path, table: Kind, path: Path) -> None:
    """Draw the first metric: ours as dots with their deviation, baselines as bars, published values as rings."""
    metric = _TABLES[table].metrics[0]
    lines = sorted(_lines(folder, published, table), key=lambda line: line.cell[1])
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for y, line in enumerate(lines):
        values = [float(run[metric]) for run in line.runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        axes.errorbar(statistics.mean(values), y, xerr=spread, fmt="o", color="C0", label="seqmix")
        for i, (name, runs) in enumerate(line.beside.items()):
            known = [float(run[metric]) for run in runs]
            axes.scatter(known, [y] * len(known), marker="|", s=120, color=f"C{i + 1}", label=name)
        if line.published is not None:
            value = float(line.published[metric])
            # of another task or another choice of the model: the table says which
            other = bool(line.published.get("protocol"))
            label, color = ("published, measured otherwise", "0.75") if other else ("published", "0.2")
            axes.scatter([value], [y], s=80, facecolors="none", edgecolors=color, label=label)
    names = ["  ".join((line.cell[1], " → ".join(line.cell[2:]), line.cell[0])) for line in lines]
    axes.set_yticks(range(len(lines)), names)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel(f"test {_TITLES.get(metric, metric)}, mean and deviation over the seeds")
    axes.spines[["top", "right"]].set_visible(False)
    # every line has entries of its own
    entries = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(entries.values(), entries.keys(), frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    figure.savefig(path, dpi=150)


class _Table(NamedTuple):
    """What the rows of a table are known by, and what it shows of them."""

    facts: tuple[str, ...]  # columns of a CSV that tell two data of one name apart
    size: str  # their title
    metrics: tuple[str, ...]  # columns, the first is that of baselines and published values
    counted: str
    baselines: tuple[str, ...]


class _Line(NamedTuple):
    config: str
    cell: tuple[str, ...]  # model, data, facts
    runs: list[Run]  # one for each seed
    published: Run | None
    beside: dict[str, list[Run]]  # of the baselines


_TABLES: dict[Kind, _Table] = {
    "forecasts": _Table(("context", "horizon"), "steps", ("mse", "mae"), "windows", ("DLinear", "SeasonalNaive")),
    "lra": _Table(("max_len",), "length", ("accuracy", "loss"), "examples", ("Majority",)),
    "language": _Table(("max_len",), "length", ("bits_per_byte", "perplexity"), "tokens", ("Trigram",)),
    "glue": _Table(("max_len",), "length", ("accuracy", "f1", "matthews"), "examples", ("BagOfWords",)),
}
_TITLES = {"mse": "MSE", "mae": "MAE", "bits_per_byte": "bits per byte", "f1": "F1"}


def _lines(folder: Path, published: Path, table: Kind) -> Iterator[_Line]:
    kind = _TABLES[table]
    file = published / f"{table}.csv"
    known = _read(file) if file.exists() else []
    for file in sorted(folder.glob("*.csv")):
        cells: dict[tuple[str, ...], dict[str, Run]] = defaultdict(dict)
        for run in _read(file):
            # no two tasks have the same metrics and count the same
            if {*kind.facts, *kind.metrics, kind.counted} <= run.keys():
                cell = tuple(run[name] for name in ("model", "data", *kind.facts))
                cells[cell][run["seed"]] = run
        models = [cell for cell in cells if cell[0] not in kind.baselines] or list(cells)
        for cell in sorted(models, key=lambda cell: (*cell[:2], *map(int, cell[2:]))):
            runs = list(cells[cell].values())
            # a baseline recorded alone does not stand beside itself
            others = {name: cells[(name, *cell[1:])] if name != cell[0] else {} for name in kind.baselines}
            beside = {name: list(found.values()) for name, found in others.items()}
            row = next((row for row in known if _is_of(row, runs[0])), None)
            yield _Line(file.stem, cell, runs, row, beside)


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


def _read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def _spread(runs: Sequence[Run], metric: str) -> str:
    values = [float(run[metric]) for run in runs]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.3f}"
    # a baseline without randomness has no spread to tell
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(set(values)) > 1 else mean
