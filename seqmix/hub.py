"""Errors of the Hugging Face hub's clients, told apart by their cause."""

import errno
import logging
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

    The client tries six times, which it does not log meanwhile: the error says what all of them said.

    Args:
        what: what failed, such as "'a/b' cannot be loaded"; the message starts with it.
        remedy: what to do where the hub cannot be reached; the message ends with it.

    Raises:
        WriteError: if the disk of the cache is full or cannot be written to.
        DataError: if the hub cannot be reached, or refuses.
    """
    client = logging.getLogger("huggingface_hub.utils._http")
    client.addFilter(_worth_saying)
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
    finally:
        client.removeFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    """Is a message of the client more than the failure of one attempt, such as a wait for a limit of requests?"""
    said = record.getMessage()
    return "thrown while requesting" not in said and not said.startswith("Retrying in")
