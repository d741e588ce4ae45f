"""Options that forecast, classify, impute and detect share: reading of tables, outputs, fitted models, percentages."""

from collections.abc import Callable, Collection, Mapping
from inspect import signature
from typing import Any

from seqmix.commands._long_table import split
from seqmix.commands.outputs import PICTURES
from seqmix.errors import ConfigError
from seqmix.forecasting.cells import Cells
from seqmix.forecasting.tables import OUTPUTS, TableFile, check_apart, check_folder, check_output, read_table


class TableReader:
    """How tables are read.

    Args:
        id_col: column that names the series, or several separated by commas. Default: found by name or content.
        time_col: column of times, or several (``year,month``, ``date,time``). Default: found by name or content.
        sep: field separator of a CSV file, for example ``;`` or ``tab``. Default: inferred.
        decimal: decimal separator, ``.`` or ``,``. Default: inferred.
        thousands: thousands separator. Default: inferred.
        date_format: format of dates, for example ``%d.%m.%Y``. Default: inferred.
        encoding: character encoding, for example ``cp1252`` or ``utf-16``. Default: inferred.
        na: further words for missing values, separated by commas.
    """

    def __init__(
        self,
        *,
        id_col: str | None = None,
        time_col: str | None = None,
        sep: str | None = None,
        decimal: str | None = None,
        thousands: str | None = None,
        date_format: str | None = None,
        encoding: str | None = None,
        na: str = "",
    ):
        self.id_col, self.time_col, self.sep, self.encoding = id_col, time_col, sep, encoding
        self.decimal, self.thousands, self.date_format, self.missing = decimal, thousands, date_format, split(na)

    def read(self, path: str) -> tuple[TableFile, Cells]:
        """The table in a file, and how its cells are written.

        Raises:
            DataError: if there is no table, or its cells can be read in two ways.
        """
        cells = Cells(
            decimal=self.decimal, thousands=self.thousands, date_format=self.date_format, missing=self.missing
        )
        file = self.file(path)
        cells.observe(file.frame, file.sep)
        return file, cells

    def file(self, path: str) -> TableFile:
        """The table in a file."""
        return read_table(path, sep=self.sep, encoding=self.encoding)


def check_outputs(out: str, plot: str | None, save: str | None, inputs: Mapping[str, str | None]) -> None:
    """Check that the outputs can be written, and replace no file of the inputs, before anything is computed."""
    check_output("out", out, OUTPUTS)
    check_apart(out, inputs)
    if plot is not None:
        check_output("plot", plot, PICTURES)
    if save is not None:
        check_folder("save", save)


def check_loaded(function: Callable[..., None], given: Mapping[str, Any], fitting: Collection[str]) -> None:
    """Refuse options of fitting beside ``--load``."""
    useless = [
        name for name, p in signature(function).parameters.items() if name in fitting and given[name] != p.default
    ]
    if useless:
        raise ConfigError(f"--{useless[0]} is for fitting, and --load takes fitted models; leave one of the two out")


def whole_or_text(freq: str | None) -> str | int | None:
    """A frequency: an alias of pandas, or a number of rows that are counted."""
    return int(freq) if freq and freq.isdigit() else freq


def percentages(levels: str) -> list[float] | None:
    """The coverage of intervals in percent, separated by commas; None if there is none."""
    try:
        found = [float(part) for part in split(levels)]
    except ValueError as e:
        raise ConfigError(f"--levels should be percentages separated by commas, got {levels!r}; use 80,95") from e
    if wrong := [level for level in found if not 0 < level < 100]:
        raise ConfigError(f"--levels should be between 0 and 100 percent, got {wrong[0]:g}; use 80,95")
    return found or None
