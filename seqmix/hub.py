"""Errors of the Hugging Face hub's clients, told apart by their cause."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

from seqmix.errors import DataError, SeqmixError
from seqmix.memory import ran_out
from seqmix.whole import refusal

_CACHE = "make room, or set HF_HOME to another folder"


@contextmanager
def from_hub(what: str, remedy: str) -> Iterator[None]:
    """Convert the error of a client of the hub: a cache that cannot be written is not a missing network.

    Args:
        what: what failed, such as "'a/b' cannot be loaded"; the message starts with it.
        remedy: what to do where the hub cannot be reached; the message ends with it.

    Raises:
        WriteError: if the disk of the cache is full or cannot be written to.
        DataError: if the hub cannot be reached, or refuses.
    """
    try:
        yield
    except SeqmixError:
        raise
    # the clients raise their own errors, those of two http libraries and those of the system
    except Exception as error:
        if ran_out(error):
            raise
        reason = shorten(str(error), 120, placeholder="...") or type(error).__name__
        # `datasets` compares sizes before it writes, and raises an error without a number
        full = OSError(errno.ENOSPC, reason) if "Not enough disk space" in reason else error
        if (refused := refusal(full, _CACHE)) is not None:
            raise refused from error
        raise DataError(f"{what} ({reason}); {remedy}") from error
