"""All forecasting models and their peers on all development panels, beside the seasonal naive forecast.

    python benchmarks/zoo.py --series 60                                  # appends to benchmarks/results/zoo.csv
    python benchmarks/zoo.py --models Ridge,ZeroShot --panels m4_hourly,m1_yearly
    python benchmarks/zoo.py --statsforecast stats/bin/python --neuralforecast neural/bin/python
    python benchmarks/zoo.py --held-out folder --out held_out.csv         # files .tsf.gz of the Monash archive

A pair of model and panel that the CSV holds is not run again. Each model runs in a process of its own, on one thread,
with defaults. After ``--limit`` CPU seconds of fitting, a statistical model leaves the remaining series of a panel out,
which count as failures, and a neural one of a peer stops training. Needs ``$SEQMIX_DATA``, and for peers their own
environments:

    python -m venv stats && stats/bin/pip install -e . statsforecast==2.1.1 'pandas<3'
    python -m venv neural && neural/bin/pip install torch==2.13.0 neuralforecast==3.3.0 pyarrow
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import panels
import zoo_models as runs
from zoo_scores import bootstrap, geometric_mean, scores, win_matrix, win_rates

HERE = Path(__file__).parent
OUT = HERE / "results" / "zoo.csv"
OURS = ("Persistence", "SeasonalNaive", "Ridge", "DLinear", "DenseMLP", "TSM2", "ZeroShot", "auto")
# the automatic choice where statsforecast is installed
MODELS = (*OURS, "auto-stats", *runs.STATISTICAL, *runs.NEURAL)
GROUPS = ("yearly", "quarterly", "monthly", "weekly", "daily", "hourly", "minutes")
Row = Mapping[str, str]


def main() -> None:
    """Run what the CSV lacks, then print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", type=_list, help="names, separated by commas (default: all)")
    parser.add_argument("--models", type=_list, help=f"any of seqmix's, and of {', '.join(MODELS)} (default: these)")
    parser.add_argument("--series", type=int, default=120, help="series of each panel, drawn with a fixed seed")
    parser.add_argument("--limit", type=float, default=600, help="CPU seconds for fitting")
    parser.add_argument("--held-out", type=Path, metavar="FOLDER", help="panels of files .tsf.gz instead")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--statsforecast", metavar="PYTHON", help="interpreter that has it")
    parser.add_argument("--neuralforecast", metavar="PYTHON", help="interpreter that has it")
    args = parser.parse_args()
    from seqmix.commands.tables import markdown
    from seqmix.tasks.rows import append_rows

    rows = read(args.out)
    if any(row["sample"] != str(args.series) for row in rows):
        parser.error(
            f"{args.out} holds samples of {rows[0]['sample']} series; use --series {rows[0]['sample']} or --out"
        )
    done = {(row["panel"], row["model"]) for row in rows}
    known = panels.names_in(args.held_out) if args.held_out else panels.NAMES
    for model, python in _interpreters(args.models or MODELS, args.statsforecast, args.neuralforecast):
        names = [name for name in args.panels or known if (name, model) not in done]
        for row in measure(model, names, python, args.series, args.limit, args.held_out) if names else ():
            print(*(row[k] for k in ("model", "panel", "relative_mase", "relative_wql", "note")), file=sys.stderr)
            append_rows(args.out, [row])
    rows = read(args.out)
    print(markdown(table(rows)), markdown(groups(rows)), sep="\n\n")
    draw(rows, args.out.with_suffix(".png"))


def measure(
    model: str, names: Sequence[str], python: str, series: int, limit: float, held_out: Path | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of one model on some panels, as they come."""
    from seqmix.environment import environment

    about = environment()
    costs = {"fit_s": 0.0, "predict_s": 0.0, "bytes": 0, "seen": ""}
    end = {"limit": f"{limit:g}", "commit": about["commit"] + "+" * about["dirty"], "cpu": about["cpu"]}
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(HERE / "zoo_models.py"), model, *names, f"--out={folder}", f"--series={series}"]
        command += [f"--limit={limit}", *([f"--held-out={held_out}"] if held_out else [])]
        env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "NUMBA_NUM_THREADS": "1",
            "SEQMIX_DATA": str(panels.DATA.resolve()),
        }
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as run:
            for line in run.stdout or ():
                facts = json.loads(line)
                panel = panels.read(facts["panel"], held_out).sample(series)
                found = scores(panel, np.load(Path(folder) / f"{panel.name}.npy"), runs.QUANTILES)
                row = {"panel": panel.name, "group": panel.group, "model": model, "sample": series}
                row |= {"series": len(panel.series), **found, **costs, **facts, **end}
                yield {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
    if run.returncode:
        sys.exit(f"{model} ended with {run.returncode}")


def read(path: Path) -> list[dict[str, str]]:
    """Rows of the CSV, none if there is no file."""
    from seqmix.tasks.rows import read_rows

    return read_rows(path)


def _known() -> dict[str, dict[str, str]]:
    """What ``panels.py`` wrote about each panel."""
    return {row["panel"]: row for row in read(OUT.with_name("panels.csv"))}


def table(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """A line for each model, the best first: means over panels relative to the seasonal naive forecast, and costs.

    A mean over some of the panels says so, has no interval, and comes last.
    """
    wins = win_rates({model: _by_panel(own, "relative_mase") for model, own in _models(rows).items()})
    lines, order = [], {}
    for model, own in _models(rows).items():
        line: dict[str, Any] = {"model": model}
        for kind, part in _kinds(rows).items():
            n, mine = len({row["panel"] for row in part}), _models(part).get(model, [])
            for metric, label in (("relative_mase", "MASE"), ("relative_wql", "WQL")):
                line[f"{label}, {kind}"] = _interval([float(row[metric]) for row in mine], n)
            lacking = n - len(mine), geometric_mean(_by_panel(mine, "relative_mase").values())
            order.setdefault(model, lacking)
        line["win rate, %"] = f"{wins[model]:.0f}"
        line["80 % covers, %"] = f"{np.mean([float(row['coverage80']) for row in own]):.0f}"
        line["failures"] = f"{_sum(own, 'failures'):.0f} of {_sum(own, 'forecasts'):,.0f}"
        line["fit, s"], line["predict, s"] = (f"{_sum(own, key) / len(own):,.2f}" for key in ("fit_s", "predict_s"))
        size = np.median([float(row["bytes"]) for row in own]) / 1024
        line["weights, KiB"] = f"{size:,.0f}" if size else ""
        line["seen in training"] = own[0]["seen"]
        lines.append(line)
    return sorted(lines, key=lambda line: order[line["model"]])


def groups(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """A line for each model by frequency."""
    return _parts(rows, GROUPS, lambda row: row["group"])


def lengths(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """A line for each model by the length of the series."""
    known = _known()
    return _parts(rows, panels.LENGTHS, lambda row: known[row["panel"]]["length"])


def _parts(rows: list[dict[str, str]], names: Iterable[str], of: Callable[[Row], str]) -> list[dict[str, Any]]:
    """Models in the order of ``table``: MASE / WQL in each part of the panels, and how much 80 % intervals cover."""
    lines = []
    for model in [line["model"] for line in table(rows)]:
        line = {"model": model}
        for name in [each for each in names if any(of(row) == each for row in rows)]:
            part = _of(rows, lambda row, n=name: of(row) == n)
            n, mine = len({row["panel"] for row in part}), _models(part).get(model, [])
            means = [geometric_mean(float(row[k]) for row in mine) for k in ("relative_mase", "relative_wql")]
            covered = np.mean([float(row["coverage80"]) for row in mine]) if mine else 0
            some = "" if len(mine) == n else f", {len(mine)} of {n}"
            line[name] = f"{means[0]:.3f} / {means[1]:.3f} ({covered:.0f} %{some})" if mine else ""
        lines.append(line)
    return lines


def by_panel(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """A line for each panel: relative MASE / WQL of each model, in the order of ``table``."""
    models, known = [line["model"] for line in table(rows)], _known()
    lines = []
    for panel in dict.fromkeys(row["panel"] for row in sorted(rows, key=lambda row: GROUPS.index(row["group"]))):
        own = {row["model"]: row for row in rows if row["panel"] == panel}
        first = next(iter(own.values()))
        n = int(first["series"])
        line = {"panel": panel, "frequency": first["group"], "series": f"{min(n, int(first['sample']))} of {n:,}"}
        line["rows"] = f"{int(known[panel]['rows']):,}" if panel in known else ""
        errors = {k: (float(row["relative_mase"]), float(row["relative_wql"])) for k, row in own.items()}
        lines.append(line | {k: "{:.3f} / {:.3f}".format(*errors[k]) if k in errors else "" for k in models})
    return lines


def wins(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Percent of panels on which the MASE of the model of the line is below that of the column."""
    errors = {model: _by_panel(own, "relative_mase") for model, own in _models(rows).items()}
    found = win_matrix({line["model"]: errors[line["model"]] for line in table(rows)})
    return [
        {"model": model, **{other: "" if np.isnan(x) else f"{x:.0f}" for other, x in line.items()}}
        for model, line in found.items()
    ]


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Relative MASE and WQL of each model with the interval over panels, the best on top; the CPU seconds beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = _kinds(rows).values()
    models = [line["model"] for line in table(rows) if any(_whole(part, line["model"]) for part in kinds)][::-1]
    figure, plots = plt.subplots(1, 2, figsize=(9, 1.2 + 0.4 * len(models)), layout="constrained", sharey=True)
    for axes, (column, label) in zip(plots, (("relative_mase", "MASE"), ("relative_wql", "WQL")), strict=True):
        for k, (part, mark) in enumerate(zip(kinds, ("o", "D"), strict=True)):
            for y, model in enumerate(models):
                errors = [float(row[column]) for row in _whole(part, model)]
                if errors:
                    at, (lo, hi) = y + 0.12 - 0.24 * k, bootstrap(errors)
                    axes.plot([lo, hi], [at, at], color=f"C{k}", linewidth=1.5, alpha=0.4)
                    axes.plot(geometric_mean(errors), at, mark, color=f"C{k}", markersize=6 - k)
        axes.axvline(1, color="0.6", linewidth=1, linestyle="--")
        axes.set(xscale="log", xlim=(0.4, 2.5), xlabel=f"{label}, seasonal naive forecast = 1")
        axes.set_xticks([0.5, 0.7, 1, 1.4, 2], ["0.5", "0.7", "1", "1.4", "2"], minor=False)
        axes.set_xticks([], minor=True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
    costs = [_of(rows, lambda row, m=model: row["model"] == m) for model in models]
    seconds = [(_sum(own, "fit_s") + _sum(own, "predict_s")) / len(own) for own in costs]
    labels = [f"{model}  ({cost:,.1f} s)" for model, cost in zip(models, seconds, strict=True)]
    plots[0].set_yticks(range(len(models)), labels)
    title = "Forecasts without tuning: panels of many series (round), few long series (diamonds)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _whole(rows: list[dict[str, str]], model: str) -> list[dict[str, str]]:
    """Rows of a model that has been run on each of their panels; none of another, whose mean does not compare."""
    own = [row for row in rows if row["model"] == model]
    return own if len(own) == len({row["panel"] for row in rows}) else []


def _interpreters(
    models: Iterable[str], statsforecast: str | None, neuralforecast: str | None
) -> Iterable[tuple[str, str]]:
    """Each model that can be run, and the interpreter that runs it."""
    from seqmix.mixers import list_mixers
    from seqmix.models import list_encoders, list_models

    ours = {"Persistence", "auto", *list_models(), *list_encoders(), *list_mixers()}
    for model in models:
        peer = dict.fromkeys((*runs.STATISTICAL, "auto-stats"), statsforecast)
        peer |= dict.fromkeys(runs.NEURAL, neuralforecast)
        python = peer.get(model, sys.executable if model in ours else None)
        if python:
            yield model, python


def _list(names: str) -> list[str]:
    return names.split(",")


def _of(rows: list[dict[str, str]], wanted: Callable[[Row], bool]) -> list[dict[str, str]]:
    return [row for row in rows if wanted(row)]


def _models(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    return {model: _of(rows, lambda row, m=model: row["model"] == m) for model in {row["model"]: 0 for row in rows}}


def _kinds(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    return {
        "many series": _of(rows, lambda row: row["panel"] not in panels.LONG),
        "few, long": _of(rows, lambda row: row["panel"] in panels.LONG),
    }


def _by_panel(rows: Iterable[Row], column: str) -> dict[str, float]:
    return {row["panel"]: float(row[column]) for row in rows}


def _sum(rows: Iterable[Row], column: str) -> float:
    return sum(float(row[column]) for row in rows)


def _interval(values: list[float], n: int) -> str:
    """Mean over ``n`` panels with its interval, or over those that there are."""
    if len(values) < n or not values:
        return f"{geometric_mean(values):.3f}, {len(values)} of {n}" if values else ""
    lo, hi = bootstrap(values)
    return f"{geometric_mean(values):.3f} [{lo:.2f}, {hi:.2f}]"


if __name__ == "__main__":
    main()
