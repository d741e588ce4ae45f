"""Links from pages to files of the repository that are no pages: they lead to the repository, those to CSV files stay.

Pages are read in the repository as well, so they link to such files by relative paths.
"""

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_config_value("repository", "", "env")
    # before Sphinx collects the files to download
    app.connect("doctree-read", _redirect, priority=100)
    app.connect("html-page-context", _buttons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _buttons(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Buttons to view and edit a page lead to the notebook it was made of; other pages made at build have none."""
    if doctree is None or app.env.doc2path(page).suffix == ".md":
        return
    notebook = f"notebooks/{page.rpartition('/')[2]}.py"
    if (Path(app.srcdir).parent / notebook).exists():
        context["theme_source_view_link"] = f"{app.config.repository}/blob/main/{notebook}"
        context["theme_source_edit_link"] = f"{app.config.repository}/edit/main/{notebook}"
    else:
        context["theme_source_repository"] = ""


def _redirect(app: Sphinx, doctree: nodes.document) -> None:
    pages = Path(app.srcdir).resolve()
    folder = (pages / app.env.docname).parent
    kinds = (addnodes.pending_xref, addnodes.download_reference)
    for link in [node for kind in kinds for node in doctree.findall(kind) if node.get("reftype") == "myst"]:
        path, _, anchor = link["reftarget"].partition("#")
        if link.get("refdomain") == "doc":
            # MyST gives the page without its suffix, and the anchor apart
            path, anchor = f"{path}.md", link.get("reftargetid") or ""
        file = (folder / path).resolve()
        if file.is_relative_to(pages) or not file.is_relative_to(pages.parent) or file.suffix == ".csv":
            continue
        if not file.exists():
            raise ExtensionError(f"{app.env.docname} links to {path}, which is not in the repository")
        kind = "tree" if file.is_dir() else "blob"
        address = f"{app.config.repository}/{kind}/main/{file.relative_to(pages.parent)}"
        link.replace_self(nodes.reference("", "", *link.children, refuri=f"{address}#{anchor}" if anchor else address))
