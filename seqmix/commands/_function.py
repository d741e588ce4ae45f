"""Commands from plain functions: the signature is the parser, the docstring the help; messages name the options."""

import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from jsonargparse import ArgumentParser

from seqmix.commands._classes import prepare_parser
from seqmix.commands.explain import Explained
from seqmix.commands.short_help import EXAMPLES
from seqmix.errors import SeqmixError


class Parser(Explained, ArgumentParser):
    """The parser of jsonargparse with errors of two lines."""


def call(function: Callable[..., None], command: str, argv: list[str], *, leading: Sequence[str] = ()) -> None:
    """Call ``function`` with the options in ``argv``; words before the first option are values of those ``leading``.

    An argument whose type is a class of the commands, for example ``TableReader``, is built from options of its own.
    """
    prepare_parser()
    words = list(takewhile(lambda word: not word.startswith("-"), argv))[: len(leading)]
    named = [part for option, word in zip(leading, words, strict=False) for part in (f"--{option}", word)]
    argv = [*named, *argv[len(words) :]]
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    parser = Parser(prog=f"seqmix {command}", usage=EXAMPLES[command], description=summary, allow_abbrev=False)
    parts = _parts(function)
    parser.add_function_arguments(function, as_group=False, as_positional=False, skip={*parts})
    for part in parts.values():
        parser.add_class_arguments(part, instantiate=False)
    given = parser.instantiate(parser.parse_args(list(_with_values(function, argv)))).as_dict()
    for name, part in parts.items():
        given[name] = part(**{option: given.pop(option) for option in inspect.signature(part).parameters})
    function(**given)


@contextmanager
def in_words_of_the_shell(function: Callable[..., None], words: Mapping[str, str], unfinished: str) -> Iterator[None]:
    """Context in which warnings and errors name options as on the command line: ``--freq D`` for ``freq='D'``.

    Args:
        function: the command, whose arguments are the options.
        words: names in Python, and on the command line.
        unfinished: message after Ctrl-C.
    """
    parts = [option for part in _parts(function).values() for option in inspect.signature(part).parameters]
    options = "|".join([*inspect.signature(function).parameters, *parts])

    def translate(message: str) -> str:
        found = re.sub(rf"\b({options})=(?:'([^']*)'|\[([\d., ]*)\]|([\w.-]+))", _option, message)
        for python, shell in words.items():
            found = found.replace(python, shell)
        return found

    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"seqmix: {translate(str(message))}", file=sys.stderr)
            yield
    except KeyboardInterrupt as e:
        raise type(e)(unfinished) from None
    except SeqmixError as e:
        raise type(e)(translate(str(e))) from e


def _option(match: re.Match) -> str:
    value = match[2] or (match[3] or "").replace(" ", "") or match[4] or "''"
    return f"--{match[1]} {value.lower() if value in ('True', 'False') else value}"


def _parts(function: Callable[..., Any]) -> dict[str, type]:
    """Arguments of a command that are built from options of their own, by their class."""
    kinds = {name: p.annotation for name, p in inspect.signature(function).parameters.items()}
    return {name: kind for name, kind in kinds.items() if getattr(kind, "__module__", "").startswith("seqmix.commands")}


def _with_values(function: Callable[..., Any], argv: list[str]) -> Iterator[str]:
    """The command line, with ``true`` after an option of two values that has none."""
    switches = {f"--{name}" for name, p in inspect.signature(function).parameters.items() if p.annotation is bool}
    for word, following in zip(argv, [*argv[1:], "--"], strict=False):
        yield word
        if word in switches and following.startswith("--"):
            yield "true"
