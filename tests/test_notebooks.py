"""Notebooks name what is public; the slow suite, as the documentation's build, runs each from start to end."""

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_imports_what_is_public(notebook):
    text = notebook.read_text()
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if node.module.partition(".")[0] == "seqmix"]
    assert ours and "# %% [markdown]\n# # " in text, "a notebook begins with a cell of Markdown with its title"
    for node in ours:
        for name in (alias.name for alias in node.names):
            assert not name.startswith("_") and hasattr(import_module(node.module), name), f"{node.module}.{name}"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(notebook, tmp_path):
    variables = {
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        # a notebook may make a folder of its own
        "TMPDIR": str(tmp_path),
        # lightning 2.6 on torch 2.13, in every fit; -W and the variable take no patterns, so by category
        "PYTHONWARNINGS": "error,ignore::FutureWarning",
    }
    done = subprocess.run(
        [sys.executable, str(notebook)],
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pictures = list(tmp_path.rglob("*.png"))
    assert pictures and all(picture.stat().st_size > 10_000 for picture in pictures)


def test_readme_lists_the_notebooks():
    readme = (ROOT / "notebooks" / "README.md").read_text()
    assert NOTEBOOKS and all(f"[{path.name}]({path.name})" in readme for path in NOTEBOOKS)
