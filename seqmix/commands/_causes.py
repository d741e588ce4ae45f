"""Where an error of building classes comes from: its cause in the words of the user."""

import traceback

from seqmix.errors import SeqmixError


def root(e: BaseException) -> BaseException:
    """What was wrong in the user's terms: our own error if there is one in the chain, else its beginning."""
    return root(e.__cause__) if e.__cause__ and not isinstance(e, SeqmixError) else e


def passed_through(error: BaseException, modules: tuple[str, ...]) -> bool:
    """Whether a module of the user has part in the error, whose type and place then tell more than our words."""
    names = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
    return not isinstance(error, SeqmixError) and bool(names.intersection(modules))
