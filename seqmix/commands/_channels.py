"""Reading of tables as long frames with one or several channels, for classify, impute and detect."""

import re
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
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
from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.cells import Cells, is_text
from seqmix.forecasting.plot import PICTURES
from seqmix.forecasting.tables import OUTPUTS, TableFile, check_apart, check_folder, check_output, read_table

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


class ChannelReader:
    """Reader of tables; its arguments are options of the command line.

    Args:
        id_col: column that names the series, or several separated by commas. Default: found by name or content.
        time_col: column of times, or several. Default: found by name or content.
        channels: columns of values, separated by commas. Default: all columns of numbers.
        sep: field separator of a CSV file. Default: inferred.
        decimal: decimal separator, ``.`` or ``,``. Default: inferred.
        thousands: thousands separator. Default: inferred.
        date_format: format of dates, for example ``%d.%m.%Y``. Default: inferred.
        encoding: character encoding. Default: inferred.
        na: further words for missing values, separated by commas.
    """

    def __init__(
        self,
        *,
        id_col: str | None = None,
        time_col: str | None = None,
        channels: str | None = None,
        sep: str | None = None,
        decimal: str | None = None,
        thousands: str | None = None,
        date_format: str | None = None,
        encoding: str | None = None,
        na: str = "",
    ):
        self.id_col, self.time_col, self.channels = id_col, time_col, split(channels)
        self.sep, self.encoding, self.missing = sep, encoding, split(na)
        self.decimal, self.thousands, self.date_format = decimal, thousands, date_format

    def read(self, path: str, *, label_col: str | None = None, labeled: bool = False) -> ChannelTable:
        """Read a table and find the roles of its columns.

        Args:
            path: the file.
            label_col: column of labels, which stays as it is. Default: none.
            labeled: require a column of labels.

        Raises:
            DataError: if a column cannot be found or read.
        """
        cells = Cells(
            decimal=self.decimal, thousands=self.thousands, date_format=self.date_format, missing=self.missing
        )
        file = read_table(path, sep=self.sep, encoding=self.encoding)
        frame = file.frame
        cells.observe(frame, file.sep)
        label_col = label_col if labeled or label_col in frame else None
        taken = [*split(self.id_col), *split(self.time_col), *([label_col] if label_col else [])]
        check_columns(frame, [*taken, *self.channels])
        free = [str(c) for c in frame if c not in taken and str(c).lower() not in _NO_CHANNELS]
        kinds = {} if self.channels else {name: cells.kind(frame[name]) for name in free}
        found = self.channels or [name for name, kind in kinds.items() if kind == "number"]
        for name in (name for name, kind in kinds.items() if kind == "text" and cells.share(frame[name]) > 0.5):
            raise DataError(
                f"column {name!r} holds {cells.first_wrong(frame[name])!r}, which is not a number; mend it, pass --na, "
                "or name the columns of values with --channels"
            )
        if not found:
            raise DataError(
                f"file {path!r} has no column of numbers to take for --channels among {list(frame)}; name them"
            )
        without_labels = frame.drop(columns=[label_col] if label_col else [])
        roles = find_roles(
            without_labels, cells, id_col=self.id_col, time_col=self.time_col, target_col=found[0], covariates=found[1:]
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


def check_loaded(function: Callable[..., None], given: dict[str, Any], fitting: Sequence[str]) -> None:
    """Refuse options of fitting beside ``--load``."""
    parameters = signature(function).parameters
    useless = [name for name in fitting if given[name] != parameters[name].default]
    if useless:
        raise ConfigError(f"--{useless[0]} is for fitting, and --load takes a fitted model; leave one of the two out")


def check_outputs(out: str, plot: str | None, save: str | None, inputs: Mapping[str, str | None]) -> None:
    """Check that the outputs can be written, and replace no file of the inputs, before anything is computed."""
    check_output("out", out, OUTPUTS)
    check_apart(out, inputs)
    if plot is not None:
        check_output("plot", plot, PICTURES)
    if save is not None:
        check_folder("save", save)


def whole_or_text(freq: str | None) -> str | int | None:
    """A frequency: an alias of pandas, or a number of rows that are counted."""
    return int(freq) if freq and freq.isdigit() else freq


def numbers_of(option: str, text: str) -> list[float]:
    """Numbers separated by commas."""
    try:
        return [float(part) for part in split(text)]
    except ValueError as e:
        raise ConfigError(f"--{option} should be numbers separated by commas, got {text!r}; use 80,95") from e


def written(values: np.ndarray, column: pd.Series, cells: Cells) -> list[str]:
    """Numbers as text, with the decimal sign and as many decimals as the numbers of a column of text have at most."""
    sign = cells.decimal_of(column)
    digits = column.astype(str).str.extract(rf"{re.escape(sign)}(\d+)", expand=False).str.len().max()
    places = 0 if np.isnan(digits) else int(digits)
    return [f"{value:.{places}f}".replace(".", sign) for value in values]
