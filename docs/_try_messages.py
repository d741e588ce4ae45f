"""Messages of ``seqmix forecast`` as templates: each is what the command says to a file that has the fault."""

import io
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from seqmix import cli


class Fault(NamedTuple):
    """A file with a fault, and which parts of the message about it depend on the file."""

    text: str
    slots: dict[str, str]  # what stands in the message: the name of the slot, with the words around it
    options: tuple[str, ...] = ()


_FILE = {"'FILE'": "{file}"}
_Y = {"'y'": "{column}"}
_DAYS = [f"2026-01-{day:02}" for day in range(1, 21)]


def _rows(*cells: str, header: str = "ds,y") -> str:
    return "\n".join([header, *cells])


_FAULTS = {
    "empty": Fault("", _FILE),
    "twice": Fault(_rows("1,2,3", header="a,a,y"), _FILE | {"'a'": "{column}"}),
    "no_table": Fault(
        _rows(*(f"{day},1" for day in _DAYS), "2026-01-21,2,3"),
        _FILE | {"'2026-01-21,2,3'": "{row}", "has 3 ": "has {found} ", "header 2": "header {want}", "','": "{sep}"},
    ),
    "no_rows": Fault("ds,y", _FILE),
    "fields": Fault("a,b,c\n1\n2\n3,4", _FILE),
    "no_header": Fault("2026-01-01,1\n2026-01-02,2", _FILE | {"'2026-01-01,1'": "{line}"}),
    "two_ways": Fault(
        _rows(*(f"{day};1,234" for day in _DAYS), header="ds;y"),
        _Y | {"'1,234'": "{cell}", "decimal ,": "decimal {sign}", "thousands ,": "thousands {sign}"},
    ),
    "two_dates": Fault(
        _rows("01/02/2026,1", "02/03/2026,2"),
        {"'ds'": "{column}", "'02/03/2026'": "{cell}", "'%d/%m/%Y' or '%m/%d/%Y'": "{forms}"},
    ),
    "no_time": Fault(_rows("u,1", "v,2", header="a,b"), {"['a', 'b']": "{columns}"}),
    "no_date": Fault(_rows(*(f"u{k},1" for k in range(20))), {"'ds'": "{column}", "'u0'": "{cell}"}),
    "no_target": Fault(_rows("2026-01-01,u", "2026-01-02,v", header="ds,b"), {"['ds', 'b']": "{columns}"}),
    "no_number": Fault(_rows("2026-01-01,1", "2026-01-02,u"), _Y | {"'u'": "{cell}"}),
    "no_numbers": Fault(_rows("2026-01-01,", "2026-01-02,"), _Y),
    "no_id": Fault(
        _rows("a,2026-01-01,1", ",2026-01-02,2", header="id,ds,y"), {"'id'": "{column}", "has 1 ": "has {count} "}
    ),
    "no_ids": Fault(
        _rows("a,2026-01-01,1", ",2026-01-02,2", ",2026-01-03,2", header="id,ds,y"),
        {"'id'": "{column}", "has 2 ": "has {count} "},
    ),
    "no_freq": Fault(_rows("2026-01-01,1"), {"'ds'": "{column}"}),
    "repeated": Fault(
        _rows("2026-01-01,1", "2026-01-02,1", "2026-01-02,1", "2026-01-03,1"),
        {"1 duplicate time stamp": "{count} duplicate time stamp{s}", "2026-01-02": "{first}", "'unique_id'": "{id}"},
    ),
    "repeated_ids": Fault(
        _rows("a,2026-01-01,1", "a,2026-01-02,1", "a,2026-01-02,1", header="id,ds,y"),
        {
            "1 duplicate time stamp": "{count} duplicate time stamp{s}",
            "id 'a' at 2026-01-02": "{first}",
            "['id', 'ds']": "[{id}, {time}]",
        },
    ),
    "other_step": Fault(
        _rows(*(f"{day},1" for day in _DAYS)), {"--freq h": "--freq {freq}", "1 day": "{found}"}, ("--freq", "h")
    ),
    "finer_step": Fault(
        _rows(*(f"2026-01-01 {hour:02}:00,1" for hour in range(24))),
        {"--freq D": "--freq {freq}", "1 hour": "{found}"},
        ("--freq", "D"),
    ),
    "off_grid": Fault(
        _rows(*(f"{day},1" for day in _DAYS), "2026-01-21 05:00,1"),
        {"1 time": "{count} time", "'D'": "{freq}", "id 'y' at 2026-01-21 05:00": "{first}"},
    ),
    "gaps": Fault(
        _rows(*(f"{day},1" for day in [*_DAYS[:12], *_DAYS[13:]])),
        {"1 of 1": "{broken} of {total}", "'D'": "{freq}", "'y'": "{id}", "1 missing": "{count} missing"}
        | {"2026-01-13": "{span}"},
    ),
    "gaps_of_several": Fault(
        _rows(*(f"{name},{day},1" for name in "ab" for day in [*_DAYS[:12], *_DAYS[13:]]), header="id,ds,y"),
        {"2 of 2": "{broken} of {total}", "'D'": "{freq}", "'a'": "{id}", "1 missing": "{count} missing"}
        | {"2026-01-13": "{span}"},
    ),
    "few_windows": Fault(
        _rows(*(f"{day},{'' if k % 2 else k}" for k, day in enumerate(_DAYS[:5]))),
        {"need a calibration window": "need a calibration window"},
        ("--model", "Ridge"),
    ),
    "too_short": Fault(
        _rows(*(f"{day},{k}" for k, day in enumerate(_DAYS[:3]))),
        {"has 3 rows": "has {rows} rows", "horizon = 4": "horizon = {horizon}", "takes 5": "takes {need}"},
        ("--model", "Ridge"),
    ),
    "horizon": Fault(_rows("2026-01-01,1", "2026-01-02,1"), {"got 0": "got {horizon}"}, ("--horizon", "0")),
}


def messages() -> dict[str, str]:
    """The templates by name."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: _template(name, fault, Path(folder)) for name, fault in _FAULTS.items()}


def said(text: str, path: Path, *options: str) -> str:
    """What the command says to a file of this text."""
    path.write_text(text)
    words = ["forecast", "--data", str(path), "--out", str(path.parent / "forecast.csv"), "--levels", "80"]
    for option, value in (("--model", "ZeroShot"), ("--horizon", "4")):
        words += [] if option in options else [option, value]
    with redirect_stderr(io.StringIO()) as errors, redirect_stdout(io.StringIO()):
        cli.run([*words, *options])
    lines = errors.getvalue().splitlines()
    return lines[-1].removeprefix("seqmix: ").replace(repr(str(path)), "'FILE'") if lines else ""


def _template(name: str, fault: Fault, folder: Path) -> str:
    found = said(fault.text, folder / "data.csv", *fault.options)
    for words, slot in fault.slots.items():
        if words not in found:
            raise ValueError(f"the message {name!r} of the page try is {found!r}, without {words!r}; see _FAULTS")
        found = found.replace(words, slot)
    return found
