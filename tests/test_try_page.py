"""The page that forecasts in the browser, as far as it can be tested without one; see test_browser_try.py."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqmix import Forecaster

DOCS = Path(__file__).parents[1] / "docs"
RUN = """
import { ridge } from "./ridge.mjs";
import { readFrame } from "./frame.mjs";
import { readTable } from "./table.mjs";
import fs from "fs";
const frame = readFrame(readTable(fs.readFileSync(process.argv[2], "utf8"), "FILE"), { freq: "", fillGaps: true });
const [series] = frame.series;
const rows = ridge(series, frame.clock, Number(process.argv[3]), 80);
const ahead = rows.map((_, h) => frame.clock.after(series.stamps.at(-1), h + 1));
console.log(JSON.stringify({ freq: frame.clock.label, season: frame.clock.season, ahead, rows }));
"""


@pytest.fixture
def templates(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import _try_messages

    return _try_messages.messages()


def test_scripts_and_python_know_the_same_messages_and_slots(templates):
    asked = {}
    for script in (DOCS / "try").glob("*.js"):
        for names in re.findall(r"refuse\(([^,){]+)", script.read_text()):
            asked |= dict.fromkeys(re.findall(r'"(\w+)"', names), script.read_text())
    assert asked.keys() == templates.keys()
    for name, script in asked.items():
        lacking = [slot for slot in re.findall(r"{(\w+)}", templates[name]) if not re.search(rf"\b{slot}\b", script)]
        assert not lacking, name


@pytest.mark.parametrize(
    ("freq", "rows", "horizon"),
    [
        *(("MS", 144, 12), ("B", 120, 5), ("QE", 40, 4), ("30min", 400, 3), ("W", 90, 4), ("YS", 40, 2)),
        *(("MS", 9, 6), ("MS", 15, 6), ("YS", 8, 1), ("MS", 30, 12)),
        # a lookback whose steps share the search over the penalty
        pytest.param("h", 1100, 2, marks=pytest.mark.slow),
    ],
)
def test_ridge_of_the_page_is_that_of_the_package(tmp_path, freq, rows, horizon):
    """In Node.js; long series have missing values, 90 weeks are calibrated on validation rows, short series hardly."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js")
    for script in (DOCS / "try").glob("*.js"):
        text = re.sub(r'from "./(\w+).js"', r'from "./\1.mjs"', script.read_text())
        (tmp_path / f"{script.stem}.mjs").write_text(text)
    (tmp_path / "run.mjs").write_text(RUN)
    t, noise = np.arange(rows), np.random.default_rng(0).normal(size=rows)
    df = pd.DataFrame({"ds": pd.date_range("2020-01-31", periods=rows, freq=freq), "y": 9 + np.sin(t / 2) + noise / 4})
    df["y"] = df["y"].where(t % 37 != 30).round(4)
    df.to_csv(tmp_path / "data.csv", index=False)
    words = [node, "run.mjs", "data.csv", str(horizon)]
    found = json.loads(subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    shared = {"weights": "shared"}
    fc = Forecaster("Ridge", horizon, levels=[80], device="cpu", fill_gaps=True, model_kwargs=shared).fit(df)
    want = fc.predict()
    assert found["freq"] == fc.freq_ and fc.plan_.season in (found["season"], 1)
    assert [*pd.to_datetime(found["ahead"], unit="ms")] == [*want["ds"]]
    np.testing.assert_allclose(found["rows"], want.iloc[:, -3:].to_numpy(), rtol=1e-5)
