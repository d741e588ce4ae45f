"""Rows of results in CSV files, written atomically and by several processes."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqmix.errors import DataError
from seqmix.tasks.lock import locked
from seqmix.whole import whole


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]], *, key: Sequence[str] = ()) -> None:
    """Append rows to a CSV file, which is created with a header.

    New columns are added to the header, and are empty in the rows before. Several processes may append at once. An
    interrupted call leaves the old file.

    Args:
        path: file to append to.
        rows: values by column.
        key: columns that identify a row: a row that the file already has is not written again. Default: write all.

    Raises:
        DataError: if the file is not a table.
        WriteError: if it cannot be written.
    """
    with locked(path.with_name(f"{path.name}.lock")):
        old = read_rows(path)
        new = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
        if key:
            known = {tuple(row.get(name, "") for name in key) for row in old}
            new = [row for row in new if tuple(row.get(name, "") for name in key) not in known]
        write_rows(path, [*old, *new])


def keep_rows(path: Path, wanted: Callable[[Mapping[str, str]], bool]) -> None:
    """Remove the rows of a CSV file that are not ``wanted``, and the file if none is left."""
    if path.exists():
        with locked(path.with_name(f"{path.name}.lock")):
            kept = [row for row in read_rows(path) if wanted(row)]
            write_rows(path, kept) if kept else path.unlink()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; empty if the file does not exist.

    Raises:
        DataError: if it is not text, the header names a column twice, or a row has another number of cells.
    """
    if not path.exists():
        return []
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    except (UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path} is not a table ({e}); mend or move the file") from e
    header, *cells = lines or [[]]
    if len({*header}) < len(header):
        raise DataError(f"{path} names a column twice: {', '.join(header)}; mend or move the file")
    for number, row in enumerate(cells, 2):
        if row and len(row) != len(header):
            raise DataError(
                f"{path}, row {number}: {len(row)} cells under {len(header)} columns; mend or move the file"
            )
    return [dict(zip(header, row, strict=True)) for row in cells if row]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a CSV file, atomically."""
    text = io.StringIO(newline="")
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def write(path: Path, text: str) -> None:
    """Write a text file atomically; its folder is created if needed."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", newline="")
