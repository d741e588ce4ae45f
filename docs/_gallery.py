"""The notebooks as a gallery: they are executed at build, and the pictures they save are shown.

Notebooks are percent files with Markdown cells, which Jupyter opens; sphinx-gallery reads reStructuredText. So they are
converted into an ignored folder first.
"""

import re
import shutil
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx_gallery.scrapers import figure_rst

_HEADER = """\
Gallery
=======

Notebooks that were executed, warnings being errors, when this site was built. In the repository they are Python files
in the percent format of `jupytext <https://jupytext.readthedocs.io>`__: they run as scripts and open in Jupyter,
VS Code and PyCharm.
"""
_during = ExitStack()
_saved: list[Figure] = []
_savefig = Figure.savefig


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    pages = Path(app.confdir)
    sources = pages / "_notebooks"
    shutil.rmtree(sources, ignore_errors=True)
    sources.mkdir()
    (sources / "GALLERY_HEADER.rst").write_text(_HEADER)
    for notebook in sorted((pages.parent / "notebooks").glob("*.py")):
        (sources / notebook.name).write_text(converted(notebook.read_text()))
    app.setup_extension("sphinx_gallery.gen_gallery")
    app.config.sphinx_gallery_conf = {
        "examples_dirs": str(sources),
        "gallery_dirs": "gallery",
        "filename_pattern": "",
        "within_subsection_order": "FileNameSortKey",
        # printed text is shown, and no value of an expression
        "capture_repr": (),
        "image_scrapers": ("_gallery.saved_figures",),
        "reset_modules": ("_gallery.prepare",),
        "reset_modules_order": "both",
        "abort_on_example_error": True,
        "download_all_examples": False,
        "write_computation_times": False,
        "show_signature": False,
        "min_reported_time": 1,
    }
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def converted(notebook: str) -> str:
    """The text of a percent file with cells of reStructuredText, the first of them as the docstring."""
    _, *cells = re.split(r"^# %%", notebook, flags=re.MULTILINE)
    texts = []
    for cell in cells:
        kind, _, body = cell.partition("\n")
        if kind.strip() == "[markdown]":
            rst = _rst("\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines()))
            texts.append(f'r"""\n{rst}\n"""\n' if not texts else "# %%\n" + re.sub("^", "# ", rst, flags=re.MULTILINE))
        else:
            texts.append(f"# %%\n{body}")
    return "\n\n".join(text.rstrip() for text in texts) + "\n"


def _rst(markdown: str) -> str:
    """Headings, code, links, emphasis and lists of a Markdown cell."""
    parts = re.split(r"^```\w*\n(.*?)^```$", markdown, flags=re.MULTILINE | re.DOTALL)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = ".. code-block:: text\n\n" + re.sub("^", "    ", part, flags=re.MULTILINE)
            continue
        part = re.sub(r"`([^`]+)`(?=(\w?))", lambda code: f"``{code[1]}``" + ("\\ " if code[2] else ""), part)
        part = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"`\1 <\2>`__", part)
        parts[i] = re.sub(r"^(#+) (.*)$", _underlined, part, flags=re.MULTILINE)
    return "\n".join(parts)


def _underlined(heading: re.Match[str]) -> str:
    return heading[2] + "\n" + "=-~"[len(heading[1]) - 1] * len(heading[2])


def saved_figures(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Scraper of sphinx-gallery: the figures that a cell saved, in pyplot or outside of it."""
    paths = []
    for figure, path in zip(_saved, block_vars["image_path_iterator"], strict=False):
        _savefig(figure, path, dpi=110)
        paths.append(path)
    titles = [axes.get_title() or axes.get_title("left") for figure in _saved for axes in figure.axes]
    _saved.clear()
    return figure_rst(paths, gallery_conf["src_dir"], "; ".join(filter(None, titles)))


def prepare(gallery_conf: dict[str, Any], file: str | None, when: str) -> None:
    """While a notebook is executed, warnings are errors and the figures it saves are recorded."""
    _during.close()
    if when == "before":
        _during.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
        # lightning 2.6 on torch 2.13, in every fit
        warnings.simplefilter("ignore", FutureWarning)
        _during.enter_context(patch.object(Figure, "savefig", _record))


def _record(figure: Figure, *args: Any, **options: Any) -> None:
    _saved.append(figure)
    _savefig(figure, *args, **options)
