"""Pages of results: all rows of a CSV file, pictures, and tables that sort and filter in the page.

- ``{result-rows} zoo``: the rows of ``benchmarks/results/zoo.csv`` with the date, commit and machine of each, and the
  file to download; ``{result-rows} runs-lra``: the same of the runs in ``seqmix report lra``. Option ``facts`` names
  another file, with facts of what the first of its columns names.
- ``{result-part} study_pairs``: a part that ``seqmix list --write`` could write, made at build because it is long.
- ``{result-picture} zoo``: a picture of ``_pictures.py``, light and dark.
"""

import os
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import _npm
import _pictures
import _tables
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import OptionSpec

from seqmix.commands.generated import part
from seqmix.commands.report import runs_of
from seqmix.tasks.rows import read_rows, write_rows

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "build" / "pictures"
SORT = (
    "tablesort",
    "5.7.1",
    "sha512-wm+xSponmlN1spiuwGlrvNGoG8fEso+y86OOjS+Pl0Qsje/cOVSfUvELcXILWc8/sgEdY/NGMPo0qhFGyYKnwQ==",
)


class Rows(SphinxDirective):
    """All rows of a CSV file, folded, and the file to download."""

    required_arguments = 1
    option_spec: ClassVar[OptionSpec] = {"means": directives.unchanged, "facts": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """Make the nodes."""
        file = _file(self.arguments[0])
        files = [file, *(_file(name) for name in self.options.get("facts", "").split())]
        for each in files:
            self.env.note_dependency(str(each))
        rows = _tables.shown(_tables.joined(*map(read_rows, files)), _dates())
        if not rows:
            return []
        count = f"All {len(rows):,} rows of {file.name}"
        means = [word.strip() for word in self.options.get("means", "").split(",") if word]
        bar = "" if _npm.PLAIN else _tables.controls({k: [row[k] for row in rows] for k in rows[0]}, means)
        html = f'<details class="results-rows"><summary>{count}</summary>{bar}{_tables.table(rows, count)}</details>'
        link = addnodes.download_reference("", "", nodes.literal("", file.name), refdoc=self.env.docname)
        link["reftarget"] = os.path.relpath(file, Path(self.env.doc2path(self.env.docname)).parent)
        return [nodes.raw("", html, format="html"), nodes.paragraph("", "Download ", link)]


class Part(SphinxDirective):
    """A generated part that is too long for the page in the repository."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the nodes."""
        return self.parse_text_to_nodes(part(ROOT, self.arguments[0]))


class Picture(SphinxDirective):
    """A picture of recorded results, drawn for the light and the dark page."""

    required_arguments = 1
    option_spec: ClassVar[OptionSpec] = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Make the node."""
        name, up = self.arguments[0], "../" * self.env.docname.count("/")
        tags = []
        for theme in ("light", "dark"):
            size = _pictures.draw(ROOT, name, theme, PICTURES / f"{name}-{theme}.svg")
            if size is None:
                return []
            tags.append(
                f'<img class="only-{theme}" loading="lazy" src="{up}_static/{name}-{theme}.svg" width="{size[0]}" '
                f'height="{size[1]}" alt="{escape(self.options["alt"])}">'
            )
        return [nodes.raw("", f'<div class="results-figure">{"".join(tags)}</div>', format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_directive("result-rows", Rows)
    app.add_directive("result-part", Part)
    app.add_directive("result-picture", Picture)
    PICTURES.mkdir(parents=True, exist_ok=True)
    app.connect("config-inited", _add_files)
    app.connect("html-page-context", _load)
    # after the theme has put tables in boxes
    app.connect("doctree-resolved", _add_controls)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _add_files(app: Sphinx, config: Config) -> None:
    config.html_static_path += [str(Path(__file__).parent / "_static"), str(PICTURES)]
    if not _npm.PLAIN:
        folder = _npm.package(*SORT)
        config.html_static_path += [str(folder / "dist" / "tablesort.min.js"), str(folder / "LICENCE")]


def _load(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Scripts and style on the pages of results only."""
    if _is_result(page):
        app.add_css_file("results.css")
        if not _npm.PLAIN:
            app.add_js_file("tablesort.min.js", loading_method="defer")
            app.add_js_file("results.js", loading_method="defer")


def _add_controls(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """What filters them above long tables of the page."""
    if _npm.PLAIN or not _is_result(page):
        return
    for table in list(doctree.findall(nodes.table)):
        head, *rows = [[cell.astext() for cell in row.findall(nodes.entry)] for row in table.findall(nodes.row)]
        if all(len(cell) <= _tables.SHORT for row in rows for cell in row):
            table["classes"].append("short")
        if len(rows) >= _tables.FEW:
            box = table.parent if "table-wrapper" in table.parent.get("classes", ()) else table
            box["classes"].append("scrolls")
            bar = _tables.controls(dict(zip(head, zip(*rows, strict=True), strict=True)))
            box.parent.insert(box.parent.index(box), nodes.raw("", bar, format="html"))


def _is_result(page: str) -> bool:
    return page.startswith("results/")


def _file(name: str) -> Path:
    """CSV file of a benchmark, or one made of the runs that are recorded for a table of ``seqmix report``."""
    file = ROOT / "benchmarks" / "results" / f"{name}.csv"
    kind = name.removeprefix("runs-")
    if kind == name:
        return file
    files = sorted((ROOT / "configs" / "results").glob("*.csv"))
    runs = [run for found in runs_of(files, kind).values() for run in found]
    made = ROOT / "build" / "results" / f"{name}.csv"
    made.parent.mkdir(parents=True, exist_ok=True)
    write_rows(made, runs)
    return made


@cache
def _dates() -> Mapping[str, str]:
    return _tables.commit_dates(ROOT)
