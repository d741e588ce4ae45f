"""Arrays larger than memory, in unnamed memory-mapped files, processed in blocks of rows.

The files are in the temporary folder of the system (``$TMPDIR``) and end with the process, however it ends.
"""

import errno
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from seqmix.errors import WriteError

#: rows per block
BLOCK = 1 << 17


def mapped(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An array of zeros in a file, whose disk space is reserved.

    Raises:
        WriteError: if the temporary folder has no room for it.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with _temporary() as file, file:
        if hasattr(os, "posix_fallocate") and size:
            # a page of a mapped file that finds no room on the disk would kill the process
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, dtype, "w+", shape=shape)


def like(rows: np.ndarray, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An array of zeros: in a file if ``rows`` are, else in memory."""
    return mapped(shape, dtype) if isinstance(rows, np.memmap) else np.zeros(shape, dtype)


class Growing:
    """A mapped array whose length is not known before its last part.

    Args:
        dtype: type of its values.
    """

    def __init__(self, dtype: DTypeLike):
        self.dtype, self.size = np.dtype(dtype), 0
        with _temporary() as self._file:
            # keep the file open until the array is complete or dropped
            weakref.finalize(self, self._file.close)

    def write(self, values: np.ndarray) -> None:
        """Put ``values`` after those before.

        Raises:
            WriteError: if the temporary folder has no room for them.
        """
        with _temporary(self._file):
            self._file.write(np.ascontiguousarray(values, self.dtype).data)
        self.size += len(values)

    def whole(self) -> np.ndarray:
        """The array, after its last part."""
        with _temporary(self._file), self._file:
            self._file.flush()
            return np.memmap(self._file, self.dtype, "r+", shape=(self.size,))


def row_blocks(n: int) -> Iterator[slice]:
    """Rows 0 to ``n`` in blocks."""
    return (slice(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK))


def series_blocks(indptr: np.ndarray) -> list[tuple[int, int]]:
    """Runs of whole series of about ``BLOCK`` rows each, ``indptr`` the first row of each series, then all rows."""
    cuts = np.searchsorted(indptr, np.arange(0, indptr[-1], BLOCK), side="right") - 1
    cuts = np.unique(np.r_[cuts, len(indptr) - 1])
    return list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))


@contextmanager
def _temporary(file: Any = None) -> Iterator[Any]:
    try:
        yield file or tempfile.TemporaryFile()  # noqa: SIM115
    except OSError as e:
        if e.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            # another folder would not help
            raise
        reason = e.strerror or str(e)
        error = WriteError(f"no room in a temporary folder ({reason}); set TMPDIR to a folder with room")
        error.errno, error.reason = e.errno, reason
        raise error from e
