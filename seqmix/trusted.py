"""Modules of the user whose classes a config may name.

A config is data, but it names classes, and to name one is to import its module and to call it. So configs name what
seqmix, torch and Lightning hold; other modules are named by the user on the command line (``SECURITY.md``).
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from seqmix.errors import ConfigError

# the options that take classes begin with these
_OPTIONS = ("--model", "--data", "--trainer", "--baselines", "--mixer")
_CLASS_PATH = re.compile(r"[a-zA-Z_]\w*(?:\.\w+)*\.[A-Z]\w*")
_trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())


def trusted_modules() -> tuple[str, ...]:
    """Modules that configs may name now, beside those of seqmix, torch and Lightning."""
    return _trusted.get()


@contextmanager
def trusting(modules: Sequence[str]) -> Iterator[None]:
    """Let configs name classes of ``modules`` until the end of the block."""
    token = _trusted.set(tuple(modules))
    try:
        yield
    finally:
        _trusted.reset(token)


def take_option(argv: list[str]) -> tuple[list[str], list[str]]:
    """Take ``--trust module,module`` out of a command line; returns the rest and the modules."""
    rest, modules = [], []
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option == "--trust":
            modules += (value if equals else next(words, "")).split(",")
        else:
            rest.append(word)
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ConfigError(f"--trust takes names of modules, got {module!r}; use for example --trust my_file")
        if _is_fixed(module):
            raise ConfigError(f"--trust takes modules of your own, not {module!r}; leave it out")
    return rest, modules


def named_in(argv: list[str]) -> list[str]:
    """Modules of the classes that a command line names: ``my_file`` for ``--model.mixer my_file.Mixer``.

    Names of files and of runs do not count: a folder may hold ``evil.py`` beside ``evil.yaml``.
    """
    paths, option = [], ""
    for word in argv:
        value = word
        if word.startswith("--"):
            option, _, value = word.partition("=")
        if option.startswith(_OPTIONS) and not Path(value).exists():
            paths += _class_paths(value)
    return [module for path in paths if not _is_fixed(module := path.rpartition(".")[0])]


def _class_paths(value: str) -> list[str]:
    """Class paths in a word of a command line, which may be a list or a mapping."""
    if value[:1] in ("[", "{"):
        return _CLASS_PATH.findall(value)
    return [value] if _CLASS_PATH.fullmatch(value) else []


def _is_fixed(module: str) -> bool:
    """Whether the user has no say: Python's own modules are refused, and for ours `seqmix.commands` has a list."""
    return module.partition(".")[0] in {*sys.stdlib_module_names, "seqmix", "torch", "lightning", "jsonargparse"}
