"""Imports go one way, and light ones stay light."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# what each folder may import of the others; data stands alone, errors and testing's target are below all
LAYERS = {
    "ops": set(),
    "mixers": {"ops"},
    "models": {"ops", "mixers"},
    "vision": {"ops", "mixers", "models"},
    "data": set(),
    "tasks": {"ops", "mixers", "models", "vision"},
    "commands": {"ops", "mixers", "models", "vision", "tasks", "data", "forecasting"},
    "forecasting": {"ops", "mixers", "models", "tasks", "data"},
}
# modules at the top of the package that every layer may import
SHARED = {"errors", "environment", "series", "trusted"}
HEAVY = {"lightning", "pandas", "sklearn", "datasets", "matplotlib"}
LIGHT = ("ops", "mixers", "models", "vision")

FILES = sorted((ROOT / "seqmix").rglob("*.py"))


def _imports(path):
    """Dotted names imported anywhere in a file, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module


def _layer(path):
    return path.relative_to(ROOT / "seqmix").parts[0]


@pytest.mark.parametrize("path", [p for p in FILES if _layer(p) in LAYERS], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    layer = _layer(path)
    for name in _imports(path):
        package, _, rest = name.partition(".")
        if package == "seqmix" and rest:
            target = rest.partition(".")[0]
            assert target in LAYERS[layer] | {layer} | SHARED, f"{layer} imports {name}"
        assert layer not in LIGHT or package not in HEAVY, f"{layer} imports {name}"


def test_every_folder_has_its_place():
    folders = {p.parent.relative_to(ROOT / "seqmix").parts[0] for p in (ROOT / "seqmix").glob("*/*.py")}
    assert folders <= LAYERS.keys()


def test_what_an_import_brings(tmp_path):
    """Help and a misspelt command need no torch; listing needs no lightning."""
    code = f"""
import sys, seqmix, seqmix.cli
seqmix.cli.run(["--help"]), seqmix.cli.run(["fitt"])
assert not sys.modules.keys() & {{"torch", "numpy", *{HEAVY}}}
seqmix.Mixer, seqmix.list_models, seqmix.ops
assert seqmix.cli.run(["list"]) == 0
assert not sys.modules.keys() & {HEAVY}
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
