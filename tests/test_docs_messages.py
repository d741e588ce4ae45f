"""The page of messages: what it reads off the source, and that every message of the package has a remedy."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def reader(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    monkeypatch.delitem(sys.modules, "_messages", raising=False)
    return __import__("_messages")


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ('"plain"', "plain"),
        ('f"{value!r} and {self.step_size}"', "<value> and <step size>"),
        ("f\"{options['loss']} of {', '.join(map(str, sorted(columns)))}\"", "<loss> of <columns>"),
        ('f"{len(rows):,} of {max(found.lengths)}"', "<number of rows> of <largest lengths>"),
        ('f"{type(self).__name__} of {type(model).__name__}"', "<class> of <class of model>"),
        ('f"{path.name} of {self.name} {str(e).strip()}"', "<path> of <name> <error>"),
        ('f"{names[0]} of {kept - 1} {given or 3}"', "<name> of <kept - 1> <given>"),
        ("f\"{', '.join(f'{k}' for k, v in near.items())}\"", ""),
        ("f\"row{'s' * (n > 1)} {'has' if n else 'have'}{' no' if n else ''} end\"", "row(s) has/have( no) end"),
        ('f"{TEXT} {local}"', "first text second text"),
        ('"a" + TEXT', "afirst text"),
        ("said(e)", ""),
        ('f"{name}: {e}"', ""),
    ],
)
def test_values_in_messages_have_names(reader, argument, problem):
    source = f"TEXT = 'first text'\ndef check(self, n):\n    local = 'second text'\n    raise DataError({argument})\n"
    found = [message.problem for message in reader.messages_in(source)]
    assert found == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("text", "remedy"),
    [("no rows; give some", "give some"), ("no rows. Give some", "Give some"), ("1.5 rows:\\n a; mend:\\n", "mend")],
)
def test_the_remedy_is_what_follows_the_problem(reader, text, remedy):
    (found,) = reader.messages_in(f"def make():\n    return ConfigError('{text}')\nValueError('not ours')")
    assert found.remedy == remedy


def test_every_message_has_a_remedy_and_named_values(reader):
    found = [message for rows in reader.package_messages(ROOT / "seqmix").values() for message in rows]
    assert len(found) > 600
    assert [message.problem for message in found if not message.remedy] == []
    names = {name for message in found for name in re.findall(r"<([^<>]*)>", " ".join(message))}
    assert not names & {"join", "self", "format", "sum", "len", "strerror", "class of self"}
