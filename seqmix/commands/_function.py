"""A plain function as a command: its signature is the parser, its docstring the help."""

from collections.abc import Callable
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
        args=argv,
        as_positional=False,
        parser_class=Parser,
        prog=f"seqmix {command}",
        allow_abbrev=False,
    )
