"""Printing of tables: framed on a terminal, plain columns elsewhere; as Markdown, CSV or JSON where asked for."""

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Format = Literal["table", "markdown", "csv", "json"]
# formats of values as they are, for programs
EXACT = ("csv", "json")


def print_as(form: Format, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table in one of the formats; CSV and JSON are for programs, and have no title."""
    if form == "table":
        print_table(title, rows)
    elif form == "markdown":
        print(markdown(rows))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        print_json([*rows])


def print_json(value: Any) -> None:
    """Print JSON; numbers that it does not have, such as NaN, are null."""
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False))


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line for each row, under the keys of the first; numbers are set right."""
    terminal = sys.stdout.isatty()
    table = Table(box=box.ROUNDED if terminal else None)
    for key, value in rows[0].items():
        table.add_column(key, justify="right" if _is_number(value) else "left", overflow="fold")
    for row in rows:
        # Text, so that brackets in values are not read as markup
        table.add_row(*(Text(_shown(value)) for value in row.values()))
    print_text(title)
    _console().print(table)


def print_text(text: str) -> None:
    """Print text, on a terminal in lines that fit."""
    _console().print(Text(text))


def _console() -> Console:
    # elsewhere a line is as long as it needs to be
    return Console(width=None if sys.stdout.isatty() else 500)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "-"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same table in Markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(_shown(value) for value in row.values()) + " |" for row in rows]
    return "\n".join(lines)
