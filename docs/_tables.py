"""Rows of results as HTML tables that sort and filter in the page."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from seqmix.commands.generated import PROVENANCE

Row = Mapping[str, str]
#: Tables from this number of rows on can be filtered.
FEW = 8
#: Cells up to this number of characters stay on one line, and the table scrolls.
SHORT = 60

_NUMBER = re.compile(r"[-+±]?[\d.](?!.*→)")


def joined(rows: Sequence[Row], *tables: Sequence[Row]) -> list[Row]:
    """Rows with the facts that other tables have of what their first column names, behind that column.

    Args:
        rows: of a CSV file.
        tables: rows of others.
    """
    found = list(rows)
    for facts in filter(None, tables):
        key, *names = facts[0]
        known = {row[key]: row for row in facts}
        blank = dict.fromkeys(names, "")
        found = [{key: row[key], **blank, **known.get(row[key], {}), **row} for row in found]
    return found


def shown(rows: Sequence[Row], dates: Mapping[str, str]) -> list[dict[str, str]]:
    """Rows as the page shows them: numbers of five digits, no empty columns, where a row comes from at the end.

    Args:
        rows: of a CSV file.
        dates: the date of each commit.
    """
    made = []
    for row in rows:
        commit, run = row.get("commit", ""), row.get("run", "")
        # a run is named after its time: 20261129-093417-seed0
        date = dates.get(commit.rstrip("+")) or (f"{run[:4]}-{run[4:6]}-{run[6:8]}" if run else "")
        own = {name.replace("_", " "): _short(value) for name, value in row.items() if name not in PROVENANCE}
        machine = [row[name] for name in ("device", "cpu") if row.get(name)]
        versions = row.get("versions") or (f"torch {row['torch']}" if row.get("torch") else "")
        source = {"date": date, "commit": commit, "machine": ", ".join(machine)}
        made.append(own | source | {"versions": versions})
    used = [name for name in dict.fromkeys(name for row in made for name in row) if any(row.get(name) for row in made)]
    return [{name: row.get(name, "") for name in used} for row in made]


def table(rows: Sequence[Row], caption: str) -> str:
    """HTML of a table in a box of its own, which scrolls."""
    head = "".join(f'<th class="head" scope="col">{escape(name)}</th>' for name in rows[0])
    lines = ["".join(f"<td>{escape(value)}</td>" for value in row.values()) for row in rows]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return (
        f'<div class="table-wrapper scrolls docutils container" role="region" aria-label="{escape(caption)}">\n'
        f'<table class="docutils short">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'
    )


def controls(columns: Mapping[str, Sequence[str]], means: Sequence[str] = ()) -> str:
    """HTML of what filters the table below it: words, a choice for each column of words that repeat, a count.

    Args:
        columns: the cells of each column.
        means: columns of ratios whose geometric mean over the shown rows stands beside the count.
    """
    names, n = [*columns], len(next(iter(columns.values())))
    choices = []
    for i, (name, cells) in enumerate(columns.items()):
        values = sorted({cell for cell in cells if cell}, key=_natural)
        words = name not in _SOURCE and not any(_NUMBER.match(value) for value in values)
        if words and 1 < len(values) <= n // 2:
            options = "".join(f"<option>{escape(value)}</option>" for value in values)
            choices.append(f'<label>{escape(name)} <select data-column="{i}">{_ALL}{options}</select></label>')
    return (
        f'<div class="results-filter" data-means="{",".join(str(names.index(name)) for name in means)}">'
        f'<label>filter <input type="search" placeholder="words"></label>{"".join(choices[:4])}'
        f'<output aria-live="polite">{n:,} rows</output></div>'
    )


def commit_dates(root: Path) -> dict[str, str]:
    """The day of each commit of the repository in ``root``, by its first twelve digits; empty outside a clone."""
    command = ["git", "log", "--all", "--format=%h %cs", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return {}
    return dict(line.split(" ") for line in done.stdout.splitlines())


_ALL = '<option value="">all</option>'
_SOURCE = ("date", "commit", "machine", "versions", "run", "settings", "config")


def _short(value: str) -> str:
    """A number of more digits than five is rounded; the file that can be downloaded has them."""
    if not re.fullmatch(r"-?\d+\.\d{5,}(e-?\d+)?", value):
        return value
    return f"{float(value):.5g}"


def _natural(value: str) -> list[tuple[bool, float, str]]:
    """Key that sorts 96 before 192."""
    parts = re.findall(r"\d+|\D+", value)
    return [(not part.isdigit(), float(part) if part.isdigit() else 0.0, part) for part in parts]
