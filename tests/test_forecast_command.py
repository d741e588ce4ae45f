"""``seqmix forecast``: a file in, forecasts, a table and a picture out; columns found or named."""

import os
import signal

import numpy as np
import pandas as pd
import pytest
from stand_ins import Walk

from seqmix import cli
from seqmix.models import forecast_model


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
    "promo": pd.DataFrame({"ds": days(), "y": wave(), "promo": 1}),
    "holed": pd.DataFrame({"ds": days(), "y": wave()}).drop(index=5),
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
    assert ("each column of numbers is a series: [OT, HUFL]; --target_col takes one alone" in text) == (name == "wide")


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


def test_pretrained_models_are_not_trained(here, capsys, monkeypatch):
    """A rate or steps train them all the same; what was not trained is saved, drawn and exported as well."""
    monkeypatch.setitem(forecast_model._REGISTRY, "Walk", (Walk, "none", {}))
    command = "forecast --data long.csv --model Walk --horizon 4 --device cpu --levels 80 --out "
    more = "--cv 1 --save models --plot f.png --export f.pt2"
    assert cli.run([*command.split(), "a.csv", *more.split()]) == 0
    text = capsys.readouterr().out
    assert text.startswith("long.csv: 2 series, no training, global, context 40\n") and "Walk" in text
    assert all((here / name).exists() for name in ("models", "f.png", "f.pt2"))
    assert cli.run(["forecast", "--data", "long.csv", "--load", "models", "--levels", "80", "--out", "b.csv"]) == 0
    capsys.readouterr()
    assert cli.run([*command.split(), "c.csv", "--learning_rate", "0.05"]) == 0
    assert "no training" not in capsys.readouterr().out
    # nor beside models that need no steps
    assert cli.run([*command.replace("Walk", "Walk,Ridge,SeasonalNaive").split(), "d.csv"]) == 0
    a, b, c, d = (pd.read_csv(f"{name}.csv") for name in "abcd")
    pd.testing.assert_frame_equal(a, b)
    pd.testing.assert_series_equal(a["Walk"], d["Walk"])
    assert not np.allclose(a["Walk"], c["Walk"], rtol=1e-3)


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("--data no.csv", 1, "seqmix: file 'no.csv' not found; give a CSV, Excel or parquet file"),
        (
            "--data long.csv --levels high",
            1,
            "seqmix: --levels should be percentages separated by commas, got 'high'; use 80,95",
        ),
        (
            "--data long.csv --target_col y",
            1,
            "seqmix: column 'y' not found; columns are ['shop', 'day', 'sold']",
        ),
        ("--data long.csv --levels 80,120", 1, "seqmix: --levels should be between 0 and 100 percent, got 120"),
        ("--data long.csv --horizon 0", 1, "seqmix: horizon must be >= 1, got 0"),
        ("--data . --model DLinear", 1, "seqmix: '.' is a folder; give one CSV, Excel or parquet file"),
        ("--data long.csv --out f.txt", 1, "seqmix: --out 'f.txt' ends in '.txt'; use one of .csv, .tsv,"),
        (
            "--data long.csv --out long.csv",
            1,
            "seqmix: --out 'long.csv' is the file of --data, which it would replace;",
        ),
        ("--data long.csv --plot f.txt", 1, "seqmix: --plot 'f.txt' ends in '.txt'; use one of .png,"),
        ("--data long.csv --export f.txt", 1, "seqmix: --export 'f.txt' ends in '.txt'; use one of .pt2, .onnx"),
        ("--data long.csv --model ,", 1, "seqmix: --model is empty; give a name, for example --model TSM2"),
        ("--data long.csv --load m", 1, "seqmix: --context_length is for fitting, and --load takes fitted models"),
        (
            "--data holed.csv",
            1,
            "seqmix: 1 of 1 series has gaps at freq 'D': 'y' 1 missing (2024-01-06). Pass --fill_gaps true",
        ),
        ("--data holed.csv --freq h", 1, "seqmix: --freq h but the median step is 1 day; pass the freq of the data"),
        (
            "--data promo.csv --future promo.csv",
            1,
            "seqmix: --future is a file of --future_covariates; name its columns",
        ),
        (
            "--data promo.csv --future_covariates promo",
            1,
            "seqmix: the models need the known-future columns [promo] for the horizon; pass --future FILE, one row for "
            "each id and step",
        ),
        (
            "--data promo.csv --future_covariates promo --future promo.csv",
            1,
            "seqmix: --future lacks 4 of 4 rows of the horizon, first: ('y', 2024-03-01), ('y', 2024-03-02), "
            "('y', 2024-03-03); add them to the file",
        ),
        ("--data promo.csv --future_covariates price", 1, "seqmix: column 'price' not found"),
        (
            "--data long.csv --fill_value 0",
            1,
            "seqmix: fill_value = 0 is for inserted time steps; pass --fill_gaps true",
        ),
        (
            "--data long.csv --freq W",
            1,
            "seqmix: --freq W but the median step is 1 day; pass the freq of the data, or leave",
        ),
        (
            "--data long.csv --model DLiner",
            1,
            "seqmix: no model, encoder or mixer 'DLiner'; did you mean 'DLinear'? there are",
        ),
    ],
)
def test_errors_are_one_line_and_come_before_training(here, capsys, monkeypatch, command, code, message):
    from seqmix.forecasting import fitting

    monkeypatch.setattr(fitting, "train", lambda *_, **__: pytest.fail("trained"))
    assert cli.run(["forecast", *FAST, *command.split()]) == code
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1


def test_known_future_columns_without_ids_count_for_every_series(here):
    pd.concat([FRAMES["promo"].assign(shop=i) for i in "ab"]).to_csv("two.csv", index=False)
    pd.DataFrame({"ds": pd.date_range("2024-03-01", periods=4).strftime("%d.%m.%Y"), "promo": 0}).to_csv(
        "f.csv", index=False
    )
    command = "forecast --data two.csv --model DLinear --future_covariates promo --future f.csv --save m"
    assert cli.run([*command.split(), *FAST]) == 0 and len(pd.read_csv("forecast.csv")) == 8
    # a file may have other names of columns than the one that the models were fitted on
    for name in ("two", "f"):
        table = pd.read_csv(f"{name}.csv")
        table.rename(columns={"shop": "store", "ds": "day", "y": "n"}).to_csv(f"{name}.csv", index=False)
    assert cli.run(["forecast", "--data", "two.csv", "--future", "f.csv", "--load", "m", "--out", "again.csv"]) == 0
    assert pd.read_csv("again.csv").to_numpy().tolist() == pd.read_csv("forecast.csv").to_numpy().tolist()


def test_fitted_models_are_saved_and_loaded(here, capsys):
    FRAMES["long"].assign(shop=["007"] * 60 + ["NA"] * 60).to_csv("ids.csv", index=False, sep=";", decimal=",")
    command = ["forecast", "--data", "ids.csv", "--out"]
    assert cli.run([*command, "a.csv", "--model", "DLinear", "--mode", "global", "--save", "m", *FAST]) == 0
    assert cli.run([*command, "b.csv", "--load", "m"]) == 0
    first, second = (pd.read_csv(name, dtype=str, keep_default_na=False) for name in ("a.csv", "b.csv"))
    assert first["shop"].unique().tolist() == ["007", "NA"] and len(first) == 8
    pd.testing.assert_frame_equal(first, second)
    assert "models: m" in capsys.readouterr().out


def test_models_are_trained_once_unless_they_are_measured(here, monkeypatch):
    from seqmix.forecasting import Forecaster

    fitted = []
    fit = Forecaster.fit
    monkeypatch.setattr(Forecaster, "fit", lambda self, *args, **names: fitted.append(1) or fit(self, *args, **names))
    monkeypatch.setattr(Forecaster, "cross_validation", lambda *_, **__: pytest.fail("measured unasked"))
    assert cli.run(["forecast", "--data", "single.csv", "--model", "DLinear", *FAST]) == 0 and fitted == [1]


def test_without_a_model_the_best_ensemble_is_found_and_shown(here, capsys):
    assert cli.run(["forecast", "--data", "long.csv", "--budget", "20s", "--cv", "1", "--levels", "80", *FAST]) == 0
    shown = capsys.readouterr().out
    board, errors = shown.split("errors of 1 forecast of 4 steps")
    assert "models on the last rows, and their weights in auto" in board
    for name in ("auto", "Theta", "Ridge", "DLinear", "ZeroShot", "SeasonalNaive"):
        assert f"\n {name} " in board
    assert "\n auto " in errors and "\n SeasonalNaive " in errors
    out = pd.read_csv("forecast.csv")
    assert out.columns.tolist() == ["shop", "day", "auto", "auto-lo-80", "auto-hi-80"] and len(out) == 8


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_training_says_that_nothing_was_written(here, monkeypatch, capsys, number, code):
    from seqmix.tasks import Forecasting

    monkeypatch.setattr(Forecasting, "on_train_batch_end", lambda *_: os.kill(os.getpid(), number), raising=False)
    before = signal.getsignal(number)
    assert cli.run(["forecast", "--data", "single.csv", "--model", "DLinear", *FAST]) == code
    assert capsys.readouterr().err.endswith("ed; no forecasts were written\n")
    assert signal.getsignal(number) is before and not (here / "forecast.csv").exists()
