"""Pages of results: their tables equal the CSV files, and a changed row makes the page stale."""

import csv
import math
import re
import shutil
import sys
from html import unescape
from pathlib import Path

import pytest

from seqmix.commands.generated import stale_pages

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "benchmarks" / "results").glob("*.csv"))


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    monkeypatch.delitem(sys.modules, "_tables", raising=False)
    return __import__("_tables")


def _read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("page", "part", "file", "column"),
    [
        ("recall", "recall", "benchmarks/results/recall.csv", "accuracy"),
        ("calibration", "calibration", "benchmarks/results/calibration.csv", "coverage"),
        ("scaling", "sweep", "benchmarks/results/sweep.csv", "runs"),
        ("lra", "lra", "configs/results/hydra_listops_small.csv", "accuracy"),
    ],
)
def test_a_changed_row_makes_its_page_stale(page, part, file, column, tmp_path):
    for folder in ("docs", "benchmarks/results", "configs/results", "configs/published"):
        (tmp_path / folder).mkdir(parents=True)
    for script in (ROOT / "benchmarks").glob("*.py"):
        (tmp_path / "benchmarks" / script.name).symlink_to(script)
    (tmp_path / "README.md").write_text("")
    (tmp_path / "benchmarks" / "README.md").write_text("")
    text = (ROOT / "docs" / "results" / f"{page}.md").read_text()
    made = tmp_path / "docs" / f"{page}.md"
    # the other parts of the page are of other files
    made.write_text(*re.findall(rf"<!-- {part} -->.*<!-- /{part} -->", text, re.DOTALL))
    for folder in {Path(file).parent, Path("configs/published")}:
        shutil.copytree(ROOT / folder, tmp_path / folder, dirs_exist_ok=True)
    assert not stale_pages(tmp_path)
    rows = _read(ROOT / file)
    last = rows[-1] if "role" not in rows[-1] else [row for row in rows if row["role"] == "model"][-1]
    last[column] = str(round(float(last[column]) / 2, 4))
    with (tmp_path / file).open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert list(stale_pages(tmp_path)) == [made]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_table_of_all_rows_equals_the_file(tables, file):
    rows = _read(file)
    html = tables.table(tables.shown(rows, {}), "all")
    head = [unescape(name) for name in re.findall(r"<th [^>]*>(.*?)</th>", html)]
    lines = [re.findall(r"<td>(.*?)</td>", line) for line in re.findall(r"<tr>(<td>.*?)</tr>", html)]
    assert len(lines) == len(rows)
    kept = {name: name.replace("_", " ") for name in rows[0] if name.replace("_", " ") in head}
    left = {name for row in rows for name, value in row.items() if value} - {*kept}
    assert left <= {"device", "cpu", "gpus", "torch", "versions"}, "these are told as machine and versions"
    for row, line in zip(rows, lines, strict=True):
        shown = dict(zip(head, map(unescape, line), strict=True))
        for name, title in kept.items():
            if shown[title] != row[name]:
                assert math.isclose(float(shown[title]), float(row[name]), rel_tol=1e-4), "numbers are rounded only"


def test_rows_say_when_and_where_they_were_measured(tables):
    rows = [
        {"model": "<A>", "mase": "0.123456789", "commit": "abc+", "cpu": "EPYC", "torch": "2.13", "note": ""},
        {"model": "B", "mase": "1", "commit": "def", "cpu": "", "torch": "2.13", "note": ""},
    ]
    first, second = tables.shown(rows, {"abc": "2026-11-29"})
    assert first == {
        "model": "<A>",
        "mase": "0.12346",
        "date": "2026-11-29",
        "commit": "abc+",
        "machine": "EPYC",
        "versions": "torch 2.13",
    }
    assert (second["date"], second["machine"]) == ("", "")
    (unknown,) = tables.shown([{"commit": "other", "run": "20261128-093417-seed0"}], {})
    assert unknown["date"] == "2026-11-28", "of the run, where the history lacks the commit"
    assert "<td>&lt;A&gt;</td>" in tables.table([first], "all")


def test_facts_of_another_file_stand_behind_what_they_are_of(tables):
    rows = [{"panel": "a", "mase": "1"}, {"panel": "c", "mase": "2"}]
    assert tables.joined(rows, []) == rows
    first, second = tables.joined(rows, [{"panel": "a", "rows": "15"}, {"panel": "b", "rows": "9"}])
    assert [*first.items()] == [("panel", "a"), ("rows", "15"), ("mase", "1")]
    assert second == {"panel": "c", "rows": "", "mase": "2"}


def test_every_panel_of_the_benchmark_has_a_length():
    known = {row["panel"] for row in _read(ROOT / "benchmarks" / "results" / "panels.csv")}
    assert {row["panel"] for row in _read(ROOT / "benchmarks" / "results" / "zoo.csv")} <= known


def test_columns_of_words_that_repeat_can_be_chosen(tables):
    columns = {
        "panel": ["b", "a", "b", "a"],
        "steps": ["512 → 96", "512 → 720", "512 → 96", "512 → 720"],
        "mase": ["0.5", "0.5", "0.6 [0.5, 0.7]", ""],
        "note": ["w", "x", "y", "z"],
        "commit": ["c", "c", "d", "d"],
    }
    bar = tables.controls(columns, ["mase"])
    assert re.findall(r"<label>(\w+) <select data-column=\"(\d)\">", bar) == [("panel", "0"), ("steps", "1")]
    assert bar.index("512 → 96") < bar.index("512 → 720")
    assert 'data-means="2"' in bar and "4 rows" in bar
