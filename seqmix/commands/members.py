"""Rows of `seqmix list`: mixers, models, encoders, image models, data sets and configs."""

import ast
import importlib.util
import inspect
import re
from itertools import groupby
from pathlib import Path
from typing import Any

from seqmix.commands.configs import config_files
from seqmix.mixers import Mixer, list_mixers, mixer_facts
from seqmix.models import classifier_facts, encoder_facts, list_classifiers, list_encoders, list_models, model_facts
from seqmix.vision import list_models as list_image_models
from seqmix.vision import model_facts as image_model_facts


def mixer_rows() -> list[dict[str, Any]]:
    """Properties of each registered mixer, in any of its registered forms."""
    rows = []
    for name in list_mixers():
        facts = mixer_facts(name)
        cls = facts.cls
        # 16 positions and features hold every example
        built = [cls(16, 16, **example) for example in facts.examples]
        causal = {mixer.causal for mixer in built}
        rows.append(
            {
                "name": name,
                "paper": facts.paper,
                "causal": True in causal,
                "bidirectional": False in causal,
                "matrix": cls.matrix is not Mixer.matrix,
                "step": cls.step is not Mixer.step or any(mixer.pointwise for mixer in built),
                "packed": "cu_seqlens" in inspect.signature(cls.forward).parameters,
                "cost": facts.cost,
            }
        )
    return rows


def model_rows() -> list[dict[str, Any]]:
    """Properties of each registered forecasting model."""
    found = [(name, *model_facts(name)) for name in list_models()]
    return [{"name": name, "paper": paper, "covariates": cls.covariates == "used"} for name, cls, paper, _ in found]


def encoder_rows() -> list[dict[str, Any]]:
    """Properties of each registered encoder of series."""
    found = [(name, *encoder_facts(name)) for name in list_encoders()]
    return [{"name": name, "paper": paper, "tokens": cls.axis} for name, cls, paper, _ in found]


def classifier_rows() -> list[dict[str, Any]]:
    """Properties of each registered classifier of series."""
    found = [(name, *classifier_facts(name)) for name in list_classifiers()]
    return [{"name": name, "paper": paper, "closed form": cls.closed_form} for name, cls, paper, _ in found]


def image_rows() -> list[dict[str, Any]]:
    """The families of image models, with the sizes that their names end in."""
    rows = []
    for family, names in groupby(list_image_models(), lambda name: name.partition("_")[0]):
        facts = {name.removeprefix(family).lstrip("_") or "-": image_model_facts(name) for name in names}
        sizes = sorted({round(each.parameters / 1e6, 1) for each in facts.values()})
        rows.append(
            {
                "family": family,
                "paper": next(iter(facts.values())).paper,
                "names end in": ", ".join(facts),
                "parameters, millions": f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0]),
            }
        )
    return rows


def dataset_rows() -> list[dict[str, Any]]:
    """The datamodules and the first line of their docstrings.

    They are read from the source: importing them would import lightning, which takes longer than all the rest.
    """
    (folder,) = importlib.util.find_spec("seqmix.data").submodule_search_locations  # pyright: ignore
    found = {}
    for file in sorted(Path(folder).rglob("*.py")):
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


def config_rows() -> list[dict[str, Any]]:
    """The configs of the current folder or of the package, and what their headers begin with, up to a full stop."""
    rows = []
    for file in config_files():
        folder = f"{file.parent.name}/" if file.parent.name in ("recipes", "study") else ""
        first, *others = [line.lstrip("# ") for line in file.read_text().splitlines() if line.startswith("#")] or [""]
        while others and not first.endswith("."):
            first += f" {others.pop(0)}"
        rows.append({"name": f"{folder}{file.stem}", "for": first})
    return rows
