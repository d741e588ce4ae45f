"""Causes of errors while classes are built."""

import traceback

from seqmix.errors import SeqmixError


def root(e: BaseException) -> BaseException:
    """Root cause of an error: our own error if there is one in the chain, or else the first."""
    return root(e.__cause__) if e.__cause__ and not isinstance(e, SeqmixError) else e


def passed_through(error: BaseException, modules: tuple[str, ...]) -> bool:
    """Whether a module of the user raised the error, so that its type and traceback are kept."""
    names = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
    return not isinstance(error, SeqmixError) and bool(names.intersection(modules))
