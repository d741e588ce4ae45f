"""Imports on first use, without garbage collection, which would take a fifth of their time."""

import gc
import sys
from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def load(name: str) -> ModuleType:
    """Import a module; what it makes stays, so that a collection in between would find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        if enabled:
            gc.enable()


def lazily(package: str) -> "tuple[Callable[[str], Any], Callable[[], list[str]]]":
    """``__getattr__`` and ``__dir__`` of a package that imports each of its names when it is first used.

    Which module has it is said by the imports of the package under ``if TYPE_CHECKING``.
    """
    # `seqmix --help` waits for the modules that are imported above
    import ast
    from pathlib import Path

    module = sys.modules[package]
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    blocks = [each for each in tree.body if isinstance(each, ast.If)]
    lines = [line for block in blocks for line in block.body if isinstance(line, ast.ImportFrom)]
    homes = {alias.name: line.module for line in lines for alias in line.names}

    def get(name: str) -> "Any":
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(load(str(homes[name])), name)
        setattr(module, name, found)
        return found

    return get, lambda: sorted(homes)


def load_names(package: ModuleType) -> None:
    """Import every name of a package: a config can name classes that have been imported."""
    for name in package.__all__:
        getattr(package, name)
