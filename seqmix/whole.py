"""Atomic writing of files, and error messages for full or read-only disks."""

import errno
import glob
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from seqmix.errors import WriteError

# why a file cannot be written
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full",
    errno.EFBIG: "it is larger than files may be here",
    errno.EIO: "the disk fails",
    errno.EACCES: "the folder cannot be written to",
    errno.EPERM: "the folder cannot be written to",
    errno.EROFS: "the folder cannot be written to",
}
_REMEDY = "make room, or choose another place"
# temporary files that this process is writing
_open: set[Path] = set()
_numbers = count()
_DAY = 24 * 60 * 60


@contextmanager
def whole(path: Path, remedy: str = _REMEDY, *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary file beside ``path``, which takes its place when the block ends without an error.

    Whatever happens, no temporary file is left; those of killed processes are removed first: at once those of this
    machine, after a day those of others. The folder is made if need be.

    Args:
        path: the file.
        remedy: what the message of an error ends with.
        durable: wait until the disk has the file, so that a power failure cannot lose it.

    Raises:
        WriteError: if it cannot be written.
    """
    with writing(path, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        host = platform.node() or "here"
        _remove_left(path, host)
        # keep the suffix, which says the format
        part = path.with_name(f".{path.stem}.{host}.{os.getpid()}-{next(_numbers)}.part{path.suffix}")
        _open.add(part)
        try:
            yield part
            if durable:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            with suppress(OSError):
                part.unlink()
            _open.discard(part)


@contextmanager
def writing(path: Path, remedy: str = _REMEDY) -> Iterator[None]:
    """Raise ``WriteError`` if the system refuses to write ``path``; errors of other files pass."""
    try:
        yield
    except WriteError:
        raise
    except (OSError, RuntimeError) as error:
        # torch reports a broken archive while it handles the error of the system
        e = error if isinstance(error, OSError) else error.__context__
        if not isinstance(e, OSError) or isinstance(e, FileNotFoundError):
            raise
        own = e.filename is None or Path(os.fsdecode(e.filename)).parent in (path.parent, *path.parents)
        reason = _REASONS.get(e.errno or 0, e.strerror if e.filename is not None else None)
        if not own or reason is None:
            raise
        raise _refused(repr(str(path)), e, reason, remedy) from error


def refusal(error: BaseException, remedy: str = _REMEDY) -> WriteError | None:
    """The ``WriteError`` of an error that a disk led to, which is full or cannot be written to; None for others."""
    e: BaseException | None = error
    while e is not None:
        found = e if isinstance(e, WriteError) else _of_disk(e, remedy) if isinstance(e, OSError) else None
        if found is not None:
            return found
        e = e.__cause__ or (None if e.__suppress_context__ else e.__context__)
    return None


def raise_refusal(error: BaseException) -> None:
    """Raise the ``WriteError`` of an error that a disk led to; for other errors, do nothing."""
    if (refused := refusal(error)) is not None:
        raise refused


def _of_disk(e: OSError, remedy: str) -> WriteError | None:
    full = e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    if not full and (e.filename is None or e.errno not in _REASONS):
        return None
    name = "a file" if e.filename is None else repr(os.fsdecode(e.filename))
    return _refused(name, e, _REASONS[e.errno or 0], remedy)


def _refused(name: str, e: OSError, reason: str, remedy: str) -> WriteError:
    error = WriteError(f"{name} cannot be written: {reason}; {remedy}")
    error.errno, error.reason = e.errno, reason
    return error


def _remove_left(path: Path, host: str) -> None:
    """Remove the temporary files of killed processes."""
    name, ending = re.escape(path.stem), re.escape(path.suffix)
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*.part{glob.escape(path.suffix)}"):
        found = re.fullmatch(rf"\.{name}\.(.+)\.(\d+)-\d+\.part{ending}", left.name)
        if found and left not in _open:
            with suppress(OSError):
                dead = found[1] == host and not _alive(int(found[2]))
                if dead or time.time() - left.stat().st_mtime > _DAY:
                    left.unlink()


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        # left by an earlier process with our process id
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # the file belongs to another process
        return True
    return True
