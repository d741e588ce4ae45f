"""The API reference: pages written at build from what the packages export; no member is named here.

A page is a package of ``seqmix``. Its members are grouped by the folder of their subject, or by the contract, another
member, that they derive from.
"""

import inspect
import re
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import seqmix

_LAST = {"Classes": 1, "Functions": 2}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", _write)
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-skip-member", _skip)
    # before napoleon reads it
    app.connect("autodoc-process-docstring", _inherit, priority=400)
    app.connect("doctree-read", _dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def members(package: str) -> dict[str, Any]:
    """Public classes and functions of a package: those in its ``__all__``, else those defined in its file."""
    module = import_module(package)
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == package]
    names = sorted(getattr(module, "__all__", own), key=str.lower)
    found = {name: getattr(module, name) for name in names if not name.startswith("_")}
    return {name: member for name, member in found.items() if callable(member)}


def packages() -> dict[str, dict[str, Any]]:
    """Members of each public package, those of ``seqmix`` itself first."""
    found = {f"seqmix.{name}": members(f"seqmix.{name}") for name in seqmix._MODULES}
    inside = [member for each in found.values() for member in each.values()]
    own = {name: member for name, member in members("seqmix").items() if member not in inside}
    return {package: each for package, each in {"seqmix": own, **found}.items() if each}


def groups(found: dict[str, Any]) -> dict[str, list[str]]:
    """Names by title: folders, contracts with what derives from them, other classes, functions."""
    contracts = {member: name for name, member in found.items() if inspect.isabstract(member)}
    titled: dict[str, list[str]] = {}
    for name, member in found.items():
        folder = member.__module__.split(".")[2:-1]
        above = [base for base in getattr(member, "__mro__", ()) if base in contracts]
        if folder:
            title = folder[0]
        elif above:
            title = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", contracts[above[-1]])
        else:
            title = "Classes" if inspect.isclass(member) else "Functions"
        group = titled.setdefault(title[0].upper() + title[1:].lower(), [])
        # a contract stands before what derives from it
        group.insert(0 if member in contracts and above == [member] else len(group), name)
    return {title: titled[title] for title in sorted(titled, key=lambda title: (_LAST.get(title, 0), title))}


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "reference" / "api"
    folder.mkdir(parents=True, exist_ok=True)
    exported = packages()
    for package, found in exported.items():
        write(folder / f"{package.rpartition('.')[2]}.rst", "\n".join(_page(package, found)))
    top = {seqmix._NAMES[name]: [] for name in seqmix._NAMES}
    for name, package in sorted(seqmix._NAMES.items()):
        top[package].append(name)
    lines = [
        *heading("API", "="),
        "Everything public, by package. These names are imported from ``seqmix`` itself:",
        "",
    ]
    lines += _table(f"{package}.{name}" for package, names in top.items() for name in names)
    lines += [".. toctree::", "   :maxdepth: 1", "", *(f"   {package.rpartition('.')[2]}" for package in exported)]
    write(folder / "index.rst", "\n".join(lines) + "\n")


def _page(package: str, found: dict[str, Any]) -> list[str]:
    lines = [
        *heading(package, "="),
        inspect.getdoc(import_module(package)) or "",
        "",
        f".. currentmodule:: {package}",
        "",
    ]
    for title, names in groups(found).items():
        lines += [*heading(title, "-"), *_table(names)]
        for name in names:
            kind = "class" if inspect.isclass(found[name]) else "function"
            lines += [f".. auto{kind}:: {name}", *(["   :members:", "   :show-inheritance:"] * (kind == "class")), ""]
    return lines


def heading(text: str, under: str) -> list[str]:
    return [text, under * len(text), ""]


def _table(names: Any) -> list[str]:
    return [".. autosummary::", "   :nosignatures:", "", *(f"   {name}" for name in names), ""]


def write(file: Path, text: str) -> None:
    """Write a page unless it is there: Sphinx reads what is newer than the last build."""
    if not file.exists() or file.read_text() != text:
        file.write_text(text)


def _skip(app: Sphinx, kind: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what a class of another package brings along."""
    return True if not getattr(member, "__module__", "seqmix").startswith("seqmix") else None


def _inherit(app: Sphinx, kind: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """Add the arguments of a class that its bases document."""
    if kind != "class":
        return
    bases = [base for base in member.__mro__[1:] if base.__module__.startswith("seqmix")]
    above: dict[str, list[str]] = {}
    for base in reversed(bases):
        above |= arguments((inspect.getdoc(base) or "").splitlines())
    if not above:
        return
    own = arguments(lines)
    more = [line for each in inspect.signature(member).parameters if each not in own for line in above.get(each, ())]
    if more and "Args:" in lines:
        end = lines.index("Args:") + 1 + sum(len(text) for text in own.values())
        lines[end:end] = more
    elif more:
        lines += ["", "Args:", *more]


def arguments(lines: list[str]) -> dict[str, list[str]]:
    """The lines of each argument in the section ``Args`` of a docstring."""
    found: dict[str, list[str]] = {}
    text: list[str] = []
    inside = lines[lines.index("Args:") + 1 :] if "Args:" in lines else []
    for line in takewhile(lambda line: line.startswith("    "), inside):
        if match := re.match(r"    (\w+): ", line):
            found[match[1]] = text = []
        text.append(line)
    return found


def _dashes(app: Sphinx, doctree: nodes.document) -> None:
    """Sphinx leaves the dash between a parameter and its text to smartquotes, which would change options as well."""
    for text in [text for text in doctree.findall(nodes.Text) if text == " -- "]:
        text.parent.replace(text, nodes.Text(" – "))


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Element | None:
    """A class named by the file it is in, as annotations have it, is found where it is public."""
    package, _, name = node.get("reftarget", "").rpartition(".")
    while package.count("."):
        package = package.rpartition(".")[0]
        found = env.domains["py"].resolve_xref(
            env, node["refdoc"], app.builder, "obj", f"{package}.{name}", node, content
        )
        if found is not None:
            return found
    return None
