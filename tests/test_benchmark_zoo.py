"""The benchmark of forecasting models: its panels, its scores by hand, and that it resumes."""

import csv
import gzip
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
TSF = """\
# a comment
@relation tiny
@attribute series_name string
@attribute start_timestamp date
@frequency quarterly
@horizon 2
@missing true
@data
a:2001-02-01 00-00-00:1,2,?,4,5,6,7,8
b:1999-01-01 00-00-00:8,6,4,2,8,6,4,3
short:1999-01-01 00-00-00:1,2,3,4,5,6
"""


@pytest.fixture
def load(monkeypatch):
    """Imports a script of the benchmarks, whose folder is on the path as when it is run."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def folder(tmp_path):
    with gzip.open(tmp_path / "tiny.tsf.gz", "wt") as file:
        file.write(TSF)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "needs", "group", "n", "rows", "horizon", "cutoffs"),
    [
        ("m4_hourly", "m4", "hourly", 414, 373372, 48, 1),
        ("m4_weekly", "m4", "weekly", 359, 371579, 13, 1),
        ("solar_weekly", "monash_dev", "weekly", 137, 137 * 52, 5, 1),
        ("fred_md", "monash_dev", "monthly", 107, 107 * 728, 12, 1),
        ("hospital", "monash_dev", "monthly", 767, 767 * 84, 12, 1),
        ("m1_monthly", "monash_dev", "monthly", 617, 55998, 18, 1),
        ("m1_quarterly", "monash_dev", "quarterly", 203, 9944, 8, 1),
        ("m1_yearly", "monash_dev", "yearly", 181, 4515, 6, 1),
        ("air_passengers", "air_passengers", "monthly", 1, 144, 12, 3),
        ("ili", "ili", "weekly", 7, 7 * 966, 24, 4),
        ("bike_sharing", "bike_sharing", "hourly", 1, 17544, 24, 14),
        ("epf_np", "epf", "hourly", 1, 52416, 24, 14),
        ("epf_fr_be", "epf", "hourly", 2, 32160, 24, 14),
        ("beijing_pm25", "beijing_pm25", "hourly", 1, 43824, 24, 14),
        ("etth1", "ett", "hourly", 7, 7 * 14400, 48, 8),
        ("ettm2", "ett", "minutes", 7, 7 * 57600, 96, 8),
        ("weather", "weather", "minutes", 21, 21 * 52696, 144, 6),
    ],
)
def test_panels_have_all_rows(name, needs, group, n, rows, horizon, cutoffs, load, real_data):
    real_data(needs)
    panel = load("panels").read(name)
    found = (panel.group, len(panel.series), sum(map(len, panel.series.values())), panel.horizon, len(panel.held_back))
    assert found == (group, n, rows, horizon, cutoffs)
    assert min(map(len, panel.series.values())) > panel.held_back[0] + panel.season
    text = (FOLDER / "results" / "panels.csv").read_text()
    known = next(row for row in csv.DictReader(text.splitlines()) if row["panel"] == name)
    assert int(known["rows"]) == panel.rows < load("panels").LENGTHS[known["length"]]
    # the pandas alias and the first stamp agree: the frame begins where the series does
    first = panel.sample(1).before(panel.held_back[0])
    assert first["ds"].iloc[0] - next(iter(panel.starts.values())) < pd.Timedelta(days=366)
    assert panel.sample(5).series.keys() == panel.sample(5).series.keys() <= panel.series.keys()


def test_a_file_of_the_monash_archive(load, folder):
    panels = load("panels")
    assert panels.names_in(folder) == ["tiny"]
    panel = panels.read("tiny", folder)
    assert (panel.group, panel.freq, panel.season, panel.horizon) == ("quarterly", "QS", 4, 2)
    assert panel.series.keys() == {"a", "b"}, "one of the horizon and a season has no row left for a scale"
    frame = panel.before(2, last=3)
    quarters = ["2002-01-01", "2002-04-01", "2002-07-01", "1999-10-01", "2000-01-01", "2000-04-01"]
    assert frame["ds"].astype(str).tolist() == quarters
    assert frame["y"].tolist() == [4, 5, 6, 2, 8, 6]
    np.testing.assert_array_equal(panel.truth(2), [[7, 8], [4, 3]])


def test_scores_by_hand(load, folder):
    """Season 4: forecasts of a are (3, 4), its 3 interpolated by nothing but the mean, of b (4, 2)."""
    panel, scores = load("panels").read("tiny", folder), load("zoo_scores").scores
    panel = panel._replace(season=2)
    # naive: a repeats 5, 6 and b repeats 8, 6; their errors are 2, 2 and 4, 3
    truth = panel.truth(2)[None, ..., None]  # (1, 2, 2, 1)
    forecasts = truth + np.array([1.0, -2.0, 1.0, 3.0])
    found = scores(panel, forecasts, (0.1, 0.5, 0.9))
    # steps of two rows: in a 2 (4 to 6), the others miss a value; in b all are 4
    unit = np.array([2.0, 4.0])
    mase, naive = (1 / unit).mean(), (np.array([2, 3.5]) / unit).mean()
    assert found["mase"] == pytest.approx(mase) and found["relative_mase"] == pytest.approx(mase / naive)
    pinball = 4 * 2 * (0.1 * 2 + 0.5 * 1 + 0.1 * 3) / 3
    assert found["wql"] == pytest.approx(pinball / 22) and found["relative_wql"] == pytest.approx(pinball / 11)
    assert (found["coverage80"], found["failures"], found["forecasts"]) == (100, 0, 2)
    # the seasonal naive forecast takes the place of one that failed
    forecasts[0, 1, 1, 2] = np.nan
    failed = scores(panel, forecasts, (0.1, 0.5, 0.9))
    assert failed["relative_mase"] == pytest.approx((1 / 2 + 3.5 / 4) / 2 / naive) and failed["failures"] == 1
    nothing = scores(panel, np.full_like(forecasts, np.nan), (0.1, 0.5, 0.9))
    assert nothing["relative_mase"] == nothing["relative_wql"] == 1 and nothing["failures"] == 2


def test_means_over_panels(load):
    rates = load("zoo_scores")
    assert rates.geometric_mean([0.5, 2, 1]) == pytest.approx(1)
    lo, hi = rates.bootstrap([0.5, 2.0])
    assert (lo, hi) == pytest.approx((0.5, 2)), "both panels are drawn twice in a quarter of the draws"
    wins = rates.win_rates({"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "c": {"x": 3}, "d": {}})
    assert wins["a"] == pytest.approx(100 * 2.5 / 3) and wins["c"] == 0 and np.isnan(wins["d"])
    pairs = rates.win_matrix({"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "c": {"x": 3}})
    assert (pairs["a"]["b"], pairs["b"]["a"], pairs["c"]["a"]) == (75, 25, 0) and np.isnan(pairs["a"]["a"])


def test_a_model_of_seqmix_forecasts_every_window(load, folder):
    panel = load("panels").read("tiny", folder)._replace(horizon=1, windows=2)
    run = load("zoo_models").Run(panel, 10)
    run.seqmix("Persistence")
    np.testing.assert_allclose(run.forecasts[..., 0], [[[6], [6]], [[7], [4]]], rtol=1e-6)
    # two validation windows are too few for the score of a rank: the quantiles are by Student's t
    assert run.facts["note"] == "" and (np.diff(run.forecasts[..., 1:], axis=-1) > 0).all()


def test_pairs_in_the_csv_are_not_run_again(load, folder, monkeypatch, capsys):
    zoo, ran = load("zoo"), []

    def measure(model, names, python, series, limit, held_out):
        for name in names:
            ran.append((model, name))
            row = {"panel": name, "group": "quarterly", "model": model, "sample": series}
            row |= {"series": 3, "note": "", "seen": "no"}
            numbers = ("coverage80", "failures", "forecasts", "fit_s", "predict_s", "bytes", "relative_wql")
            yield row | dict.fromkeys(numbers, 1) | {"relative_mase": {"DLinear": 0.5, "SeasonalNaive": 1}[model]}

    monkeypatch.setattr(zoo, "measure", measure)
    options = ["zoo.py", "--held-out", str(folder), "--out", str(folder / "zoo.csv"), "--series", "2", "--models"]
    for models in ("SeasonalNaive", "SeasonalNaive,DLinear,AutoETS"):
        monkeypatch.setattr("sys.argv", [*options, models])
        zoo.main()
    assert ran == [("SeasonalNaive", "tiny"), ("DLinear", "tiny")], "no interpreter has AutoETS"
    rows = zoo.read(folder / "zoo.csv")
    first, second = zoo.table(rows)
    assert (first["model"], first["MASE, many series"], first["win rate, %"]) == (
        "DLinear",
        "0.500 [0.50, 0.50]",
        "100",
    )
    assert zoo.table([*rows, {**rows[0], "panel": "other"}])[1]["MASE, many series"] == "0.500, 1 of 2", "comes last"
    assert second["failures"] == "1 of 1" and second["MASE, few, long"] == ""
    assert zoo.groups(rows)[0] == {"model": "DLinear", "quarterly": "0.500 / 1.000 (1 %)"}
    (panel,) = zoo.by_panel(rows)
    assert (panel["series"], panel["DLinear"], panel["SeasonalNaive"]) == ("2 of 3", "0.500 / 1.000", "1.000 / 1.000")
    assert zoo.wins(rows)[0] == {"model": "DLinear", "DLinear": "", "SeasonalNaive": "100"}
    assert (folder / "zoo.png").exists()
    drawn = []

    def save(figure, *_, **__):
        drawn.extend(label.get_text().split()[0] for label in figure.axes[0].get_yticklabels())

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save)
    zoo.draw([*rows, {**rows[0], "panel": "other"}], folder / "zoo.png")
    assert drawn == [rows[0]["model"]], "the mean of the other is over fewer panels"
    monkeypatch.setattr("sys.argv", [*options[:-2], "3"])
    with pytest.raises(SystemExit):
        zoo.main()
    assert "holds samples of 2 series; use --series 2 or --out" in capsys.readouterr().err


def test_a_model_that_fails_is_replaced_and_counted(load, folder, monkeypatch, capsys):
    """In the process of the benchmark, which the script would start."""
    monkeypatch.setattr("sys.argv", ["zoo_models.py", "Nothing", "tiny", f"--out={folder}", f"--held-out={folder}"])
    load("zoo_models").main()
    facts = json.loads(capsys.readouterr().out)
    assert facts["note"].startswith("ConfigError: no model, encoder or mixer 'Nothing'") and facts["fit_s"] == 0
    assert np.isnan(np.load(folder / "tiny.npy")).all()


@pytest.mark.slow
def test_a_run_in_a_process_of_its_own(load, folder):
    (row,) = load("zoo").measure("SeasonalNaive", ["tiny"], sys.executable, 2, 10, folder)
    assert row["failures"] == 0 and 0 < float(row["relative_mase"]) < 2 and float(row["fit_s"]) > 0
