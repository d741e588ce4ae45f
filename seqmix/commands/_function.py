"""A plain function as a command: its signature is the parser, its docstring the help."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from jsonargparse import ArgumentParser, auto_cli

from seqmix.commands._classes import prepare_parser
from seqmix.commands.explain import Explained


class Parser(Explained, ArgumentParser):
    """jsonargparse's parser with errors of two lines."""


def call(function: Callable[..., Any], command: str, argv: list[str]) -> None:
    """Call ``function`` with the options in ``argv``."""
    prepare_parser()
    auto_cli(
        function,
        args=list(_with_values(function, argv)),
        as_positional=False,
        parser_class=Parser,
        prog=f"seqmix {command}",
        allow_abbrev=False,
    )


def _with_values(function: Callable[..., Any], argv: list[str]) -> Iterator[str]:
    """The command line, with ``true`` after an option of two values that has none."""
    switches = {f"--{name}" for name, p in inspect.signature(function).parameters.items() if p.annotation is bool}
    for word, following in zip(argv, [*argv[1:], "--"], strict=True):
        yield word
        if word in switches and following.startswith("--"):
            yield "true"
