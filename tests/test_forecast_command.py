"""``seqmix forecast``: a file in, forecasts, a table and a picture out; columns found or named."""

import numpy as np
import pandas as pd
import pytest

from seqmix import cli


def days(n=60):
    return pd.date_range("2024-01-01", periods=n).strftime("%Y-%m-%d")


def wave(n=60):
    t = np.arange(n)
    # a cycle that is never quite the same
    return np.sin(t / 7 * 2 * np.pi) + 0.1 * np.cos(t)


FRAMES = {
    "long": pd.DataFrame(
        {"shop": ["b"] * 60 + ["a"] * 60, "day": [*days(), *days()], "sold": [*wave(), *(5 + wave())]}
    ),
    "single": pd.DataFrame({"Month": days(), "#Passengers": wave()}),
    "wide": pd.DataFrame({"date": days(), "OT": wave(), "HUFL": 2 + wave()}),
}
FAST = ["--horizon", "4", "--context_length", "14", "--max_steps", "3", "--device", "cpu"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, frame in FRAMES.items():
        frame.to_csv(f"{name}.csv", index=False)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "columns", "ids"),
    [
        ("long", ["shop", "day", "DLinear"], ["b", "a"]),
        ("single", ["unique_id", "Month", "DLinear"], ["#Passengers"]),
        ("wide", ["unique_id", "ds", "DLinear"], ["OT", "HUFL"]),
    ],
)
def test_columns_are_found(here, capsys, name, columns, ids):
    assert cli.run(["forecast", "--data", f"{name}.csv", "--model", "DLinear", "--cv", "0", *FAST]) == 0
    out = pd.read_csv("forecast.csv")
    assert out.columns.tolist() == columns and out[columns[0]].unique().tolist() == ids
    assert out[columns[1]].tolist() == ["2024-03-01", "2024-03-02", "2024-03-03", "2024-03-04"] * len(ids)
    text = capsys.readouterr().out
    assert text.startswith(f"{name}.csv: {len(ids)} series, ") and "freq 'D' was inferred" in text
    assert text.endswith("forecasts: forecast.csv\n")


def test_table_and_picture(here, capsys):
    command = "forecast --data long.csv --model DLinear,Pool --cv 2 --levels 50 --out out/f.parquet --plot f.png"
    assert cli.run([*command.split(), *FAST, "--context_length", "16"]) == 0
    text = capsys.readouterr().out
    assert "errors of 2 forecasts of 4 steps at the end of each series" in text
    # nothing learned in three steps is better than the cycle before
    lines = [line.split()[0] for line in text.splitlines() if line.split()[0] in ("DLinear", "Pool", "SeasonalNaive")]
    assert lines[0] == "SeasonalNaive" and sorted(lines[1:]) == ["DLinear", "Pool"]
    assert (here / "f.png").stat().st_size > 10_000
    assert pd.read_parquet("out/f.parquet").columns.tolist()[2:] == [
        f"{model}{side}" for model in ("DLinear", "Pool") for side in ("", "-lo-50", "-hi-50")
    ]


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("--data no.csv", 1, "seqmix: file 'no.csv' not found; give a CSV or parquet file"),
        (
            "--data long.csv --levels high",
            1,
            "seqmix: levels should be percentages with commas between them, got 'high'; use 80,95",
        ),
        (
            "--data long.csv --target_col y",
            1,
            "seqmix: column 'y' not found; columns are ['shop', 'day', 'sold']; did you mean target_col='sold'?",
        ),
        ("--data long.csv --model DLiner", 1, "seqmix: no model or mixer 'DLiner'; did you mean 'DLinear'? there are"),
    ],
)
def test_errors_are_one_line(here, capsys, command, code, message):
    assert cli.run(["forecast", *command.split(), *FAST]) == code
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1
