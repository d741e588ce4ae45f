"""Lock between processes: a file that exists while the lock is held, and is free after a crash."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seqmix.whole import writing

if os.name == "nt":
    import msvcrt
else:
    import fcntl


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock ``path``; the operating system frees it when the process ends.

    Args:
        path: file of the lock; made for the time that the lock is held, its folder too if need be.
        wait: wait until another process frees the lock.

    Raises:
        BlockingIOError: if another process holds the lock and ``wait`` is False.
        WriteError: if the file cannot be made.
    """
    while True:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _take(fd):
            # the previous holder may have removed the file after it was opened here: such a lock protects nothing
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), path.stat()):
                    break
        elif not wait:
            os.close(fd)
            raise BlockingIOError(f"{path} is locked by another process")
        os.close(fd)
        time.sleep(0.01)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(fd)


def _take(fd: int) -> bool:
    """Try to lock an open file."""
    try:
        if os.name == "nt":
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
