"""``seqmix report justdense``: comparison of models with their dense twins on the same data, seeds and budget."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from seqmix.commands.outputs import save_picture
from seqmix.commands.tables import markdown
from seqmix.errors import DataError
from seqmix.tasks import Task
from seqmix.tasks.rows import read_rows

Run = Mapping[str, str]

#: a change below this share is no change
SAME = 0.01
_TITLES = {"mse": "MSE", "owa": "OWA", "vus_pr": "VUS-PR"}
_HEAD = """\
Models and their dense twins, in which dense layers stand in place of the sequence mixers, on the same data, seeds and
budget. A change is that of the twin relative to its original, and positive where the twin is worse. p is that of a
Wilcoxon signed-rank test; pairs of one data set are not independent, the one over data sets is the one to read.
"""
_REMEDY = "run benchmarks/justdense.py, which writes them"


class Pair(NamedTuple):
    """A model and its dense twin on one data set, by the first metric of the task."""

    study: str
    data: str
    size: str  # facts that tell two data sets of one name apart
    model: str
    metric: str
    better: str
    original: Sequence[Run]  # one for each seed that both have
    dense: Sequence[Run]
    published: str
    baseline: str  # the best one, with its score

    @property
    def change(self) -> float:
        """Relative change of the mean by the dense layers; positive is worse."""
        before, after = (self.mean(runs) for runs in (self.original, self.dense))
        return (after - before) / before * (1 if self.better == "lower" else -1)

    def mean(self, runs: Sequence[Run]) -> float:
        """Mean of the metric over seeds."""
        return statistics.mean(float(run[self.metric]) for run in runs)


class Cell(NamedTuple):
    """Scores of models on one data set, by name; those of twins under ``<model>, dense``."""

    study: str
    data: str
    scores: dict[str, float]
    better: str


def print_report(folder: Path, published: Path, plot: Path | None, tasks: Mapping[str, type[Task]]) -> None:
    """Print the tables of the study, and draw the picture.

    Args:
        folder: folder of the CSV files.
        published: folder of published numbers.
        plot: file of the picture. Default: none is drawn.
        tasks: tasks by name.
    """
    rows = read(folder)
    pairs = pairs_of(rows, read_published(published), tasks)
    print(_HEAD)
    tables = {
        "By study": verdicts(pairs),
        "Dense better / within 1 % / dense worse, and the median change, by model and study": by_model_and_study(pairs),
        "By model, with medians of the sizes and CPU times of twins in those of their originals": by_model(pairs),
        "All pairs, means over the seeds that both have": pair_rows(pairs),
    }
    for title, table in tables.items():
        print(f"{title}:\n\n{markdown(table)}\n")
    print(f"All models, twins and baselines, means over all of their seeds:\n\n{scores(rows, tasks)}\n")
    if plot is not None:
        draw(cells_of(rows, tasks), plot)


def read(folder: Path) -> list[dict[str, str]]:
    """Rows of all studies, with the name of the study."""
    rows = [{"study": file.stem, **row} for file in sorted(folder.glob("[!.]*.csv")) for row in read_rows(file)]
    if not any(row.get("dense") == "True" for row in rows):
        raise DataError(f"no dense twins in {str(folder)!r}; {_REMEDY}")
    return rows


def read_published(folder: Path) -> list[dict[str, str]]:
    """Published results of the originals, none if there is no such file."""
    return read_rows(folder / "justdense.csv")


def pairs_of(rows: Sequence[Run], published: Sequence[Run], tasks: Mapping[str, type[Task]]) -> list[Pair]:
    """One pair for each study, data set and model that both were run with a seed of."""
    found: dict[tuple[str, ...], dict[str, dict[str, Run]]] = defaultdict(lambda: defaultdict(dict))
    beside: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        key = row["study"], row["data"], _size(row, tasks)
        if row["role"] == "model":
            # the newest run of a seed counts
            found[(*key, row["name"])][row["dense"]][row["seed"]] = row
        else:
            beside[key][row["name"]].append(float(row[tasks[row["task"]].metrics[0]]))
    pairs = []
    for (study, data, size, model), kinds in found.items():
        seeds = sorted(kinds["False"].keys() & kinds["True"].keys())
        if seeds:
            original, dense = ([kinds[kind][seed] for seed in seeds] for kind in ("False", "True"))
            task = tasks[original[0]["task"]]
            metric, better = task.metrics[0], task.better_in_test or task.better
            known = (row[metric] for row in published if _is_of(row, original[0]))
            said = next(known, ""), _best(beside[study, data, size], better)
            pairs.append(Pair(study, data, size, model, metric, better, original, dense, *said))
    return sorted(pairs, key=lambda pair: pair[:4])


def verdicts(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """One row for each study, and one for all: changes, counts, and two tests for a change."""
    studies = dict.fromkeys(pair.study for pair in pairs)
    groups = {study: [pair for pair in pairs if pair.study == study] for study in studies}
    groups = {**groups, "all": list(pairs)} if len(groups) > 1 else groups
    return [{"study": study, **verdict(group)} for study, group in groups.items()]


def verdict(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Changes, counts and tests of some pairs."""
    return {**_counts(pairs), **_tests(pairs)}


def by_model_and_study(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """One row for each model, one column for each study: counts and median change."""
    groups: dict[str, dict[str, list[Pair]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        groups[pair.model][pair.study].append(pair)
    studies = sorted({pair.study for pair in pairs})
    return [{"model": model, **{s: _short(groups[model][s]) for s in studies}} for model in sorted(groups)]


def by_model(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """One row for each model: changes and counts over all studies, parameters, and CPU time."""
    rows = []
    for model in sorted({pair.model for pair in pairs}):
        group = [pair for pair in pairs if pair.model == model]
        size = {
            column: statistics.median(_mean(p.dense, key) / max(_mean(p.original, key), 0.1) for p in group)
            for column, key in (("parameters of the twin", "parameters"), ("CPU time of the twin", "cpu_seconds"))
        }
        rows.append({"model": model, **_counts(group), **{name: f"{value:.2f} x" for name, value in size.items()}})
    return rows


def pair_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """One row for each pair."""
    return [
        {
            "study": pair.study,
            "data": f"{pair.data} {pair.size}".strip(),
            "model": pair.model,
            "metric": _title(pair.metric),
            "original": _spread(pair, pair.original),
            "dense": _spread(pair, pair.dense),
            "change": _percent(pair.change),
            "best baseline": pair.baseline,
            "published": pair.published,
            "parameters": " / ".join(f"{_mean(runs, 'parameters'):,.0f}" for runs in (pair.original, pair.dense)),
            "CPU s": " / ".join(f"{_mean(runs, 'cpu_seconds'):.0f}" for runs in (pair.original, pair.dense)),
            "seeds": len(pair.original),
        }
        for pair in pairs
    ]


def scores(rows: Sequence[Run], tasks: Mapping[str, type[Task]]) -> str:
    """A table for each study, in Markdown: means over seeds of all models, twins and baselines on each data set."""
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    # baselines last
    for row in sorted(rows, key=lambda row: (row["study"], row["role"] != "model", row["name"], row["dense"])):
        metric = tasks[row["task"]].metrics[0]
        name, data = row["name"] + ", dense" * (row["dense"] == "True"), f"{row['data']} {_size(row, tasks)}".strip()
        facts = ", ".join(("data", *tasks[row["task"]].table.facts)).replace("_", " ")
        study = f"{row['study']}: {_title(metric)} by {facts}"
        found[study][name][data][row["seed"]] = float(row[metric])
    parts = []
    for study, models in found.items():
        columns = sorted({data for line in models.values() for data in line})
        lines = [
            {"model": name} | {d: f"{statistics.mean(line[d].values()):.3f}" if d in line else "" for d in columns}
            for name, line in models.items()
        ]
        parts += [study, markdown(lines)]
    return "\n\n".join(parts)


def cells_of(rows: Sequence[Run], tasks: Mapping[str, type[Task]]) -> list[Cell]:
    """Scores of all models and twins on each data set: means over the recorded seeds."""
    found: dict[tuple[str, str, str], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    better = {}
    for row in (row for row in rows if row["role"] == "model"):
        task, key = tasks[row["task"]], (row["study"], row["data"], _size(row, tasks))
        name = row["name"] + ", dense" * (row["dense"] == "True")
        found[key][name][row["seed"]] = float(row[task.metrics[0]])
        better[key] = task.better_in_test or task.better
    return [
        Cell(study, f"{data} {size}".strip(), {n: statistics.mean(s.values()) for n, s in scores.items()}, better[key])
        for key, scores in found.items()
        for study, data, size in [key]
    ]


def ranks(cells: Sequence[Cell], names: Sequence[str]) -> np.ndarray:
    """Rank of each name on each data set that has all of them, ``(n, k)``; 1 is best, ties share the mean."""
    from scipy.stats import rankdata

    sign = [1 if cell.better == "lower" else -1 for cell in cells]
    return np.array(
        [
            rankdata([s * cell.scores[name] for name in names])
            for s, cell in zip(sign, cells, strict=True)
            if all(name in cell.scores for name in names)
        ]
    ).reshape(-1, len(names))


def critical_difference(n_names: int, n_cells: int) -> float:
    """Difference of two mean ranks beyond chance at 5 % (Nemenyi).

    Source: Demsar, 2006, Journal of Machine Learning Research 7, sec. 3.2.2.
    """
    from scipy.stats import studentized_range

    q = studentized_range.ppf(0.95, n_names, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(n_names * (n_names + 1) / (6 * n_cells)))


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Draw mean ranks of models and twins with the Nemenyi bar, on the data sets that have all of them.

    A model that was run on less than half as many data sets as another one is left out.
    """
    counts = Counter(name for cell in cells for name in cell.scores)
    names = sorted(name for name, n in counts.items() if 2 * n >= max(counts.values()))
    found = ranks(cells, names)
    if not len(found):
        raise DataError(f"no data set has results of all of {', '.join(names)}; {_REMEDY}")
    mean = dict(zip(names, found.mean(0), strict=True))
    order = sorted(names, key=mean.__getitem__)
    figure = Figure(figsize=(7, 1.3 + 0.3 * len(order)), layout="constrained")
    axes = figure.subplots()
    for y, name in enumerate(order):
        color = "C1" if name.endswith(", dense") else "C0"
        axes.plot(mean[name], y, "o", color=color)
        axes.annotate(f"{mean[name]:.2f}", (mean[name], y), (7, 0), textcoords="offset points", va="center", fontsize=8)
    bar, best = critical_difference(len(order), len(found)), mean[order[0]]
    axes.axvspan(best, best + bar, color="0.5", alpha=0.15, linewidth=0, zorder=0)
    axes.set_title(
        f"Mean rank on {len(found)} data sets; gray: within the critical difference of the best, {bar:.2f}", fontsize=9
    )
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlim(0.5, len(order) + 0.5)
    axes.set_xlabel("mean rank, 1 is best")
    axes.spines[["top", "right"]].set_visible(False)
    save_picture(figure, path)


def _counts(pairs: Sequence[Pair]) -> dict[str, Any]:
    changes = [pair.change for pair in pairs]
    return {
        "pairs": len(pairs),
        "dense better": sum(change < -SAME for change in changes),
        f"within {100 * SAME:.0f} %": sum(abs(change) <= SAME for change in changes),
        "dense worse": sum(change > SAME for change in changes),
        "median change": _percent(statistics.median(changes)),
    }


def _short(pairs: Sequence[Pair]) -> str:
    if not pairs:
        return ""
    _, better, same, worse, median = _counts(pairs).values()
    return f"{better} / {same} / {worse}, {median}"


def _tests(pairs: Sequence[Pair]) -> dict[str, str]:
    """Wilcoxon signed-rank tests over pairs, and over data sets: pairs of one data set are not independent."""
    by_data: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for pair in pairs:
        by_data[pair[:3]].append(pair.change)
    means = [statistics.mean(changes) for changes in by_data.values()]
    return {
        "p, over pairs": _wilcoxon([pair.change for pair in pairs]),
        "p, over data sets": f"{_wilcoxon(means)} (n = {len(means)})",
    }


def _wilcoxon(changes: Sequence[float]) -> str:
    from scipy.stats import wilcoxon

    # fewer than six differences cannot be significant at 5 %
    if sum(change != 0 for change in changes) < 6:
        return "too few"
    # the type stubs declare a tuple
    p = float(wilcoxon(changes).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _best(scores: Mapping[str, Sequence[float]], better: str) -> str:
    """The baseline with the best mean, and the mean; empty where there is none."""
    choose = min if better == "lower" else max
    means = [(statistics.mean(values), name) for name, values in scores.items()]
    return "{1} {0:.3f}".format(*choose(means)) if means else ""


def _title(metric: str) -> str:
    return _TITLES.get(metric, metric)


def _percent(change: float) -> str:
    # no minus before a zero
    return f"{round(100 * change, 1) or 0.0:+.1f} %"


def _size(row: Run, tasks: Mapping[str, type[Task]]) -> str:
    return " ".join(row[fact] for fact in tasks[row["task"]].table.facts)


def _is_of(published: Run, run: Run) -> bool:
    own = {**run, "model": run["name"]}
    return all(own.get(fact) == published[fact] for fact in ("model", "data", "context", "horizon"))


def _mean(runs: Sequence[Run], key: str) -> float:
    return statistics.mean(float(run[key]) for run in runs)


def _spread(pair: Pair, runs: Sequence[Run]) -> str:
    values = [float(run[pair.metric]) for run in runs]
    return f"{pair.mean(runs):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")
