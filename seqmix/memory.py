"""Out-of-memory errors of any library, with the options that need less memory."""

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from seqmix.errors import OutOfMemory, SeqmixError

# out-of-memory messages of torch and its libraries for CPUs and GPUs; numpy and Python raise MemoryError
_SAID = re.compile(r"out of memory|not enough memory|can't allocate memory|bad_alloc|ALLOC_FAILED", re.IGNORECASE)
_ASKED = re.compile(r"allocate:? ([\d.]+) ?(bytes|[KMGT]i?B)")


def ran_out(e: BaseException) -> bool:
    """Whether an error is about too little memory."""
    if isinstance(e, SeqmixError):
        return False
    if isinstance(e, OSError):
        # a process cannot be started, or a file not be mapped
        return e.errno == errno.ENOMEM
    return isinstance(e, MemoryError) or (isinstance(e, RuntimeError) and bool(_SAID.search(str(e))))


def exhausted(e: BaseException, remedy: str) -> OutOfMemory:
    """The error for the user: the requested memory, and the remedy."""
    found = _ASKED.search(str(e))
    asked = ""
    if found:
        number, unit = found.groups()
        asked = f": {int(number) / 2**30:.1f} GiB" if unit == "bytes" else f": {number} {unit}"
        asked += " more were asked for"
    return OutOfMemory(f"memory ran out{asked}; {remedy}")


@contextmanager
def advising(lower: Mapping[str, object], *others: str) -> Iterator[None]:
    """Raise ``OutOfMemory`` where memory runs out.

    Args:
        lower: options that need less memory when they are lower, and their values.
        others: other remedies, as the user would write them.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as e:
        if not ran_out(e):
            raise
        named = ", ".join(f"{name}={value}" for name, value in lower.items())
        raise exhausted(e, ", or ".join([*([f"lower {named}"] if named else []), *others])) from e
