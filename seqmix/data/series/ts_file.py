"""The ``.ts`` format of the UCR and UEA archives: series of several channels and of any lengths, most with labels."""

from typing import NamedTuple, NoReturn

import numpy as np

from seqmix.data.files import decode
from seqmix.errors import DataError


class TsFile(NamedTuple):
    """Series of one file, and their labels."""

    series: list[np.ndarray]  # (L, C) float64 each, NaN where a value is missing
    labels: list[str]  # none in a file without @classLabel
    class_names: tuple[str, ...]  # as declared, in that order


class _Header(NamedTuple):
    class_names: tuple[str, ...]
    n_channels: int | None
    length: int | None
    equal: bool
    rows_from: int  # index of the first line after @data


def read_ts(content: bytes, file: str, *, labeled: bool = True) -> TsFile:
    """Read a ``.ts`` file.

    A row is one series: channels separated by ``:``, values by ``,``, the label after the last ``:``; ``?`` and ``NaN``
    are missing values. ``#`` begins a comment. Of the header ``@data`` is needed, and ``@univariate``, ``@dimensions``,
    ``@equalLength`` and ``@seriesLength`` have to agree with the rows.

    Args:
        content: the file, as bytes.
        file: its name, for messages.
        labeled: require ``@classLabel``, without which rows end with their last channel.

    Raises:
        DataError: if it is no such file; the message names the line.
    """
    lines = decode(content, file).split("\n")
    header = _read_header(lines, file, labeled)
    series, labels = [], []
    for number, line in enumerate(lines[header.rows_from :], header.rows_from + 1):
        row = line.strip()
        if not row or row.startswith("#"):
            continue
        channels = row.split(":")
        if header.class_names:
            labels.append(channels.pop().strip())
            _check_label(labels[-1], bool(channels), header, file, number)
        series.append(_values(channels, header, file, number))
        if series[-1].shape[1] != series[0].shape[1]:
            what = f"{_count(series[-1].shape[1], 'channel')}, the first row has {series[0].shape[1]}"
            _fail(file, what, "give every series the same channels", number)
        if header.equal and len(series[-1]) != len(series[0]):
            what = f"{_count(len(series[-1]), 'time step')}, the first row has {len(series[0])}"
            _fail(file, what, "correct the row, or write @equalLength false in the header", number)
    if not series:
        _fail(file, "has no series after @data", "give one row for each series, values first, then : and the label")
    return TsFile(series, labels, header.class_names)


def _read_header(lines: list[str], file: str, labeled: bool) -> _Header:
    facts: dict[str, tuple[list[str], int]] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if not words[0].startswith("@"):
            _fail(file, "stands before @data", "begin the file with lines of @, the last of them @data", number)
        key = words[0].lower()
        if key == "@data":
            return _header(facts, file, number, labeled)
        facts[key] = (words[1:], number)
    _fail(file, "has no @data" if facts else "is empty", "give a header, @data, and one row for each series")


def _header(facts: dict[str, tuple[list[str], int]], file: str, data_line: int, labeled: bool) -> _Header:
    if _flag(facts, "@timestamps", file):
        what = "has time-stamped values (@timeStamps true)"
        _fail(file, what, "write the values alone, at regular times, and @timeStamps false", facts["@timestamps"][1])
    if _flag(facts, "@targetlabel", file):
        what = "holds numbers to predict (@targetlabel true)"
        _fail(file, what, "use a file with @classLabel: this is regression", facts["@targetlabel"][1])
    known = _flag(facts, "@classlabel", file)
    if labeled and not known:
        what = "has no class labels (@classLabel true is missing)"
        _fail(file, what, "write for example @classLabel true a b before @data", data_line)
    (_, *names), number = facts["@classlabel"] if known else ([""], 0)
    if known and (not names or len(set(names)) < len(names)):
        _fail(file, f"declares the classes {names}", "name every class once after @classLabel true", number)
    n_channels = _number(facts, "@dimensions", file) or _number(facts, "@dimension", file)
    if _flag(facts, "@univariate", file):
        n_channels = n_channels or 1
    return _Header(
        tuple(names), n_channels, _number(facts, "@serieslength", file), _flag(facts, "@equallength", file), data_line
    )


def _flag(facts: dict[str, tuple[list[str], int]], key: str, file: str) -> bool:
    words, number = facts.get(key, (["false"], 0))
    if not words or words[0].lower() not in ("true", "false"):
        _fail(file, f"{key} is {' '.join(words) or 'empty'!r}", "write true or false", number)
    return words[0].lower() == "true"


def _number(facts: dict[str, tuple[list[str], int]], key: str, file: str) -> int | None:
    if key not in facts:
        return None
    words, number = facts[key]
    text = words[0] if len(words) == 1 else ""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        _fail(file, f"{key} is {_short(' '.join(words))!r}", "write a whole number from 1, or leave it out", number)
    return int(text)


def _check_label(label: str, channels: bool, header: _Header, file: str, line: int) -> None:
    known = ", ".join(header.class_names[:20]) + (", ..." if len(header.class_names) > 20 else "")
    if not channels or not label:
        _fail(file, "has no class label", f"end the row with : and one of {known}", line)
    if label not in header.class_names:
        what = f"class label {_short(label)!r} is not declared, @classLabel has {known}"
        _fail(file, what, "declare it, or correct the row", line)


def _values(channels: list[str], header: _Header, file: str, line: int) -> np.ndarray:
    """Values ``(L, C)`` of one row."""
    if header.n_channels not in (None, len(channels)):
        what = f"{_count(len(channels), 'channel')}, the header says {header.n_channels}"
        _fail(file, what, "separate channels by :, and values by commas", line)
    found = [_channel(text.split(","), k, file, line) for k, text in enumerate(channels, 1)]
    lengths = [len(values) for values in found]
    if len(set(lengths)) > 1:
        _fail(
            file,
            f"channels of {lengths[:20]} time steps",
            "make them of one length, ? where one ends",
            line,
        )
    if header.length not in (None, lengths[0]):
        what = f"{_count(lengths[0], 'time step')}, @seriesLength says {header.length}"
        _fail(file, what, "correct the row, or leave @seriesLength out", line)
    return np.stack(found, 1)


def _channel(cells: list[str], channel: int, file: str, line: int) -> np.ndarray:
    cells = ["nan" if cell.strip() == "?" else cell for cell in cells]
    try:
        values = np.array([float(cell) for cell in cells])
        bad = np.isinf(values)
    except ValueError:
        bad = np.array([_is_text(cell) for cell in cells])
    if bad.any():
        step = int(bad.argmax())
        what = f"{_short(cells[step].strip())!r} in channel {channel}, time step {step + 1}, is not a finite number"
        _fail(file, what, "write a number, or ? where it is missing", line)
    return values


def _is_text(cell: str) -> bool:
    try:
        return not np.isfinite(float(cell)) and cell.strip().lower().lstrip("+-") != "nan"
    except ValueError:
        return True


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."


def _count(number: int, what: str) -> str:
    return f"has {number:,} {what}{'s' * (number != 1)}"


def _fail(file: str, what: str, remedy: str, line: int | None = None) -> NoReturn:
    place = f", line {line}" if line else ""
    raise DataError(f"{file}{place}: {what}; {remedy}")
