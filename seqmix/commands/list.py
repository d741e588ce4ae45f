"""``seqmix list``: mixers, models, datasets and configs."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any, Literal

from seqmix.commands._function import call
from seqmix.commands._table import print_table
from seqmix.mixers import Mixer, list_mixers, mixer_facts
from seqmix.models import list_models, model_facts

Kind = Literal["mixers", "models", "datasets", "configs"]


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    # `seqmix list mixers` reads better than `seqmix list --only mixers`
    call(show, command, ["--only", *argv] if argv and not argv[0].startswith("-") else argv)


def show(*, only: Kind | None = None) -> None:
    """List what can be named in a config.

    Args:
        only: one kind instead of all four.
    """
    for kind, rows in _ROWS.items():
        if only in (None, kind) and (found := rows()):
            print_table(kind, found)


def _mixers() -> list[dict[str, Any]]:
    rows = []
    for name in list_mixers():
        facts = mixer_facts(name)
        cls = facts.cls
        rows.append(
            {
                "name": name,
                "paper": facts.paper,
                "causal": bool(cls.causal),
                "matrix": cls.matrix is not Mixer.matrix,
                "step": cls.step is not Mixer.step,
                "cost": facts.cost,
            }
        )
    return rows


def _models() -> list[dict[str, Any]]:
    found = [(name, *model_facts(name)) for name in list_models()]
    return [{"name": name, "paper": paper, "covariates": cls.covariates} for name, cls, paper, _ in found]


def _datasets() -> list[dict[str, Any]]:
    # from the source: to import the datamodules is to import lightning, which takes longer than all the rest
    (folder,) = importlib.util.find_spec("seqmix.data").submodule_search_locations  # pyright: ignore
    found = {}
    for file in sorted(Path(folder).glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found[node.name] = node
    exported = set(re.findall(r'"(\w+)"', (Path(folder) / "__init__.py").read_text()))
    names = sorted(name for name in found if name in exported - {"ForecastData"} and _is_data(name, found))
    return [{"name": name, "holds": (ast.get_docstring(found[name]) or "").partition("\n")[0]} for name in names]


def _is_data(name: str, found: dict[str, ast.ClassDef]) -> bool:
    if name not in found:
        return name == "LightningDataModule"
    return any(_is_data(base.id, found) for base in found[name].bases if isinstance(base, ast.Name))


def _configs() -> list[dict[str, Any]]:
    files = sorted(Path("configs").glob("*.yaml"))
    return [{"file": str(f), "for": f.read_text().partition("\n")[0].lstrip("# ")} for f in files]


_ROWS = {"mixers": _mixers, "models": _models, "datasets": _datasets, "configs": _configs}
