"""Reading of text files in parts, so that only a part of a document is in memory."""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO

from seqmix.data.files import opened

# bytes per part of a long document
_PART = 1 << 16


def split_documents(lines: Iterable[bytes], start: re.Pattern[bytes] | None) -> Iterator[Iterator[bytes]]:
    """Whole documents, each in parts; blank lines before the first belong to it."""

    def numbered() -> Iterator[tuple[int, bytes]]:
        number, filled = 0, False
        for line in lines:
            if start is not None and filled and start.match(line):
                number, filled = number + 1, False
            filled = filled or bool(line.strip())
            yield number, line

    for _, document in groupby(numbered(), itemgetter(0)):
        yield _joined(line for _, line in document)


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines put together until they are long enough."""
    part, size = [], 0
    for line in lines:
        part.append(line)
        size += len(line)
        if size >= _PART:
            yield b"".join(part)
            part, size = [], 0
    if part:
        yield b"".join(part)


def lines(file: IO[bytes], first: int, last: int | None) -> Iterator[bytes]:
    """Lines of a file from byte ``first`` to byte ``last``, both between lines."""
    for line in file if last is None or last > first else ():
        yield line
        first += len(line)
        if first == last:
            return


def borders(path: Path) -> list[int]:
    """Bytes where training, validation and test text begin, after the end of a line, and the size of the file."""
    with opened(path) as file:
        size = sum(len(block) for block in _blocks(file))
    cuts = [size * share // 100 for share in (90, 95)]
    found, at = [0, 0], 0
    with opened(path) as file:
        for block in _blocks(file):
            ends = [block.rfind(b"\n", 0, max(0, cut - at)) for cut in cuts]
            found = [before if end < 0 else at + end + 1 for before, end in zip(found, ends, strict=True)]
            at += len(block)
    return [0, *found, size]


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    return iter(partial(file.read, 1 << 20), b"")
