"""Imports go one way, and light ones stay light."""

import ast
import gc
import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import seqmix
from seqmix.importing import load

ROOT = Path(__file__).parents[1]
# what each folder may import of the others; data stands alone, errors and testing's target are below all
LAYERS = {
    "ops": set(),
    "mixers": {"ops"},
    "models": {"ops", "mixers"},
    "vision": {"ops", "mixers", "models"},
    "data": set(),
    "tasks": {"ops", "mixers", "models", "vision"},
    "commands": {"ops", "mixers", "models", "vision", "tasks", "data", "forecasting", "analysis"},
    "forecasting": {"ops", "mixers", "models", "tasks", "data"},
    "analysis": {"mixers", "models", "tasks", "data", "forecasting"},
    "testing": {"mixers", "models", "vision", "tasks", "data"},
}
# modules at the top of the package that every layer may import
SHARED = {
    "errors",
    "environment",
    "estimator",
    "hub",
    "importing",
    "mapped",
    "memory",
    "numeric",
    "search",
    "series",
    "trusted",
    "whole",
}
HEAVY = {"lightning", "pandas", "sklearn", "datasets", "matplotlib"}
LIGHT = ("ops", "mixers", "models", "vision")

FILES = sorted((ROOT / "seqmix").rglob("*.py"))


@cache
def _imports(path):
    """Dotted names imported anywhere in a file, in functions too."""
    return _imports_of(ast.walk(ast.parse(path.read_text())))


def _imports_of(nodes):
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import from {node.module}"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def _is_in(name, modules):
    return not {name, name.rpartition(".")[0], name.partition(".")[0]}.isdisjoint(modules)


def _module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _layer(path):
    return path.relative_to(ROOT / "seqmix").parts[0]


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer):
    wrong = []
    for path in (p for p in FILES if _layer(p) == layer):
        for name in _imports(path):
            package, _, rest = name.partition(".")
            upward = package == "seqmix" and rest and rest.partition(".")[0] not in LAYERS[layer] | {layer} | SHARED
            if upward or (layer in LIGHT and package in HEAVY):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_a_module_with_an_underscore_is_imported_from_its_own_folder():
    outside = [p for folder in ("benchmarks", "notebooks") for p in (ROOT / folder).glob("*.py")]
    wrong = []
    for path in [*FILES, *outside]:
        for name in _imports(path):
            folder, found, _ = name.partition("._")
            own = ".".join(path.parent.relative_to(ROOT).parts)
            if name.startswith("seqmix.") and found and folder != own:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_modules_of_the_package_import_in_no_circle():
    modules = {_module(path): path for path in FILES}
    arrows = {
        module: {name if name in modules else name.rpartition(".")[0] for name in _imports(path)} & modules.keys()
        for module, path in modules.items()
    }
    # what imports nothing that is left is taken away, until only circles are left
    while free := {module for module, names in arrows.items() if not names & arrows.keys()}:
        arrows = {module: names for module, names in arrows.items() if module not in free}
    assert not arrows, f"in a circle or above one: {sorted(arrows)}"


def test_every_folder_has_its_place():
    folders = {p.parent.relative_to(ROOT / "seqmix").parts[0] for p in (ROOT / "seqmix").glob("*/*.py")}
    assert folders <= LAYERS.keys()


def test_public_names_are_those_of_the_stub():
    stub = ast.parse((ROOT / "seqmix" / "__init__.pyi").read_text()).body
    found = {alias.name: part.module for part in stub if isinstance(part, ast.ImportFrom) for alias in part.names}
    assert found == {**seqmix._NAMES, **dict.fromkeys(seqmix._MODULES, "seqmix")}
    for package in (import_module(f"seqmix.{name}") for name in seqmix._MODULES if name != "errors"):
        assert dir(package) == sorted(package.__all__) and all(hasattr(package, each) for each in package.__all__)


def test_what_an_import_brings(tmp_path):
    """Help and a misspelt command need no torch; listing needs no lightning; no import waits for garbage collection."""
    code = f"""
import gc, sys, seqmix, seqmix.cli
seqmix.cli.run(["--help"]), seqmix.cli.run(["fitt"])
assert not sys.modules.keys() & {{"torch", "numpy", *{HEAVY}}}
found = []
gc.callbacks.append(lambda phase, info: found.append(info["generation"]))
seqmix.Mixer, seqmix.list_models, seqmix.ops
# the youngest objects may be looked at once it is over
assert "torch" in sys.modules and gc.isenabled() and 2 not in found, found
assert seqmix.cli.run(["list"]) == 0
assert not sys.modules.keys() & {HEAVY}
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("enabled", [True, False])
def test_an_import_leaves_the_collector_as_it_was(enabled):
    try:
        (gc.enable if enabled else gc.disable)()
        assert load("seqmix.errors") and gc.isenabled() == enabled
    finally:
        gc.enable()


def test_scikit_learn_is_imported_where_it_is_used():
    """It takes a second: not with a package that has other uses."""
    modules, above = {_module(path): path for path in FILES}, {"sklearn"}
    names = {module: _imports_of(ast.parse(path.read_text()).body) for module, path in modules.items()}
    while found := {m for m in names.keys() - above if any(_is_in(name, above) for name in names[m])}:
        above |= found
    assert "seqmix.tasks._bag_of_words" in above
    assert not above & {"seqmix.data", "seqmix.forecasting", "seqmix.tasks", "seqmix.commands.train"}


def test_mixers_bring_torch_and_little_more():
    """Not the compiler of torch, which a decorator can import and which is as large as the rest of it."""
    code = """
import sys, torch
before = set(sys.modules)
import seqmix.mixers, seqmix.models
print(*sorted({name.partition(".")[0] for name in sys.modules.keys() - before}))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"einops", "seqmix"}


def test_forecasts_without_gradient_steps_need_no_lightning(tmp_path):
    """Pretrained, in closed form and loaded; nor what Lightning imports, such as the compiler of torch."""
    code = f"""
import sys
import pandas as pd
import seqmix.cli
from seqmix import Forecaster
df = pd.DataFrame({{"ds": range(300), "y": [float(i % 7) for i in range(300)]}})
assert len(Forecaster("ZeroShot", horizon=7).predict(df)) == 7
fitted = Forecaster(["Ridge", "SeasonalNaive"], horizon=7, freq=1, levels=[80]).fit(df)
fitted.save({str(tmp_path)!r})
assert Forecaster.load({str(tmp_path)!r}).predict().equals(fitted.predict())
assert not {{"jsonargparse"}} & sys.modules.keys()
df.to_csv("series.csv")
seqmix.cli.run("forecast --data series.csv --horizon 7 --model ZeroShot --out forecast.csv".split())
print("heavy:", *sorted({{"lightning", "torch._dynamo", "scipy", "sklearn", "matplotlib"}} & sys.modules.keys()))
(task,) = Forecaster("SeasonalNaive", horizon=7).fit(df).tasks_.values()
assert isinstance(task, sys.modules["lightning.pytorch"].LightningModule)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "heavy:", done.stdout + done.stderr
