"""``seqmix runs``: list the runs of a folder, the newest last."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqmix.commands._function import call
from seqmix.commands.tables import EXACT, Format, print_as, print_text
from seqmix.errors import DataError
from seqmix.tasks.rows import read_rows


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(runs, command, argv)


def runs(*, folder: str = "runs", name: str | None = None, format: Format = "table") -> None:
    """List the runs of a folder with their changes, progress, and validation and test results.

    Args:
        folder: folder of all runs.
        name: list the runs of this config only, ``runs/<name>``.
        format: ``table`` or ``markdown``; for programs ``csv`` or ``json``, with every digit and the folders of the
            runs.
    """
    rows = run_rows(Path(folder), name)
    if not rows:
        raise DataError(f"no runs in {str(Path(folder) / (name or ''))!r}; make one with `seqmix fit --config demo`")
    print_as(format, f"{len(rows)} runs in {folder}", rows if format in EXACT else [_shown(row) for row in rows])
    if format == "table":
        # long: below the table, once for all runs that have the same settings
        for settings, changed in {row["settings"]: row["changed"] for row in rows if row["changed"]}.items():
            print_text(f"settings {settings[:6]}: {changed}")


def run_rows(folder: Path, name: str | None) -> list[dict[str, Any]]:
    """One row for each run, by config and time; None where a run has not come so far."""
    found = []
    for env in sorted(folder.glob(f"{name or '*'}/*/env.json")):
        path = env.parent
        rows = read_rows(path / "results.csv")
        # rows of 0.1 have no role, that of the model is the first
        tests = [row for row in rows if row.get("role") == "model"] or rows[:1]
        last, validations = tests[-1] if tests else {}, read_rows(path / "metrics.csv")
        monitors = [column for column in (validations or [{}])[0] if column.startswith("val_")]
        metric = monitors[0].removeprefix("val_") if monitors else None
        found.append(
            {
                "config": path.parent.name,
                "run": path.name,
                "model": last.get("model"),
                "data": last.get("data"),
                "steps": _number(validations[-1].get("step")) if validations else None,
                "metric": metric,
                "validation": _number(validations[-1][monitors[0]]) if monitors else None,
                "test": _number(last.get(metric)) if metric else None,
                "settings": last.get("settings"),
                "changed": last.get("changed"),
                "folder": str(path),
            }
        )
    return found


def _number(cell: str | None) -> int | float | str | None:
    """A number as it was written; a damaged cell stays as it is."""
    for kind in (int, float):
        try:
            return kind(cell or "")
        except ValueError:
            continue
    return cell


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row for readers."""
    values = {key: "" if value is None else value for key, value in row.items()}
    results = {"last validation": values["validation"], "test": values["test"]}
    return {
        **{key: values[key] for key in ("config", "run", "model", "data", "steps")},
        **{key: f"{row['metric']} {_rounded(value)}" if value != "" else "" for key, value in results.items()},
        "settings": values["settings"][:6],
    }


def _rounded(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"
