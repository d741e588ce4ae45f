"""Reading of tables as long frames with one or several channels, for classify, impute and detect."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from seqmix.commands._long_table import (
    ID_NAMES,
    TIME_NAMES,
    Roles,
    check_columns,
    find_roles,
    long_frame,
    split,
)
from seqmix.commands._options import TableReader
from seqmix.errors import DataError
from seqmix.forecasting.cells import Cells, is_text
from seqmix.forecasting.tables import TableFile, write_table

# names of columns in lower case that are no channels, whatever they hold
_NO_CHANNELS = (*ID_NAMES, *TIME_NAMES, "hour")


class ChannelTable(NamedTuple):
    """A table and the roles of its columns."""

    file: TableFile
    long: pd.DataFrame  # ids, times and channels, in the order of the file, lines at its end that are no rows left out
    roles: Roles
    channels: list[str]
    cells: Cells
    notes: list[str]

    @property
    def names(self) -> dict[str, Any]:
        """The columns of ids and times as arguments of ``fit``."""
        return {"id_col": self.roles.id_col, "time_col": self.roles.time_col}

    @property
    def rows(self) -> pd.DataFrame:
        """The rows of the table as they stand in the file."""
        return self.file.frame.iloc[: len(self.long)].reset_index(drop=True)

    def write(self, frame: pd.DataFrame, path: Path) -> None:
        """Write a frame as the file of the table is written: separator, encoding, ends of lines, decimal sign."""
        column = self.file.frame[self.channels[0]]
        write_table(frame, path, self.file.style, decimal=self.cells.decimal_of(column) if is_text(column) else ".")


def read_channels(
    path: str,
    reader: TableReader,
    channels: str | None,
    *,
    label_col: str | None = None,
    labeled: bool = False,
) -> ChannelTable:
    """Read a table and find the roles of its columns.

    Args:
        path: the file.
        reader: how tables are read.
        channels: columns of values, separated by commas. Default: all columns of numbers.
        label_col: column of labels, which stays as it is. Default: none.
        labeled: require a column of labels.

    Raises:
        DataError: if a column cannot be found or read.
    """
    file, cells = reader.read(path)
    frame = file.frame
    label_col = label_col if labeled or label_col in frame else None
    taken = [*split(reader.id_col), *split(reader.time_col), *([label_col] if label_col else [])]
    check_columns(frame, [*taken, *split(channels)])
    free = [str(c) for c in frame if c not in taken and str(c).lower() not in _NO_CHANNELS]
    kinds = {} if channels else {name: cells.kind(frame[name]) for name in free}
    found = split(channels) or [name for name, kind in kinds.items() if kind == "number"]
    for name in (name for name, kind in kinds.items() if kind == "text" and cells.share(frame[name]) > 0.5):
        raise DataError(
            f"column {name!r} holds {cells.first_wrong(frame[name])!r}, which is not a number; mend it, pass --na, "
            "or name the columns of values with --channels"
        )
    if not found:
        raise DataError(f"file {path!r} has no column of numbers to take for --channels among {list(frame)}; name them")
    without_labels = frame.drop(columns=[label_col] if label_col else [])
    roles = find_roles(
        without_labels, cells, id_col=reader.id_col, time_col=reader.time_col, target_col=found[0], covariates=found[1:]
    )
    long, notes = long_frame(frame, cells, roles, found[1:])
    if label_col:
        labels = frame[label_col].iloc[: len(long)].reset_index(drop=True)
        long[label_col] = labels.mask(labels.eq("")) if is_text(labels) else labels
    notes += [f"column {name!r} has no value, and is not used" for name, kind in kinds.items() if kind == "empty"]
    return ChannelTable(file, long, roles, found, cells, [*file.notes, *notes])


def renamed(table: ChannelTable, found: Any) -> pd.DataFrame:
    """The long frame with the names of columns that an estimator was fitted with."""
    how = found.columns_
    return table.long.rename(columns={own: getattr(how, option) for option, own in table.names.items()})
