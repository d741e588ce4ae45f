"""Reading of tables in delimited text, parquet and Excel files, with text columns as they are; writing of forecasts."""

import bz2
import csv
import gzip
import io
import lzma
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple, NoReturn

import pandas as pd

from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.cells import is_date_text
from seqmix.forecasting.kind import with_index
from seqmix.whole import whole

_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_EXCEL = (".xlsx", ".xlsm", ".xls", ".ods")
_PARQUET = (".parquet", ".pq")
#: endings of the files that ``write_table`` writes
OUTPUTS = (".csv", ".tsv", ".parquet", ".xlsx")
_SEPARATORS = (",", ";", "\t", "|")
_SPELLED = {"\\t": "\t", "tab": "\t", "space": r"\s+"}
# number of lines inspected to infer the format of a file
_SAMPLE = 200
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class Style(NamedTuple):
    """Format of delimited text."""

    sep: str = ","
    encoding: str = "utf-8"
    newline: str = "\n"


class TableFile(NamedTuple):
    """A table, with notes on what was inferred to read it; columns of delimited text are text."""

    frame: pd.DataFrame
    notes: list[str]
    style: Style | None = None

    @property
    def sep(self) -> str | None:
        """Field separator of delimited text; None for other files."""
        return self.style and self.style.sep


def read_table(path: str, *, sep: str | None = None, encoding: str | None = None) -> TableFile:
    """Read the table in a file. The ending gives the kind; any other ending is delimited text.

    Args:
        path: the file: ``.parquet``, ``.xlsx``, ``.ts``, or delimited text, plain or compressed (``.gz``, ``.bz2``,
            ``.xz``).
        sep: field separator. Default: inferred from the first lines.
        encoding: text encoding. Default: UTF-8, UTF-16 by its byte order mark, or else
            Windows-1252 with a note.

    Raises:
        DataError: if there is no such file, or no table with a header row in it.
    """
    file = Path(path)
    if file.is_dir():
        raise DataError(f"{path!r} is a folder; give one CSV, Excel or parquet file")
    if not file.exists():
        raise DataError(f"file {path!r} not found; give a CSV, Excel or parquet file")
    try:
        if file.suffix.lower() in _PARQUET:
            frame = pd.read_parquet(file)
            return TableFile(with_index(frame, frame.index.names), [])
        if file.suffix.lower() in _EXCEL:
            return TableFile(_excel(file), [])
        if file.name.lower().endswith((".ts", ".ts.gz")):
            return TableFile(_series(file), [])
        with _COMPRESSED.get(file.suffix.lower(), open)(file, "rb") as stream:
            content = stream.read()
    except DataError:
        raise
    except (OSError, EOFError, ValueError) as e:
        raise DataError(f"file {path!r} cannot be read ({e}); give a CSV, Excel or parquet file") from e
    return _delimited(path, content, sep, encoding)


def _series(file: Path) -> pd.DataFrame:
    """Series of a ``.ts`` file without their labels: ids and time steps, both from 0, and columns of channels."""
    from seqmix.data.files import read_file
    from seqmix.data.series.ts_file import read_ts

    found = read_ts(read_file(file), file.name, labeled=False).series
    parts = [pd.DataFrame(x).assign(unique_id=i, ds=range(len(x))) for i, x in enumerate(found)]
    channels = {c: f"value_{c}" if found[0].shape[1] > 1 else "value" for c in range(found[0].shape[1])}
    frame: Any = pd.concat(parts, ignore_index=True).rename(columns=channels)
    return frame[["unique_id", "ds", *channels.values()]]


def write_table(frame: pd.DataFrame, path: Path, style: Style | None = None, *, decimal: str = ".") -> None:
    """Write a frame to a file, atomically; the ending gives the kind.

    Args:
        frame: the frame.
        path: the file.
        style: format of a ``.csv`` or ``.tsv`` file; fields of a ``.tsv`` file are separated by tabs in any case.
            Default: commas and UTF-8.
        decimal: decimal sign of the numbers in a ``.csv`` or ``.tsv`` file.

    Raises:
        WriteError: if the file cannot be written.
    """
    style = style or Style()
    with whole(path) as part:
        if path.suffix == ".parquet":
            frame.to_parquet(part, index=False)
        elif path.suffix == ".xlsx":
            with part.open("wb") as stream:
                _without_zones(frame).to_excel(stream, index=False)
        else:
            frame.to_csv(
                part,
                index=False,
                sep="\t" if path.suffix == ".tsv" else " " if len(style.sep) > 1 else style.sep,
                encoding=style.encoding,
                lineterminator=style.newline,
                decimal=decimal,
            )


def check_output(option: str, path: str, endings: tuple[str, ...]) -> None:
    """Create the folder of an output file, and check that the file can be written, before anything is computed.

    Raises:
        ConfigError: if the ending is unknown, or the file cannot be written.
    """
    file = Path(path)
    if file.is_dir():
        raise ConfigError(
            f"--{option} {path!r} is a folder; give a file, for example {str(file / f'forecast{endings[0]}')!r}"
        )
    if file.suffix not in endings:
        raise ConfigError(f"--{option} {path!r} ends in {file.suffix!r}; use one of {', '.join(endings)}")
    if file.suffix == ".xlsx":
        _need_openpyxl(f"--{option} {path!r}")
    try:
        _try_to_write(file.parent)
    except OSError as e:
        raise ConfigError(f"--{option} {path!r} cannot be written ({e.strerror or e}); give another file") from e


def check_apart(out: str, inputs: Mapping[str, str | None]) -> None:
    """Refuse an output that would replace the file of an input; ``inputs`` are files by option.

    Raises:
        ConfigError: with the option of the input.
    """
    for option, given in inputs.items():
        if given is not None and Path(out).exists() and Path(given).exists() and Path(out).samefile(given):
            raise ConfigError(f"--out {out!r} is the file of --{option}, which it would replace; give another file")


def check_folder(option: str, path: str) -> None:
    """Create an output folder, and check that files can be written to it, before anything is computed.

    Raises:
        ConfigError: if they cannot.
    """
    try:
        _try_to_write(Path(path))
    except OSError as e:
        raise ConfigError(f"--{option} {path!r} is not a folder to write to ({e.strerror or e}); give another") from e


def _try_to_write(folder: Path) -> None:
    """Make a folder, and a file in it that is removed in any case."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):
        pass


def _excel(file: Path) -> pd.DataFrame:
    _need_openpyxl(f"file {str(file)!r}")
    frame = pd.read_excel(file, keep_default_na=False, na_values=[""])
    return frame.rename(columns=lambda name: str(name).strip())


def _need_openpyxl(what: str) -> None:
    try:
        import openpyxl  # noqa: F401
    except ModuleNotFoundError as e:
        raise DataError(f"{what} is an Excel file, which needs a package; pip install 'seqmix[excel]'") from e


def _without_zones(frame: pd.DataFrame) -> pd.DataFrame:
    """Times as their clocks show them: Excel knows no time zones."""
    zoned = {str(c): frame[c].dt.tz_localize(None) for c in frame if isinstance(frame[c].dtype, pd.DatetimeTZDtype)}
    return frame.assign(**zoned)


def _delimited(path: str, content: bytes, sep: str | None, encoding: str | None) -> TableFile:
    notes: list[str] = []
    text, encoding, newline = _text(path, content, encoding, notes)
    lines = text.splitlines()
    if lines and lines[0].lower().startswith("sep="):
        # Excel writes the separator in a line of its own
        sep, lines = sep or lines[0][4:5], lines[1:]
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise DataError(f"file {path!r} is empty; give a header row and rows of data")
    sep = _SPELLED.get(sep, sep) if sep else _separator(path, lines[:_SAMPLE])
    if len(sep) != 1 and sep not in _SPELLED.values():
        raise ConfigError(f"--sep {sep!r} is not one character; use one, or {', '.join(_SPELLED)}")
    first = _first_line(lines[:_SAMPLE], sep)
    if first:
        notes.append(f"{first} line{'s' * (first > 1)} above the header ignored, first: {lines[0].strip()[:60]!r}")
    lines = lines[first:]
    frame = _parsed(path, lines, sep)
    _check_header(path, lines[0], frame)
    # pandas and Excel write the numbers of the rows in a column without a name
    unnamed = [c for c in frame if not str(c) or str(c).startswith("Unnamed: ")]
    for name in unnamed:
        cells = frame[name]
        if not (cells == "").all() and cells.tolist() not in (
            [str(i) for i in range(k, k + len(cells))] for k in (0, 1)
        ):
            raise DataError(
                f"file {path!r}: column {list(frame).index(name) + 1} has no name; name it in the header row"
            )
    return TableFile(frame.drop(columns=unnamed), notes, Style(sep, encoding, newline))


def _text(path: str, content: bytes, encoding: str | None, notes: list[str]) -> tuple[str, str, str]:
    """The text with lines that end in ``\\n``, its encoding, and the end of its lines in the file."""
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), None)
    name = encoding or marked or "utf-8"
    try:
        text = content.decode(name)
    except LookupError as e:
        raise ConfigError(f"--encoding {encoding!r} is not known; use for example utf-8, cp1252, utf-16") from e
    except UnicodeDecodeError as e:
        if encoding or marked:
            raise DataError(f"file {path!r} is not {name} ({e.reason}); pass another --encoding") from e
        notes.append("not UTF-8: read as Windows-1252; pass --encoding if letters look wrong")
        name = "cp1252"
        text = content.decode(name, errors="replace")
    if "\0" in text:
        raise DataError(f"file {path!r} is not text; give a CSV, Excel or parquet file, or pass --encoding utf-16")
    newline = next((end for end in ("\r\n", "\n", "\r") if end in text), "\n")
    return text.replace("\r\n", "\n").replace("\r", "\n"), name, newline


def _fields(lines: list[str], sep: str) -> list[list[str]]:
    if sep == r"\s+":
        return [line.split() for line in lines]
    try:
        return list(csv.reader(lines, delimiter=sep, skipinitialspace=True))
    except csv.Error:
        return [[line] for line in lines]


def _separator(path: str, lines: list[str]) -> str:
    """The separator that cuts most lines into the same number of fields, the header line included."""
    best, score = "", 0.0
    for sep in _SEPARATORS:
        counts = [len(row) for row in _fields(lines, sep)]
        width, times = Counter(counts).most_common(1)[0]
        share = times / len(counts)
        # a decimal comma cuts every line but the header
        if width > 1 and share > 0.5 and counts[_first_line(lines, sep)] == width and share + width / 1000 > score:
            best, score = sep, share + width / 1000
    if not best and any(sep in lines[0] for sep in _SEPARATORS):
        raise DataError(f"file {path!r}: rows have different numbers of fields; pass --sep, for example --sep ';'")
    return best or ","


def _first_line(lines: list[str], sep: str) -> int:
    """Position of the header: the first line that has as many fields as most lines."""
    counts = [len(row) for row in _fields(lines, sep)]
    width = Counter(counts).most_common(1)[0][0]
    return next(i for i, count in enumerate(counts) if count >= width)


def _parsed(path: str, lines: list[str], sep: str) -> pd.DataFrame:
    header = [name.strip() for name in _fields(lines[:1], sep)[0]]
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise DataError(f"file {path!r} has column {twice[0]!r} more than once; give every column its own name")
    try:
        with warnings.catch_warnings():
            # a row with more fields than the header is only a warning in pandas
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                io.StringIO("\n".join(lines)),
                sep=sep,
                dtype=str,
                na_filter=False,
                index_col=False,
                skipinitialspace=True,
                encoding_errors="replace",
                engine="python" if len(sep) > 1 else "c",
            )
    except (ValueError, pd.errors.ParserWarning) as e:
        rows = _fields(lines, sep)
        row = next((row for row in rows if len(row) > len(header)), None)
        what = f"row {sep.join(row)[:60]!r} has {len(row)} fields, the header {len(header)}" if row else f"{e}".strip()
        raise DataError(f"file {path!r} is not a table: {what}; quote fields that hold {sep!r}, or pass --sep") from e
    # not as pandas calls them: a frame that it wrote twice has a column 'Unnamed: 0' beside one without a name
    frame = frame.set_axis([name or f"Unnamed: column {i}" for i, name in enumerate(header)], axis=1)
    if not len(frame):
        raise DataError(f"file {path!r} has a header and no rows; give at least one row for each series")
    # pandas fills rows that are too short with missing values
    return pd.DataFrame({name: frame[name].fillna("").str.strip() for name in frame})


def _check_header(path: str, line: str, frame: pd.DataFrame) -> None:
    """Refuse a first row that is data."""
    names = [str(name) for name in frame if not str(name).startswith("Unnamed: ")]
    dates = [is_date_text(name) for name in names]
    if len(names) > 3 and not dates[0] and sum(dates) >= len(names) - 2 and not frame[names[0]].eq(names[0]).any():
        raise DataError(
            f"file {path!r} has times in its header row, one column for each; turn it so that each time is a row"
        )
    numbers = [bool(_NUMBER.fullmatch(name)) for name in names]
    broken = [("." in name or "," in name) for name, number in zip(names, numbers, strict=True) if number]
    again = [name for name, number in zip(names, numbers, strict=True) if not number and frame[name].eq(name).any()]
    if any(dates) or all(numbers) or any(broken) or again:
        _no_header(path, line)


def _no_header(path: str, line: str) -> NoReturn:
    raise DataError(
        f"file {path!r} has no header row: its first line is {line.strip()[:60]!r}; "
        "put the names of the columns in the first line, for example unique_id,ds,y"
    )
