"""The README: its commands are those CI runs, its Python runs, its tables are what the package and the results say."""

import importlib.util
import re
from functools import partial
from pathlib import Path

import pytest

from seqmix import cli
from seqmix.commands.list import image_rows, mixer_rows, model_rows
from seqmix.commands.report import summary
from seqmix.commands.tables import markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS, PUBLISHED = ROOT / "configs" / "results", ROOT / "configs" / "published"
TABLES = {
    "mixers": mixer_rows,
    "models": model_rows,
    "images": image_rows,
    "results": partial(summary, RESULTS, PUBLISHED),
    **{name: partial(summary, RESULTS, PUBLISHED, name) for name in ("language", "lra", "glue")},
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_generated(name):
    _, _, rest = README.partition(f"<!-- {name} -->\n")
    table, end, _ = rest.partition(f"\n<!-- /{name} -->")
    # to mend it: paste what `seqmix list --markdown true` or `seqmix report` prints
    assert end and table == markdown(TABLES[name]())


@pytest.mark.parametrize("name", ["fashion_mnist", "forecasting", "kernels", "recall"])
def test_tables_of_benchmarks_are_those_of_their_csv(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = script.read(ROOT / "benchmarks" / "results" / f"{name}.csv")
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert f"<!-- {name} -->\n{markdown(script.table(rows))}\n<!-- /{name} -->" in text


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_runs(code):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_ci_runs_the_two_commands_of_the_readme():
    lines = re.findall(r"^(python3 -m venv .*)$", README, re.MULTILINE)
    script = (ROOT / ".ci" / "run").read_text()
    assert len(lines) == 2
    for line in lines:
        end = line.rpartition("&&")[2].strip()
        assert f"&& {end}$' README.md" in script


def test_every_command_and_file_that_is_named_exists():
    shell = re.findall(r"```bash\n(.*?)```", README, re.DOTALL) + re.findall(r"`(seqmix [^`]*)`", README)
    for command in re.findall(r"seqmix ([a-z]+)", "\n".join(shell)):
        assert command in cli.COMMANDS
    for file in re.findall(r"(configs/\w+\.yaml)", README):
        assert (ROOT / file).exists()
    for file in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / file).exists()
