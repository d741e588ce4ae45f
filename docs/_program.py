"""Pages made at build from the program: its commands and their options, its configs, its messages."""

import io
import os
import re
from contextlib import redirect_stdout, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from _messages import package_messages
from _reference import heading, write
from sphinx.application import Sphinx

import seqmix
from seqmix import cli
from seqmix.commands.configs import config_files
from seqmix.commands.report import all_tasks, summary
from seqmix.commands.short_help import EXAMPLES

_COMMANDS = """\
`seqmix <command> --help` shows the same in a terminal. The commands that take a config have every key of it as an
option, and `--model.help CLASS`, `--data.help CLASS` show the options of a class."""
_CONFIGS = """\
The configs that come with the package; ``--config NAME`` takes a name from any folder. Those under *Run* have recorded
results: mean and deviation over seeds, baselines of the same runs beside. *Recipes* follow a paper and have never been
run here. *Study* belongs to the study of dense layers in place of mixers."""
_MESSAGES = """\
What the program says when it cannot do what it is asked, taken from its source: what is wrong, with ``<values>`` by
name, and what to do; ``a/b`` is one of the two, and ``(...)`` stands there in some cases. The types are in
:doc:`the API </reference/api/errors>`; all of them are a ``SeqmixError``."""
# an option of a help text, in one line or with its text in the next
_OPTION = re.compile(r"^  (-\S(?:(?!  ).)*)(?:  +|\n {5,})(.*)$", re.MULTILINE)
_PARTS = {"": "Run", "study": "Study", "recipes": "Recipes"}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "reference" / "program"
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(app.srcdir).parent
    for name, lines in {
        "commands": commands(),
        "configs": configs(root, app.config.repository),
        "messages": messages(),
    }.items():
        write(folder / f"{name}.rst", "\n".join(lines) + "\n")


def rst(text: str) -> str:
    """Plain text with code in backticks as reStructuredText."""
    parts = re.split(r"`+([^`]+)`+", " ".join(text.split()))
    return "".join(f"``{part}``" if i % 2 else re.sub(r"([\\*|_])", r"\\\1", part) for i, part in enumerate(parts))


def commands() -> list[str]:
    """Every command with its options, from the help of its parser."""
    lines = [*heading("The command line", "="), rst(_COMMANDS), ""]
    known: set[str] = set()
    for command, example in EXAMPLES.items():
        takes_config = command in cli.TRAINER_COMMANDS
        text = _help(command)
        found = [(words, re.sub(r",? ?known subclasses: [^)]*", "", about)) for words, about in _OPTION.findall(text)]
        found = [option for option in found if not option[0].startswith("-h,")]
        lines += [*heading(f"seqmix {command}", "-"), f"{_summary(command, text)}.", ""]
        lines += [".. code-block:: console", "", f"   $ {example}", "", f".. program:: seqmix {command}", ""]
        if takes_config and known:
            found = [option for option in found if option[0] not in known]
            lines += [
                "It takes the options of ``seqmix fit`` but for those of training" + (", and:" if found else "."),
                "",
            ]
        if takes_config:
            known |= {invocation for invocation, _ in found}
        for invocation, about in found:
            lines += [f".. option:: {invocation}", "", f"   {rst(about)}", ""]
    return lines


def _summary(command: str, text: str) -> str:
    said = cli.COMMANDS.get(command) or text.partition("\n\n")[2].partition("\n")[0].rstrip(".")
    return rst(said[0].upper() + said[1:])


def _help(command: str) -> str:
    name, *rest = command.split()
    words = [name, "--help", *rest, *["all"] * (command in cli.TRAINER_COMMANDS)]
    with patch.dict(os.environ, COLUMNS="10000"), redirect_stdout(io.StringIO()) as out, suppress(SystemExit):
        cli.run(words)
    return re.sub(r"[^\n -~]", "", out.getvalue())


def configs(root: Path, repository: str) -> list[str]:
    """Every config: its header, data, model, and recorded results."""
    found: dict[str, list[dict[str, Any]]] = {}
    for table in dict.fromkeys(task.table.name for task in all_tasks().values()):
        for row in summary(root / "configs" / "results", root / "configs" / "published", table):
            found.setdefault(row["config"].partition(" ")[0], []).append(row)
    lines = [*heading("Configs", "="), _CONFIGS, ""]
    part = None
    for file in config_files():
        folder = file.parent.name if file.parent.name in _PARTS else ""
        if folder != part:
            part = folder
            lines += heading(_PARTS[part], "-")
        text = file.read_text()
        header = [line.lstrip("#").strip() for line in takewhile(lambda line: line.startswith("#"), text.splitlines())]
        prose = [line for line in header if not line.startswith("seqmix ")]
        shell = [line for line in header if line.startswith("seqmix ")]
        name = f"{folder}/{file.stem}".lstrip("/")
        address = f"{repository}/blob/main/configs/{name}.yaml"
        facts = yaml.safe_load(text)
        model, data = (_named(facts.get(key)) for key in ("model", "data"))
        lines += [*heading(name, "~"), rst("\n".join(prose)), ""]
        lines += [f"`configs/{name}.yaml <{address}>`__: {model}; data {data}.", ""]
        lines += [".. code-block:: console", "", *(f"   $ {line}" for line in shell), ""] if shell else []
        lines += _table(found.get(file.stem, [])) if not folder else []
    return lines


def _named(part: Any) -> str:
    """The class of a part of a config, and of what is in it."""
    if not isinstance(part, dict):
        return f"``{part}``"
    options = part.get("init_args") or {}
    inner = [_named(options[key]) for key in ("model", "mixer", "mixers", "name") if options.get(key)]
    return ", ".join([f"``{part['class_path']}``", *inner]) if "class_path" in part else ", ".join(inner)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    columns = [
        name for name in rows[0] if name not in ("config", "parameters", "hours") and any(row[name] for row in rows)
    ]
    cells = [columns, *([str(row[name]) for name in columns] for row in rows)]
    return _list_table(cells)


def _list_table(rows: list[list[str]], *options: str) -> list[str]:
    lines = [".. list-table::", "   :header-rows: 1", *(f"   {option}" for option in options), ""]
    for row in rows:
        lines += [f"   {'  ' if i else '* '}- {rst(cell)}".rstrip() for i, cell in enumerate(row)]
    return [*lines, ""]


def messages() -> list[str]:
    """The messages of errors by package, in columns: what is wrong, and the remedy."""
    lines = [*heading("Messages", "="), _MESSAGES, ""]
    for title, rows in package_messages(Path(seqmix.__file__).parent).items():
        cells = [["what is wrong", "what to do"], *map(list, rows)]
        lines += [*heading(title, "-"), *_list_table(cells, ":widths: 55 45")]
    return lines
