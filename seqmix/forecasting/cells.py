"""Parsing of numbers and times in text cells: ``1.234,5``, ``12 %``, ``31.12.2024``, ``2024Q1``."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from seqmix.errors import ConfigError, DataError
from seqmix.numeric import to_numbers

# cells that stand for a missing number
_MISSING = (
    *("", "na", "n/a", "#n/a", "nan", "null", "none", "-", "--", "\u2013", "\u2014", "?", ".", "#value!", "#div/0!"),
)
_UNITS = r"[$€£¥%]|USD|EUR|GBP|CHF"
# signs between groups of three digits that are never decimal signs
_GROUP = " \u00a0\u202f'\u2019"
_QUARTER = re.compile(r"(?P<year>\d{4})[-/ ]?[qQ](?P<quarter>[1-4])|[qQ](?P<first>[1-4])[-/ ]?(?P<after>\d{4})")
_DATE = re.compile(
    r"\d{4}[-/]\d{1,2}([-/]\d{1,2})?([T ].*)?|\d{4}\.\d{1,2}\.\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})( .*)?|"
    r"\d{4}[-/ ]?[qQ][1-4]|[qQ][1-4][-/ ]?\d{4}"
)
_DAYS = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%y",
    "%d/%m/%y", "%m/%d/%y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y",
)  # fmt: skip
_MONTHS = ("%b %Y", "%B %Y", "%b-%y", "%b-%Y", "%Y %b", "%m/%Y", "%m.%Y", "%m-%Y", "%Y/%m", "%YM%m")
_TIMES = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", "T%H:%M", "T%H:%M:%S")
#: formats of dates and times that are recognized beside those of ISO 8601
DATE_FORMATS = (*(day + time for day in _DAYS for time in _TIMES), *_MONTHS)
# number of cells inspected to infer the format of a column
_SAMPLE = 500


class Cells:
    """Format of the numbers and times of a table.

    Args:
        decimal: decimal separator, ``.`` or ``,``. Default: inferred from the cells.
        thousands: thousands separator. Default: inferred from the cells.
        date_format: format of dates, as in ``strptime``. Default: inferred from the cells.
        missing: further cells that stand for a missing number.

    Raises:
        ConfigError: if the two separators are the same.
    """

    def __init__(
        self,
        *,
        decimal: str | None = None,
        thousands: str | None = None,
        date_format: str | None = None,
        missing: Sequence[str] = (),
    ):
        if decimal not in (None, ".", ","):
            raise ConfigError(f"--decimal {decimal!r} is not known; use '.' or ','")
        if thousands and decimal == thousands:
            raise ConfigError(f"--decimal and --thousands are both {decimal!r}; give two different signs")
        self.missing = {*_MISSING, *(cell.lower() for cell in missing)}
        self._plain = decimal != "," and thousands is None and not missing
        self.thousands, self.date_format = thousands, date_format
        self.decimal = decimal or (None if thousands not in (".", ",") else "." if thousands == "," else ",")
        self._unclear: tuple[str, ...] = ("?,",)

    def observe(self, frame: pd.DataFrame, sep: str | None) -> None:
        """Infer the decimal separator from all columns of a table whose fields are separated by ``sep``."""
        # between semicolons 1.234 may be 1234, and a comma between commas is not a decimal sign
        self._unclear = ("?,", "?.") if sep == ";" else () if sep == "," else ("?,",)
        if self.decimal is None:
            columns = [frame[name] for name in frame if is_text(frame[name])]
            # between commas a point is the decimal sign unless a column says otherwise
            columns = [c for c in columns if sep != "," or c.astype(str).str.contains(",", regex=False).any()]
            signs = {_evidence(self._cells(column)) for column in columns} & {".", ","}
            self.decimal = signs.pop() if len(signs) == 1 else None

    def kind(self, column: pd.Series) -> str:
        """Kind of the content of a column: ``number``, ``time``, ``text``, or ``empty`` without any value."""
        if self._absent(column).all():
            return "empty"
        if not is_text(column):
            return "number" if pd.api.types.is_numeric_dtype(column.dtype) else "time"
        cells = column.iloc[np.unique(np.linspace(0, len(column) - 1, _SAMPLE).astype(int))]
        cells = cells[cells.ne("")] if cells.ne("").any() else column
        for kind, read in (("number", self.numbers), ("time", self.times)):
            try:
                found = read(cells)
            except DataError:
                # the column is ambiguous, which is reported when it is used
                return kind
            if kind == "time" and found is not None and not pd.api.types.is_numeric_dtype(found.dtype):
                return kind
            # codes such as 007 are no numbers
            if kind == "number" and found is not None and not column.astype(str).str.fullmatch(r"0\d+").any():
                return kind if self.numbers(column) is not None else "text"
        return "text"

    def numbers(self, column: pd.Series) -> pd.Series | None:
        """The column as float64; None if a cell is neither a number nor missing.

        Raises:
            DataError: if the numbers can be read in two ways.
        """
        if not is_text(column):
            return column if pd.api.types.is_numeric_dtype(column.dtype) else None
        if self._plain and self.decimal != "," and "?." not in self._unclear:
            # fast path: most files have decimal points and no thousands separators
            plain = to_numbers(column)
            if np.isfinite(plain).all() and (self.decimal or not _has_three_decimals(plain.to_numpy())):
                return plain.astype("float64")
        numbers, wrong = self._parsed(column)
        return None if wrong.any() or numbers.isna().all() else numbers

    def first_wrong(self, column: pd.Series) -> str:
        """The first cell that is neither a number nor missing."""
        wrong: Any = column[self._parsed(column)[1]]
        return str(wrong.iloc[0]) if len(wrong) else ""

    def share(self, column: pd.Series) -> float:
        """Share of numbers among the cells that are not missing."""
        numbers, wrong = self._parsed(column)
        return float(numbers.notna().sum() / max(1, numbers.notna().sum() + wrong.sum()))

    def decimal_of(self, column: pd.Series) -> str:
        """Decimal separator of a column: that of the table, else the one that its own cells show."""
        return self._decimal(_evidence(self._cells(column)))

    def _decimal(self, sign: str) -> str:
        return self.decimal or (sign if sign in (".", ",") else ".")

    def times(self, column: pd.Series) -> pd.Series | None:
        """The column as dates, or as integers where it counts; None if it holds something else.

        Raises:
            DataError: if a date can be read in two ways.
        """
        if not is_text(column):
            return column
        # each date is there once for each series
        codes, cells = pd.factorize(column.astype(str).str.strip())
        times = _read_times(pd.Series(cells, name=column.name), self.date_format)
        return None if times is None else times.take(codes).set_axis(column.index)

    def _parsed(self, column: pd.Series) -> tuple[pd.Series, pd.Series]:
        absent, cells = self._absent(column), self._cells(column)
        sign = _evidence(cells)
        if self.decimal is None and (sign in self._unclear or (sign == "?." and _is_grouped(cells))):
            marked: Any = cells[cells.str.contains(sign[1], regex=False)]
            unclear = marked.iloc[0]
            raise DataError(
                f"column {str(column.name)!r} holds {unclear!r}, which can be read in two ways; "
                f"pass --decimal {sign[1]} or --thousands {sign[1]}"
            )
        decimal = self._decimal(sign)
        thousands = self.thousands or ("," if decimal == "." else ".")
        group, mark = re.escape(thousands), re.escape(decimal)
        # 1.5 is not a number where commas are decimal signs: groups have three digits
        right = cells.str.fullmatch(rf"[+-]?(?:\d{{1,3}}(?:{group}\d{{3}})+|\d*)(?:{mark}\d*)?(?:[eE][+-]?\d+)?")
        plain = cells.str.replace(thousands, "", regex=False).str.replace(decimal, ".", regex=False)
        numbers: Any = pd.to_numeric(plain.where(right & ~absent, None), errors="coerce")
        return numbers.astype("float64"), numbers.isna() & ~absent

    def _absent(self, column: pd.Series) -> pd.Series:
        """Cells that stand for a missing value."""
        return column.isna() | column.astype(str).str.strip().str.lower().isin(self.missing)

    def _cells(self, column: pd.Series) -> pd.Series:
        """Cells without units, with spaces and apostrophes between groups of digits left out; empty where missing."""
        cells = column.astype(str).str.strip()
        cells = cells.where(~self._absent(column), "")
        if cells.str.fullmatch(r"[+-]?\d*\.?\d*").all():
            return cells
        cells = cells.str.replace(_UNITS, "", regex=True).str.replace("\u2212", "-", regex=False).str.strip()
        cells = cells.str.replace(r"^\((.*)\)$", r"-\1", regex=True)
        return cells.str.replace(rf"(?<=\d)[{_GROUP}](?=\d{{3}})", "", regex=True)


def _evidence(cells: pd.Series) -> str:
    """The decimal sign that a column shows, ``?,`` or ``?.`` where it may be between thousands; empty without signs."""
    # the points of 31.12.2024 are no signs of numbers
    numbers: Any = cells[
        cells.str.fullmatch(r"[+-]?[\d.,]+(?:[eE][+-]?\d+)?") & ~cells.str.fullmatch(_DATE.pattern).astype(bool)
    ]
    for sign, other in ((",", "."), (".", ",")):
        here, there = re.escape(sign), re.escape(other)
        # a group of other than three digits, or signs of two kinds, or the other sign twice
        decimal = (
            rf"{here}\d{{0,2}}(?:[eE]|$)|{here}\d{{4,}}|{there}\d{{3}}{here}|{there}\d{{3}}{there}|^[+-]?0?{here}\d"
        )
        if numbers.str.contains(decimal, regex=True).any():
            return sign
    return next((f"?{sign}" for sign in ",." if numbers.str.contains(sign, regex=False).any()), "")


def _has_three_decimals(values: np.ndarray) -> bool:
    """Whether numbers below 1000 are whole or have three decimals at most, and both occur: 1.234 beside 985."""
    thousandths = values * 1000
    near = (np.abs(values) < 1000).all() and np.allclose(thousandths, thousandths.round(), rtol=0, atol=1e-6)
    return bool(near and 0 < (values % 1 == 0).sum() < len(values))


def _is_grouped(cells: pd.Series) -> bool:
    """Whether numbers without a point are all below 1000, beside ``1.234``: the point may be between thousands."""
    without: Any = cells[cells.ne("") & ~cells.str.contains(".", regex=False)]
    return bool(len(without)) and bool(without.str.fullmatch(r"[+-]?\d{1,3}").all())


def _read_times(cells: Any, date_format: str | None) -> pd.Series | None:
    if date_format:
        return _all(pd.to_datetime(cells, format=date_format, errors="coerce"))
    # more digits are no integer of 64 bits
    if cells.str.fullmatch(r"[+-]?\d{1,18}").all():
        return _counted(cells)
    sample = cells.drop_duplicates().head(_SAMPLE)
    quarters = cells.str.extract(_QUARTER.pattern) if sample.str.fullmatch(_QUARTER.pattern).all() else None
    if quarters is not None:
        year, quarter = (quarters[a].fillna(quarters[b]) for a, b in (("year", "after"), ("quarter", "first")))
        return _all(
            pd.to_datetime(year + "-" + (3 * quarter.astype(float) - 2).astype(int).astype(str), format="%Y-%m")
        )
    if sample.str.fullmatch(r"\d{4}-?W\d{2}").all():
        return _all(pd.to_datetime(cells.str.replace("-", "") + "1", format="%GW%V%u", errors="coerce"))
    if sample.str.match(r"\d{4}-?\d{2}").all():
        return _all(_iso(cells))
    # every date has a digit, and trying all date formats takes time
    if not sample.str.contains(r"\d").all():
        return None
    found: list[tuple[str, pd.Series]] = []
    for form in DATE_FORMATS:
        if pd.to_datetime(sample, format=form, errors="coerce").notna().all():
            times = _all(pd.to_datetime(cells, format=form, errors="coerce"))
            if times is not None and "%y" in form:
                # of two digits: nothing was measured ten years from now, so that 49 is 1949 and not 2049
                late = times > pd.Timestamp.now() + pd.DateOffset(years=10)
                times = times.mask(late, times - pd.DateOffset(years=100))
            if times is not None and not any(times.equals(other) for _, other in found):
                found.append((form, times))
    if len(found) > 1:
        # the order of day and month is the one that gives regular times
        found = [(form, times) for form, times in found if _regular(times)] or found
    if len(found) > 1:
        forms = " or ".join(f"'{form}'" for form, _ in found)
        raise DataError(
            f"column {str(cells.name)!r} holds {sample.iloc[-1]!r}, which can be read in {len(found)} ways; "
            f"pass --date_format {forms}"
        )
    return found[0][1] if found else None


def is_date_text(cell: str) -> bool:
    """Whether one cell is written like a date: year, month and day, year and month, or year and quarter."""
    return bool(_DATE.fullmatch(cell.strip()))


def is_text(column: pd.Series) -> bool:
    """Whether a column holds text, as every column of a delimited file does."""
    return pd.api.types.is_string_dtype(column.dtype) or pd.api.types.is_object_dtype(column.dtype)


def _all(times: Any) -> Any:
    return None if times.isna().any() else times


def _regular(times: pd.Series) -> bool:
    index = pd.DatetimeIndex(times).unique().sort_values()
    with warnings.catch_warnings():
        # pandas 3.1 announces another type of the result
        warnings.simplefilter("ignore")
        return len(index) > 12 and pd.infer_freq(index) is not None


def _iso(cells: pd.Series) -> Any:
    try:
        return pd.to_datetime(cells, format="ISO8601", errors="coerce")
    except ValueError:
        # offsets that change with summer time
        return pd.to_datetime(cells, format="ISO8601", errors="coerce", utc=True)


def _counted(cells: pd.Series) -> pd.Series:
    """Integers as dates where each is one, ``20240131``, ``202401`` or a time since 1970, and as they are elsewhere."""
    for width, form in ((14, "%Y%m%d%H%M%S"), (12, "%Y%m%d%H%M"), (10, "%Y%m%d%H"), (8, "%Y%m%d"), (6, "%Y%m")):
        if cells.str.fullmatch(rf"(?:19|20)\d{{{width - 2}}}").all():
            times = pd.to_datetime(cells, format=form, errors="coerce")
            if times.notna().all():
                return times
    counts = cells.astype(np.int64)
    for unit, each in (("s", 1), ("ms", 1000)):
        # the years from 2000 to 2099, which no file counts up to
        if counts.between(946_684_800 * each, 4_102_444_799 * each).all():
            return pd.to_datetime(counts, unit=unit)
    return counts
