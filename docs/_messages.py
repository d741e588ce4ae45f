"""The messages of errors, read off the source: what is wrong, what to do, and the values in them by name."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from seqmix import errors

_KINDS = {name for name, value in vars(errors).items() if isinstance(value, type)}
# functions whose result is called otherwise than what it is of
_FUNCTIONS = {
    "len": "number of {}",
    "sum": "number of {}",
    "min": "smallest {}",
    "max": "largest {}",
    "type": "class of {}",
}
# attributes that name the thing that has them
_TITLES = {"name", "label", "stem", "__name__", "__qualname__", "T", "loc", "iloc", "values"}
_SHORT = {
    "e": "error",
    "c": "column",
    "f": "file",
    "i": "position",
    "k": "position",
    "n": "number",
    "s": "number",
    "strerror": "reason",
}
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Div: "/"}
Texts = Mapping[str, ast.expr]


class Message(NamedTuple):
    """A message in its two parts."""

    problem: str
    remedy: str


def messages_in(source: str) -> Iterator[Message]:
    """Messages of the errors that a module makes, with its values as ``<name>``."""
    yield from _raised(ast.parse(source), {})


def package_messages(package: Path) -> dict[str, list[Message]]:
    """Messages of a package by subpackage, each once."""
    found: dict[str, dict[Message, None]] = {}
    for file in sorted(package.rglob("*.py")):
        subject, *rest = file.relative_to(package).parts
        title = f"{package.name}.{subject}" if rest else package.name
        found.setdefault(title, {}).update(dict.fromkeys(messages_in(file.read_text())))
    return {title: [*rows] for title, rows in found.items() if rows}


def _raised(scope: ast.AST, outer: Texts) -> Iterator[Message]:
    """Messages in a scope; names of texts that it gives once are replaced by these."""
    nodes = [*_own(scope)]
    given: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            given.setdefault(node.targets[0].id, []).append(node.value)
    texts = {**outer, **{name: values[0] for name, values in given.items() if len(values) == 1}}
    for node in nodes:
        if isinstance(node, ast.Call) and node.args and getattr(node.func, "id", "") in _KINDS:
            text = _text(node.args[0], texts)
            # a text from elsewhere that is passed on is not ours
            if text and re.search(r"\w", re.sub("<[^<>]*>", "", text)):
                problem, *remedy = re.split(r"; |\. (?=[A-Z])", text, maxsplit=1)
                yield Message(problem, "".join(remedy).rstrip(":\n"))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from _raised(node, texts)


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a scope without those of the functions and classes in it."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from _own(node)


def _text(node: ast.expr, texts: Texts) -> str:
    """The text of an expression with its values as <name>; empty if it is none."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, texts) for part in parts)
        case ast.FormattedValue(value=value) | ast.Starred(value=value):
            return _text(value, texts) or f"<{_named(value)}>"
        case ast.Name(id=name) if name in texts and (said := _text(texts[name], {**texts, name: ast.Constant(None)})):
            return said
        case ast.BinOp(left=left, op=ast.Add(), right=right) if a := _text(left, texts):
            return a + (_text(right, texts) or f"<{_named(right)}>")
        # the ending of a plural
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mult()):
            return f"({text})"
        case ast.IfExp(body=body, orelse=orelse):
            ways = [_text(each, texts) for each in (body, orelse)]
            if any(isinstance(each, ast.Constant) and each.value == "" for each in (body, orelse)):
                return f"({''.join(ways)})" if any(ways) else ""
            return "/".join(ways) if all(ways) else ""
    return ""


def _named(node: ast.AST) -> str:
    """What a value is called."""
    match node:
        case ast.Name(id=name):
            return _SHORT.get(name, name.strip("_").replace("_", " ").lower() if len(name) > 1 else name)
        case ast.Attribute(value=value, attr=name):
            return _named(value) if name in _TITLES and not _is_self(value) else _named(ast.Name(name))
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return _named(ast.Name(name))
        case ast.Subscript(value=value):
            many = _named(value)
            return many.removesuffix("s") if len(many) > 3 and not many.endswith("ss") else many
        case ast.Call(func=ast.Name(id=name), args=[*_, last]) if name in ("map", "filter"):
            return _named(last)
        case ast.Call(func=ast.Name(id="type"), args=[ast.Name(id="self")]):
            return "class"
        case ast.Call(func=ast.Name(id=name), args=[first, *_]):
            return _FUNCTIONS.get(name, "{}").format(_named(first))
        case ast.Call(func=ast.Attribute(attr="join"), args=[values]):
            return _named(values)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np" | "pd" | "math" | "torch" | "os")), args=[first, *_]):
            return _named(first)
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if not _is_self(value):
            return _FUNCTIONS.get(name, "{}").format(_named(value))
        case ast.Call(func=func):
            return _named(func)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return f"{_named(left)} {_OPERATORS[type(op)]} {_named(right)}"
        case ast.IfExp(body=body, orelse=orelse):
            return _named(orelse if isinstance(body, ast.Constant) else body)
        case ast.BoolOp(values=[first, *_]) | ast.Compare(left=first) | ast.UnaryOp(operand=first):
            return _named(first)
        case ast.GeneratorExp(generators=[first, *_]) | ast.ListComp(generators=[first, *_]):
            return _named(first.iter)
        case ast.Starred(value=value) | ast.NamedExpr(target=value) | ast.FormattedValue(value=value):
            return _named(value)
        case ast.JoinedStr(values=parts):
            return " ".join(_named(part) for part in parts if isinstance(part, ast.FormattedValue)) or "value"
        case ast.Constant(value=value):
            return str(value)
    return "value"


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"
