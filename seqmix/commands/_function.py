"""Commands from plain functions: the signature is the parser, the docstring the help."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

from jsonargparse import ArgumentParser

from seqmix.commands._classes import prepare_parser
from seqmix.commands.explain import Explained
from seqmix.commands.short_help import EXAMPLES


class Parser(Explained, ArgumentParser):
    """The parser of jsonargparse with errors of two lines."""


def call(function: Callable[..., None], command: str, argv: list[str], *, leading: Sequence[str] = ()) -> None:
    """Call ``function`` with the options in ``argv``; words before the first option are values of those ``leading``."""
    prepare_parser()
    words = list(takewhile(lambda word: not word.startswith("-"), argv))[: len(leading)]
    named = [part for option, word in zip(leading, words, strict=False) for part in (f"--{option}", word)]
    argv = [*named, *argv[len(words) :]]
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    parser = Parser(prog=f"seqmix {command}", usage=EXAMPLES[command], description=summary, allow_abbrev=False)
    parser.add_function_arguments(function, as_group=False, as_positional=False)
    given = parser.parse_args(list(_with_values(function, argv)))
    function(**parser.instantiate(given).as_dict())


def _with_values(function: Callable[..., Any], argv: list[str]) -> Iterator[str]:
    """The command line, with ``true`` after an option of two values that has none."""
    switches = {f"--{name}" for name, p in inspect.signature(function).parameters.items() if p.annotation is bool}
    for word, following in zip(argv, [*argv[1:], "--"], strict=False):
        yield word
        if word in switches and following.startswith("--"):
            yield "true"
