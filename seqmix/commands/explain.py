"""Error messages for wrong options, in two lines: what is wrong, and what is accepted.

jsonargparse reports everything it tried; one line of it is the cause. That line is recognized by its wording, which
``tests/test_errors.py`` checks, and completed from the signatures.
"""

import difflib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml

from seqmix.commands.configs import config_files

# arguments that the caller of a factory gives, which no config has; data may have arguments of these names
_CALLED_WITH = ("d_model", "max_len", "series", "n_channels")


class Explained:
    """Mixin for a jsonargparse parser: an error prints two lines and ends the process with code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the explanation of ``message``; inner parsers raise, and their errors are caught."""
        if not getattr(self, "exit_on_error", True):
            super().error(message, ex)  # pyright: ignore[reportAttributeAccessIssue]
        print("\n".join([f"seqmix: {explain(message, self)}", *_other_versions(sys.argv)]), file=sys.stderr)
        sys.exit(2)

    def format_help(self) -> str:
        """Help; that of a class has the options as they are typed, with their whole prefix, and no usage."""
        text = super().format_help()  # pyright: ignore[reportAttributeAccessIssue]
        asked = [word[2:].partition(".help")[0] for word in sys.argv if re.match(r"--[\w.]+\.help(=|$)", word)]
        if not asked or not str(getattr(self, "description", "")).startswith("Help for --"):
            return text
        own = asked[-1].rpartition(".")[2]
        return re.sub(rf"--{own}\.", f"--{asked[-1]}.", text.partition("\n\n")[2])


def explain(message: str, parser: Any) -> str:
    """Turn an error message of ``parser`` into one or two lines."""
    where = ".".join(re.findall(r'Parser key "([\w.]+)"', message))
    for pattern, rule in _RULES.items():
        if found := re.search(pattern, message):
            return rule(found, where, parser)
    first = message.strip().splitlines()[0]
    return f"{first}\n  `{parser.prog} --help` lists the options"


def _unknown_option(found: re.Match, where: str, parser: Any) -> str:
    path, owner = _owner_path(found), _owner(found)
    if owner is None:
        group, _, name = found["name"].rpartition(".")
        return _unknown_flag(group, name, parser)
    return _unknown_parameter(found["name"].partition(".")[0], owner, f"{where} ({path})")


def _unknown_in_group(found: re.Match, where: str, parser: Any) -> str:
    return _unknown_flag(found["group"], found["name"], parser)


def _unknown_parameter(name: str, owner: Any, where: str) -> str:
    parameters = list(inspect.signature(owner).parameters.values())
    data = hasattr(owner, "train_dataloader") and not hasattr(owner, "training_step")
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY or data or p.name not in _CALLED_WITH]
    return f"unknown option {name!r} in {where}.{_suggest(name, known)}\n  It takes: {', '.join(known)}"


def _unrecognized(found: re.Match, where: str, parser: Any) -> str:
    first = found["rest"].split()[0]
    if not first.startswith("--"):
        return f"unexpected argument {first!r}\n  Options are written --name value; `{parser.prog} --help` lists them"
    path, owner, top = _owner_path(found), _owner(found), re.split(r"[.=]", first[2:])[0]
    if owner is not None and where and top not in inspect.signature(owner).parameters:
        return _unknown_parameter(top, owner, f"{where} ({path})")
    group, _, name = first[2:].partition("=")[0].rpartition(".")
    return _unknown_flag(group, name, parser)


def _unknown_flag(group: str, name: str, parser: Any) -> str:
    prefix = f"{group}." if group else ""
    dests = [a.dest for a in parser._actions if a.dest.startswith(prefix) and a.default != "==SUPPRESS=="]
    known = list(dict.fromkeys(d.removeprefix(prefix).split(".")[0] for d in dests))
    lists = f"It takes: {', '.join(known)}" if 0 < len(known) <= 20 else f"`{parser.prog} --help` lists what it takes"
    return f"unknown option {name!r}{f' in {group}' if group else ''}.{_suggest(name, known)}\n  {lists}"


def _no_class(found: re.Match, where: str, parser: Any) -> str:
    known = _known(_annotation(_owner(found), where, parser))
    return (
        f"no class {found['name']!r} for {where or 'this option'}.{_suggest(found['name'], known)}\n  {_listed(known)}"
    )


def _bad_path(found: re.Match, where: str, parser: Any) -> str:
    known = _known(_annotation(_owner(found), where, parser))
    reason = found["reason"][0].lower() + found["reason"][1:]
    return f"no class {found['value']!r} for {where or 'this option'}: {reason}\n  {_listed(known)}"


def _not_subclass(found: re.Match, where: str, parser: Any) -> str:
    known = _known(_annotation(_owner(found), where, parser))
    return f"{where} should be a {found['base']}, {found['value']!r} is none\n  {_listed(known)}"


def _not_allowed(found: re.Match, where: str, parser: Any) -> str:
    module = found["path"].rpartition(".")[0]
    package = module.partition(".")[0]
    if found["path"] == "lightning.LightningDataModule":
        # its options were given, and no class
        return _no_class_yet("data")
    title = f"{found['path']!r} for {where} is refused: a config names classes of seqmix, torch and Lightning"
    if package in sys.stdlib_module_names:
        return f"{title}\n  A config never calls a module of Python itself"
    if package in ("seqmix", "torch", "lightning"):
        return f"{title}\n  Of these, it names models, data, optimizers and parts of the trainer"
    return f"{title}\n  If you know what is in the module {module!r}, add --trust {module}"


def _no_class_yet(where: str) -> str:
    """The message for options of a part whose class is not named."""
    example = {"data": "--data Benchmark --data.name ETTh1", "model": "--model Forecasting --model.model Ridge"}
    return f"{where} has options and no class\n  Name it first, for example {example.get(where, f'--{where} CLASS')}"


def _not_factory(found: re.Match, where: str, parser: Any) -> str:
    title = f"{found['path']!r} for {where} is refused: its annotation does not say that it returns {found['base']}"
    return f"{title}\n  {_listed(_known(_annotation(_owner(found), where, parser)))}"


def _required(found: re.Match, where: str, parser: Any) -> str:
    names = [f"{where}.{name}" if where else name for name in found["names"].split(", ")]
    if names[0].startswith("model.series."):
        title = "model.series cannot be set: it is a fact of the data; leave it out"
        # no option was given: options come from the annotation of a user's class
        return title + "\n  A task of your own annotates it as `Series | dict[str, int]`" * (len(names) == 3)
    title = f"{' and '.join(names)} must be given"
    if not any(action.dest == "config" for action in parser._actions):
        return f"{title}\n  As an option, --{names[0]} VALUE; `{parser.prog} --help` has an example"
    return f"{title}\n  In a config, `{parser.prog} --config <file>`, or as an option"


def _wrong_type(found: re.Match, where: str, parser: Any) -> str:
    got = re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value|\n|$)", found[0] + _after(found))
    value = got[1].strip("'\"") if got else ""
    if value.startswith("NestedArg("):
        return _no_class_yet(where)
    annotation = _annotation(_owner(found), where, parser)
    choices = [str(c) for c in typing.get_args(annotation)] if typing.get_origin(annotation) is typing.Literal else []
    return (
        f"{where} should be {_type_name(annotation)}, got {value!r}{f'.{_suggest(value, choices)}' if choices else ''}"
    )


def _no_file(found: re.Match, where: str, parser: Any) -> str:
    path = found["path"].removeprefix(f"{Path.cwd()}/")
    hint = _suggest(Path(path).stem, [file.stem for file in config_files()])
    title = f"config file {path!r} {'is a folder' if found['folder'] else 'not found'}.{hint}"
    return f"{title}\n  `seqmix list configs` shows those that come with seqmix"


def _broken_yaml(found: re.Match, where: str, parser: Any) -> str:
    title = "a config file is not YAML"
    for name in _config_files(sys.argv):
        try:
            yaml.safe_load(Path(name).read_text())
        except yaml.MarkedYAMLError as e:
            line = e.problem_mark.line + 1 if e.problem_mark else "?"
            title = f"config file {name!r} is not YAML, line {line}: {e.problem}"
    return f"{title}\n  Mappings are `key: value`, those of one level indented alike"


def _no_mapping(found: re.Match, where: str, parser: Any) -> str:
    return "the config file holds no options\n  It should be a mapping with the keys model, data and trainer"


_VALUE = r"\. Got value: (?:Namespace\(class_path=')?(?P<value>\w+(?:\.\w+)*)"
_RULES = {
    r"(?:File does not exist|(?P<folder>Path is not a file)): '(?P<path>[^']+)'": _no_file,
    r"Problems parsing config": _broken_yaml,
    r"Importing '(?P<path>[\w.]+)' is not allowed": _not_allowed,
    r"Expected '(?P<path>[\w.]+)' to be a function that returns (?P<base>[\w.]+)": _not_factory,
    r"Unexpected config": _no_mapping,
    r"unrecognized arguments: (?P<rest>.+)": _unrecognized,
    r"Group '(?P<group>[\w.]+)' does not accept option '(?P<name>[\w.]+)'": _unknown_in_group,
    r"Option '(?P<name>[\w.]+)' is not accepted": _unknown_option,
    r"the following arguments are required: (?P<names>[^\n]+)": _required,
    r"(?P<reason>No module named '[\w.]+'|module '[\w.]+' has no attribute '\w+')" + _VALUE: _bad_path,
    r"Expected '(?P<value>[\w.]+)' to be a subclass of <class '(?P<base>\w+)'>\.+ Got value: \S+": _not_subclass,
    r"Expected a dot import path string: (?P<name>[\w-]+)": _no_class,
    r"Expected an? \S+": _wrong_type,
}


def _after(found: re.Match) -> str:
    return found.string[found.end() :]


def _owner(found: re.Match) -> Any:
    path = _owner_path(found)
    if path is None:
        return None
    module, _, name = path.rpartition(".")
    # nothing is imported for the sake of a message
    return getattr(sys.modules.get(module), name, None)


def _owner_path(found: re.Match) -> str | None:
    """The class whose option is wrong: named after the cause for a factory, before it for a task or data."""
    after = re.search(r"Got value: Namespace\(class_path='([\w.]+)'", _after(found))
    before = re.findall(r"given class_path '([\w.]+)'", found.string[: found.start()])
    return after[1] if after else before[-1] if before else None


def _annotation(owner: Any, where: str, parser: Any) -> Any:
    """The type that the option at ``where`` was declared with."""
    if owner is not None:
        return typing.get_type_hints(owner.__init__).get(where.rpartition(".")[2])
    return next((getattr(a, "_typehint", None) for a in parser._actions if a.dest == where), None)


def _known(annotation: Any) -> list[str]:
    """Names of the classes that an annotation accepts: those imported by now."""
    base = _base(annotation)
    return sorted({cls.__name__ for cls in _subclasses(base)} - {base.__name__}) if base else []


def _base(annotation: Any) -> type | None:
    """The class behind an annotation: that which a factory makes, or the one in a list or a union."""
    if getattr(annotation, "_is_protocol", False):
        return typing.get_type_hints(annotation.__call__)["return"]
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return None if issubclass(annotation, type(None) | str | int | float) else annotation
    return next((base for base in map(_base, typing.get_args(annotation)) if base), None)


def _subclasses(cls: type) -> Iterable[type]:
    if not inspect.isabstract(cls) and not cls.__name__.startswith(("_", "LazyInstance_")):
        yield cls
    for child in cls.__subclasses__():
        yield from _subclasses(child)


def _type_name(annotation: Any) -> str:
    if annotation in (None, type(None)):
        return "null"
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(repr(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(a) for a in args)
    if origin is list:
        return f"a list of {_type_name(args[0])}"
    return getattr(annotation, "__name__", str(annotation))


def _suggest(name: str, known: Iterable[str]) -> str:
    lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), lower, 1)
    return f" Did you mean {lower[near[0]]!r}?" if near else ""


def _listed(known: list[str]) -> str:
    return f"Known: {', '.join([*known, 'or any dotted path'])}" if known else "Any dotted path to a class is accepted"


def _other_versions(argv: list[str]) -> list[str]:
    """Note on the versions that wrote the configs in folders of runs."""
    # jsonargparse reads a config from its own folder
    found = [path for name in _config_files(argv) for path in (Path(name), Path(Path(name).name)) if path.is_file()]
    beside = {path.with_name("env.json").resolve() for path in found}
    wrote = [json.loads(path.read_text(encoding="utf-8")).get("seqmix") for path in beside if path.is_file()]
    return [f"  seqmix {version} wrote this config; CHANGELOG.md has the names that changed since" for version in wrote]


def _config_files(argv: list[str]) -> list[str]:
    return [b for a, b in pairwise(argv) if a in ("-c", "--config")] + [
        a[9:] for a in argv if a.startswith("--config=")
    ]
