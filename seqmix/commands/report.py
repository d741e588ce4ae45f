"""``seqmix report``: the recorded results of forecasts as a Markdown table, the one in the README."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqmix.commands._function import call
from seqmix.commands._table import markdown
from seqmix.errors import DataError


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(report, command, argv)


def report(*, folder: str = "configs/results") -> None:
    """Print what the runs recorded with ``--record true`` have reached, mean and deviation over their seeds.

    Args:
        folder: where the CSV files lie.
    """
    rows = summary(Path(folder))
    if not rows:
        raise DataError(f"no results in {folder!r}; record some with `seqmix fit --config ... --record true`")
    print(markdown(rows))


def summary(folder: Path) -> list[dict[str, Any]]:
    """One row for each config and model in the CSV files of ``folder``; of a seed the newest run counts."""
    rows = []
    for file in sorted(folder.glob("*.csv")):
        with file.open(newline="") as lines:
            runs: dict[tuple[str, ...], dict[str, dict[str, str]]] = defaultdict(dict)
            for run in csv.DictReader(lines):
                if "horizon" not in run:
                    continue
                runs[run["data"], run["context"], run["horizon"], run["model"]][run["seed"]] = run
        for (data, context, horizon, model), seeds in runs.items():
            last = list(seeds.values())
            rows.append(
                {
                    "config": file.stem,
                    "data": data,
                    "steps": f"{context} → {horizon}",
                    "model": model,
                    "test MSE": _spread([float(run["mse"]) for run in last]),
                    "test MAE": _spread([float(run["mae"]) for run in last]),
                    "windows": f"{int(last[0]['windows']):,}",
                    "parameters": f"{int(last[0]['parameters']):,}",
                    "seeds": len(seeds),
                }
            )
    return rows


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    # a baseline without randomness has no spread to tell
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(set(values)) > 1 else mean
