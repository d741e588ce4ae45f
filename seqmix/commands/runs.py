"""``seqmix runs``: list the runs of a folder, the newest last."""

from pathlib import Path
from typing import Any

from seqmix.commands._function import call
from seqmix.commands.tables import print_table, print_text
from seqmix.errors import DataError
from seqmix.tasks.rows import read_rows


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(runs, command, argv)


def runs(*, folder: str = "runs", name: str | None = None) -> None:
    """List the runs of a folder with their changes, progress, and validation and test results.

    Args:
        folder: folder of all runs.
        name: list the runs of this config only, ``runs/<name>``.
    """
    rows = run_rows(Path(folder), name)
    if not rows:
        raise DataError(f"no runs in {str(Path(folder) / (name or ''))!r}; make one with `seqmix fit --config demo`")
    # long: below the table, once for all runs that have the same settings
    changed = {row["settings"]: said for row in rows if (said := row.pop("changed"))}
    print_table(f"{len(rows)} runs in {folder}", rows)
    for settings, said in changed.items():
        print_text(f"settings {settings}: {said}")


def run_rows(folder: Path, name: str | None) -> list[dict[str, Any]]:
    """One row for each run, by config and time; empty where a run has not come so far."""
    found = []
    for env in sorted(folder.glob(f"{name or '*'}/*/env.json")):
        path = env.parent
        rows = read_rows(path / "results.csv")
        # rows of 0.1 have no role, that of the model is the first
        tests = [row for row in rows if row.get("role") == "model"] or rows[:1]
        last, validations = tests[-1] if tests else {}, read_rows(path / "metrics.csv")
        monitors = [column for column in (validations or [{}])[0] if column.startswith("val_")]
        metric = monitors[0].removeprefix("val_") if monitors else ""
        found.append(
            {
                "config": path.parent.name,
                "run": path.name,
                "model": last.get("model", ""),
                "data": last.get("data", ""),
                "steps": validations[-1].get("step", "") if validations else "",
                "last validation": _shown(metric, validations[-1][monitors[0]]) if metric else "",
                "test": _shown(metric, last[metric]) if metric in last else "",
                "settings": last.get("settings", "")[:6],
                "changed": last.get("changed", ""),
            }
        )
    return found


def _shown(metric: str, value: str) -> str:
    try:
        return f"{metric} {float(value):.4f}"
    except ValueError:
        # a damaged file is listed as it is
        return f"{metric} {value}"
