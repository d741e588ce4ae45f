"""``seqmix report``: the recorded results of forecasts as a Markdown table, the one in the README."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqmix.commands._function import call
from seqmix.commands._table import markdown
from seqmix.errors import DataError


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(report, command, argv)


def report(*, folder: str = "configs/results", published: str = "configs/published.csv") -> None:
    """Print what the runs recorded with ``--record true`` have reached, mean and deviation over their seeds.

    Args:
        folder: where the CSV files lie.
        published: CSV file of published numbers, printed beside ours.
    """
    rows = summary(Path(folder), Path(published))
    if not rows:
        raise DataError(f"no results in {folder!r}; record some with `seqmix fit --config ... --record true`")
    print(markdown(rows))


def summary(folder: Path, published: Path) -> list[dict[str, Any]]:
    """One row for each config, horizon and model in the CSV files of ``folder``; of a seed the newest run counts.

    The baselines that were trained in the same runs have columns of their own.
    """
    known = {_cell(row): row["mse"] for row in _read(published)} if published.exists() else {}
    rows = []
    for file in sorted(folder.glob("*.csv")):
        cells: dict[tuple[str, ...], dict[str, dict[str, str]]] = defaultdict(dict)
        for run in _read(file):
            if "horizon" in run:
                cells[_cell(run)][run["seed"]] = run
        models = [cell for cell in cells if cell[0] not in _BASELINES] or list(cells)
        for model, data, context, horizon in sorted(models, key=lambda cell: (*cell[:3], int(cell[3]))):
            runs = list(cells[model, data, context, horizon].values())
            beside = {name: list(cells[name, data, context, horizon].values()) for name in _BASELINES}
            rows.append(
                {
                    "config": file.stem,
                    "data": data,
                    "steps": f"{context} → {horizon}",
                    "model": model,
                    "test MSE": _spread(runs, "mse"),
                    "published": known.get((model, data, context, horizon), ""),
                    **{name: _spread(found, "mse") for name, found in beside.items()},
                    "test MAE": _spread(runs, "mae"),
                    "windows": f"{int(runs[0]['windows']):,}",
                    "parameters": f"{int(runs[0]['parameters']):,}",
                    "seeds": len(runs),
                }
            )
    return rows


_BASELINES = ("DLinear", "SeasonalNaive")


def _cell(row: Mapping[str, str]) -> tuple[str, str, str, str]:
    return row["model"], row["data"], row["context"], row["horizon"]


def _read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def _spread(runs: Sequence[Mapping[str, str]], metric: str) -> str:
    values = [float(run[metric]) for run in runs]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.3f}"
    # a baseline without randomness has no spread to tell
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(set(values)) > 1 else mean
