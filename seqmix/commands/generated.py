"""Parts of the documentation that are generated, between ``<!-- name -->`` and ``<!-- /name -->``."""

import importlib.util
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from seqmix.commands.members import (
    classifier_rows,
    config_rows,
    dataset_rows,
    encoder_rows,
    image_rows,
    mixer_rows,
    model_rows,
)
from seqmix.commands.tables import markdown
from seqmix.errors import ConfigError
from seqmix.mixers import list_mixers
from seqmix.models import list_encoders, list_models
from seqmix.tasks.rows import read_rows
from seqmix.vision import list_models as list_image_models

#: Columns that say by which code and on which machine a row was measured.
PROVENANCE = ("commit", "device", "cpu", "gpus", "torch", "versions")

_PART = re.compile(r"<!-- (?P<name>\w+) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)


def stale_pages(root: Path) -> dict[Path, str]:
    """Pages of the documentation in ``root`` whose generated parts are stale, and their new text."""
    if not (root / "README.md").is_file():
        raise ConfigError(f"no README.md in {str(root.resolve())!r}; run it in a clone of the repository")
    stale = {}
    for file in [root / "README.md", *sorted(root.glob("docs/**/*.md")), root / "benchmarks" / "README.md"]:
        text = file.read_text()
        new = _PART.sub(partial(_written, root), text)
        if new != text:
            stale[file] = new
    return stale


def part(root: Path, name: str) -> str:
    """Text of a generated part, in Markdown."""
    if name.startswith("paper_"):
        return _paper(root, name.removeprefix("paper_").replace("_", "."))
    return _PARTS[name](root) if name in _PARTS else _benchmark(root, name)


def _written(root: Path, found: re.Match[str]) -> str:
    name = found["name"]
    return f"<!-- {name} -->\n{part(root, name)}\n<!-- /{name} -->"


def _results(kind: str, root: Path) -> str:
    # the report draws too, which takes time to import
    from seqmix.commands.report import summary

    return markdown(summary(root / "configs" / "results", root / "configs" / "published", kind))


def _paper(root: Path, number: str) -> str:
    """Results of the configs after a paper beside published ones, and the configs that have never been run."""
    # the report draws too, which takes time to import
    from seqmix.commands.report import recorded

    folder = root / "configs"
    headers = {
        file: " ".join(line.lstrip("# ") for line in file.read_text().splitlines() if line.startswith("#"))
        for pattern in ("*.yaml", "recipes/*.yaml")
        for file in sorted(folder.glob(pattern))
    }
    # the source that a header names first
    source = re.compile(rf"Source: (?!our own)((?!arXiv:).)*arXiv:{re.escape(number)}(?!\d)")
    found = {file: header for file, header in headers.items() if source.search(header)}
    if not found:
        raise ConfigError(f"arXiv:{number} is the source of no config; see the headers in {folder}")
    ran = [file.stem for file in found if (folder / "results" / f"{file.stem}.csv").is_file()]
    rows = recorded(folder / "results", folder / "published", ran)
    parts = []
    if rows:
        names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "seeds"] + ["seeds"]
        same = [name for name in ("metric", "model") if len({row[name] for row in rows}) == 1]
        shown = [name for name in names if name not in same and any(row.get(name) for row in rows)]
        what = " of ".join(rows[0][name] for name in same)
        parts += [f"Run here{': ' if what else ''}{what}, mean and standard deviation over the seeds."]
        parts += [markdown([{name: row.get(name, "") for name in shown} for row in rows])]
    if len(ran) < len(found):
        never = {file.stem: header.partition(" Source:")[0] for file, header in found.items() if file.stem not in ran}
        parts += ["Recipes that have never been run here, with what their papers report:"]
        parts += [markdown([{"recipe": name, "what it is": said} for name, said in never.items()])]
    return "\n\n".join(parts)


def _linear(root: Path) -> str:
    """Ridge, a mixer on its residual, the same mixer alone and the baselines, for each data set and horizon."""
    from seqmix.commands.report import summary

    cells: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in summary(root / "configs" / "results", root / "configs" / "published", "forecasts"):
        cells.setdefault((row["data"], row["steps"]), {})[row["model"]] = row
    models = {"Ridge": "Ridge", "TSM2 on its residual": "ResidualForecaster (TSM2)", "TSM2": "TSM2"}
    return markdown(
        [
            {"data": data, "steps": steps}
            | {title: line[model]["test MSE"] if model in line else "" for title, model in models.items()}
            | {name: line["TSM2"][name] for name in ("DLinear", "SeasonalNaive")}
            for (data, steps), line in sorted(cells.items(), key=lambda cell: (cell[0][0], int(cell[0][1].split()[-1])))
            if {"Ridge", "TSM2"} <= line.keys()
        ]
    )


def _study(table: str, root: Path) -> str:
    """A table of the study of dense mixers."""
    from seqmix.commands import justdense
    from seqmix.commands.report import all_tasks

    folder = root / "configs"
    rows = justdense.read(folder / "results" / "study")
    known = justdense.read_published(folder / "published")
    return markdown(getattr(justdense, table)(justdense.pairs_of(rows, known, all_tasks())))


def _study_answer(part: str, root: Path) -> str:
    """A table of the study of dense mixers that needs its grid."""
    from seqmix.commands import justdense

    script = _script(root / "benchmarks" / "justdense.py")
    return markdown(getattr(script, part)(justdense.read(root / "configs" / "results" / "study")))


def _study_scores(root: Path) -> str:
    """A table of all models for each task of the study of dense mixers."""
    from seqmix.commands import justdense
    from seqmix.commands.report import all_tasks

    return justdense.scores(justdense.read(root / "configs" / "results" / "study"), all_tasks())


def _short_results(root: Path) -> str:
    """The shortest horizon of each data set, without columns of single runs."""
    from seqmix.commands.report import summary

    rows = summary(root / "configs" / "results", root / "configs" / "published", "forecasts")
    columns = ("data", "model", "test MSE", "published", "Ridge", "DLinear", "SeasonalNaive", "seeds")
    short = [row for row in rows if row["steps"].endswith(" 96")]
    # a closed form has configs of its own
    ridge = {row["data"]: row["test MSE"] for row in short if row["config"].startswith("ridge")}
    trained = [{**row, "Ridge": ridge.get(row["data"], "")} for row in short if row["config"].startswith("tsm2")]
    return markdown([{name: row[name] for name in columns} for row in trained])


def _counts(root: Path) -> str:
    configs = [row["name"] for row in config_rows()]
    recipes = sum(name.startswith("recipes/") for name in configs)
    models = f"{len(list_models())} forecasting models and {len(list_image_models())} image models"
    ran = f"{len(configs) - recipes} have been run, with [results](configs/results)"
    return f"""\
{len(list_mixers())} [mixers](docs/reference/mixers.md), {models} of {len(image_rows())} families
([models](docs/reference/models.md)), {len(list_encoders())} [encoders of series](docs/reference/encoders.md),
{len(dataset_rows())} [data sets and kinds of files](data/README.md), and {len(configs)} configs: {ran},
and {recipes} are [recipes](configs/recipes) after papers that have never been run here."""


def _benchmark(root: Path, name: str) -> str:
    """The table of ``benchmarks/<name>.py``, made of the rows that it wrote; ``<name>_<part>`` is another one of it."""
    folder, words = root / "benchmarks", name.split("_")
    for n in range(len(words), 0, -1):
        file, part = folder / f"{'_'.join(words[:n])}.py", "_".join(words[n:]) or "table"
        if file.is_file():
            break
    else:
        raise ConfigError(f"<!-- {name} --> names no generated part; there are {', '.join(_PARTS)} and the benchmarks")
    script = _script(file)
    lines = getattr(script, part)(script.read(folder / "results" / f"{file.stem}.csv"))
    return markdown(lines) if lines else "No run has been recorded yet."


def _script(file: Path) -> Any:
    """The module of a benchmark."""
    sys.path.insert(0, str(file.parent))
    try:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        script = importlib.util.module_from_spec(spec)  # pyright: ignore[reportArgumentType]
        spec.loader.exec_module(script)  # pyright: ignore[reportOptionalMemberAccess]
    finally:
        sys.path.pop(0)
    return script


def _measured(name: str, root: Path) -> str:
    """The rows of ``benchmarks/results/<name>.csv``, without their provenance."""
    rows = read_rows(root / "benchmarks" / "results" / f"{name}.csv")
    shown = [{k: f"{int(v):,}" if v.isdigit() else v for k, v in row.items() if k not in PROVENANCE} for row in rows]
    return markdown([{name.replace("_", " "): value for name, value in row.items()} for row in shown])


_PARTS: dict[str, Callable[[Path], str]] = {
    "counts": _counts,
    "mixers": lambda root: markdown(mixer_rows()),
    "models": lambda root: markdown(model_rows()),
    "encoders": lambda root: markdown(encoder_rows()),
    "classifiers": lambda root: markdown(classifier_rows()),
    "classification": partial(_results, "classification"),
    "images": lambda root: markdown(image_rows()),
    "short": _short_results,
    "linear": _linear,
    "results": partial(_results, "forecasts"),
    "study": partial(_study, "verdicts"),
    "study_by_task": partial(_study, "by_model_and_study"),
    **{f"study_{part}": partial(_study_answer, part) for part in ("answer", "progress")},
    "study_models": partial(_study, "by_model"),
    "study_pairs": partial(_study, "pair_rows"),
    "study_scores": _study_scores,
    **{kind: partial(_results, kind) for kind in ("language", "lra", "glue", "masked", "imputation", "detection")},
    **{name: partial(_measured, name) for name in ("vision", "text", "sweep", "distributed", "devices")},
}
