"""``seqmix classify | impute | detect``: files in, files and pictures out; observed cells stay as written."""

import io

import numpy as np
import pandas as pd
import pytest

from seqmix import cli
from seqmix.analysis.scoring import FittedDetectors
from seqmix.commands._written import written
from seqmix.forecasting.cells import Cells

MODEL = ["--max_steps", "2", "--device", "cpu"]


def wave(rows=120, channels=2):
    return np.sin(np.arange(rows)[:, None] / 3 + np.arange(channels)).round(3)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hours = pd.date_range("2026-01-01", periods=120, freq="h").strftime("%d.%m.%Y %H:%M")
    frame = pd.DataFrame({"time": hours, "u": wave()[:, 0].astype(str), "v": wave()[:, 1].astype(str), "place": "x"})
    frame.loc[[0, 40, 41, 42], "u"] = ["", "NA", "", "nan"]
    frame.loc[77, "v"] = ""
    frame.to_csv("sensors.csv", index=False)
    frame.assign(u=frame["u"].str.replace(".", ",")).to_csv("komma.csv", index=False, sep=";")
    frame.drop(index=[10, 11]).to_csv("holes.csv", index=False)
    frame.assign(v=frame["v"].mask(frame.index == 5, "inf")).to_csv("infinite.csv", index=False)
    frame[:5].to_csv("five.csv", index=False)
    labels = np.zeros(120, int)
    labels[60:64] = 1
    spiked = frame.assign(v=np.where(labels, 3.0, wave()[:, 1]), odd=labels)
    spiked.to_csv("spiked.csv", index=False)
    spiked.to_parquet("spiked.parquet")
    rows = [
        (i, t, np.sin(t * (1 + i % 2) + i), "fast" if i % 2 else "slow") for i in range(16) for t in range(9 + i % 3)
    ]
    labeled = pd.DataFrame(rows, columns=["id", "t", "x", "label"])
    labeled.to_csv("waves.csv", index=False)
    others = {"id": "series", "t": "timestamp"}
    labeled.drop(columns="label").rename(columns=others).assign(none="").to_csv("unlabeled.csv", index=False)
    head = "@problemName w\n@timeStamps false\n@univariate true\n@classLabel true slow fast new\n@data\n"
    for part, ids in (("TRAIN", range(12)), ("TEST", range(12, 16))):
        one = [labeled[labeled["id"] == i] for i in ids]
        lines = [",".join(map(str, x["x"])) + ":" + x["label"].iloc[0] for x in one]
        lines += ["1,2,3:new"] * (part == "TEST")
        (tmp_path / f"w_{part}.ts").write_text(head + "\n".join(lines))
    (tmp_path / "bad.ts").write_text("1,2,3:slow")
    return tmp_path


def run(*words):
    assert cli.run([str(word) for word in words]) == 0


def test_gaps_are_filled_and_all_else_stays_as_written(here, capsys):
    run("impute", "sensors.csv", "--out", "filled.csv", "--plot", "gaps.png", "--save", "kept")
    before, after = (pd.read_csv(name, dtype=str, keep_default_na=False) for name in ("sensors.csv", "filled.csv"))
    missing = before.isin(["", "NA", "nan"])
    assert list(after) == list(before) and (after[~missing] == before[~missing]).to_numpy()[~missing.to_numpy()].all()
    filled = after.to_numpy()[missing.to_numpy()]
    assert len(filled) == 5 and all(len(cell.partition(".")[2]) == 3 for cell in filled)
    text = capsys.readouterr().out
    assert text.startswith("sensors.csv: channels u, v, 5 of 240 values filled, 30 time steps at a time\n")
    assert text.endswith("filled: filled.csv\nimputer: kept\npicture: gaps.png\n") and (here / "gaps.png").exists()
    run("impute", "--data", "sensors.csv", "--load", "kept", "--out", "again.csv")
    assert (here / "again.csv").read_text() == (here / "filled.csv").read_text()


@pytest.mark.parametrize(
    ("column", "cell"),
    [(["1,234", "985"], "1000"), (["1.234,5", "7"], "1000,2"), (["1,234.25", "7"], "1000.20"), (["3", "4"], "1000")],
)
def test_filled_cells_have_the_decimal_sign_of_their_column(column, cell):
    assert written(np.array([1000.2]), pd.Series(column, dtype="str"), Cells()) == [cell]


def test_decimal_commas_intervals_and_inserted_rows(here, capsys):
    fast = ["--model", "DLinear", *MODEL]
    run("impute", "komma.csv", "--out", "filled.csv", "--levels", "80", "--date_format", "%d.%m.%Y %H:%M", *fast)
    found = pd.read_csv("filled.csv", dtype=str, sep=";")
    assert found["u"].str.fullmatch(r"-?\d,\d+").all() and found["u-lo-80"].str.fullmatch(r"-?\d,\d+").all()
    assert list(found)[-4:] == ["u-lo-80", "u-hi-80", "v-lo-80", "v-hi-80"]
    run("impute", "holes.csv", "--fill_gaps", "--context", "12", *fast, "--out", "whole.parquet")
    assert len(pd.read_parquet("whole.parquet")) == 120
    assert "2 rows inserted" in capsys.readouterr().out


PLAIN = ["--model", "LinearInterpolation"]


def test_a_file_comes_back_as_it_was_written(here):
    """Separator, decimal sign, units, encoding, ends of lines, dates, order of columns."""
    days = pd.date_range("2026-01-28", periods=30)
    lines = [f"{i // 4},{i % 4 * 25:02} %;Größe;{day.day}.{day.month}.2026;{i}" for i, day in enumerate(days)]
    lines = ["Anteil;Ort;Datum;Zahl", *lines, ""]
    text = "\r\n".join(lines)
    (here / "whole.csv").write_bytes(text.encode("cp1252"))
    (here / "gap.csv").write_bytes(text.replace("2,50 %", "NA").encode("cp1252"))
    run("impute", "gap.csv", "--out", "filled.csv", *PLAIN)
    assert (here / "filled.csv").read_bytes() == (here / "whole.csv").read_bytes()
    # the rows of two days are missing: the series of numbers and days goes on as it did
    (here / "two.csv").write_bytes("\r\n".join(lines[:5] + lines[7:]).encode("cp1252"))
    run("impute", "two.csv", "--out", "filled.csv", "--fill_gaps", *PLAIN)
    assert (here / "filled.csv").read_bytes() == (here / "whole.csv").read_bytes()
    run("detect", "whole.csv", "--model", "SubPCA", "--season", "3")
    scored = (here / "scores.csv").read_bytes().decode("cp1252").split("\r\n")
    assert scored[0] == "Anteil;Ort;Datum;Zahl;score;anomaly" and "." not in scored[3].rpartition("2026;")[2]


@pytest.mark.parametrize(
    ("form", "freq"),
    [("%Y%m%d", "D"), ("%d.%m.%Y %H:%M", "h"), ("%Y-%m-%dT%H:%M:%SZ", "h"), ("%Y-W%V", "W-MON"), ("%b %Y", "MS")],
)
def test_inserted_rows_have_times_in_the_format_of_the_others(here, form, freq):
    times = pd.date_range("2026-01-05", periods=40, freq=freq)
    frame = pd.DataFrame({"x": range(40), "when": times.strftime(form)})
    frame.drop(index=[8, 20]).to_csv("x.csv", index=False, sep="\t")
    run("impute", "x.csv", "--fill_gaps", "--time_col", "when", *PLAIN)
    pd.testing.assert_frame_equal(
        pd.read_csv("filled.csv", sep="\t"), pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    )


def test_inserted_rows_have_their_columns(here, capsys):
    """A time in two columns, two columns of ids, others that are not known; integers of parquet stay so."""
    times = pd.date_range("2026-01-05", periods=30, freq="h")
    day, hour = times.strftime("%Y-%m-%d"), times.hour
    parts = [pd.DataFrame({"x": 1.0, "date": day, "hour": hour, "id": 7, "note": "n"}) for _ in range(2)]
    frame = pd.concat([part.assign(id=i) for i, part in enumerate(parts)], ignore_index=True)
    frame.drop(index=[8, 40]).to_parquet("x.parquet")
    run("impute", "x.parquet", "--channels", "x", "--fill_gaps", "--out", "filled.parquet", *PLAIN)
    found = pd.read_parquet("filled.parquet")
    pd.testing.assert_frame_equal(found, frame.assign(note=frame["note"].mask(frame.index.isin([8, 40]))))
    assert "2 rows inserted" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["spiked.csv", "spiked.parquet"])
def test_rows_are_scored(here, capsys, name):
    picture = ["--plot", "s.png"] if name.endswith("csv") else []
    files = ["--train", "sensors.csv", "--save", "d", *picture]
    run("detect", name, "--channels", "u,v", "--label_col", "odd", "--model", "SubPCA", "--season", "18", *files)
    found = pd.read_csv("scores.csv")
    assert len(found) == 120 and list(found)[-2:] == ["score", "anomaly"] and found["anomaly"][60:64].any()
    assert found["score"][58:70].max() == found["score"].max()
    assert "average precision" in capsys.readouterr().out
    assert (here / "s.png").exists() == name.endswith("csv")
    run("detect", name, "--load", "d", "--out", "again.csv", "--channels", "u,v")
    np.testing.assert_allclose(pd.read_csv("again.csv")["score"], found["score"])


def test_rows_that_the_detector_learns_from_are_scored_once(here, capsys, monkeypatch):
    calls, scored = [], FittedDetectors.both_scores
    monkeypatch.setattr(FittedDetectors, "both_scores", lambda *given: calls.append(1) or scored(*given))
    run("detect", "spiked.csv", "--channels", "u,v", "--label_col", "odd", "--model", "SubPCA", "--season", "18")
    found = pd.read_csv("scores.csv")
    assert len(calls) == 1 and found["anomaly"].sum() == 2 and found["anomaly"][60:64].any()
    assert "2 of 120 rows above the threshold" in capsys.readouterr().out


def test_series_are_classified(here, capsys):
    options = ["--model", "Pool", *MODEL]
    run("classify", "w_TRAIN.ts", "w_TEST.ts", *options, "--plot", "c.png")
    found = pd.read_csv("classes.csv")
    assert list(found) == ["series", "label", "true", "p_fast", "p_slow"] and len(found) == 5
    text = capsys.readouterr().out
    assert "2 classes, channels 0" in text and "on 5 series" in text and (here / "c.png").exists()
    # a class without training series is never found
    assert [line.split() for line in text.splitlines() if " new " in line] == [["new", "1", "0"]]
    # the same series without their labels
    bare = [line.rpartition(":")[0] or line for line in (here / "w_TEST.ts").read_text().splitlines()]
    (here / "bare.ts").write_text("\n".join(bare).replace("true slow fast new", "false"))
    run("classify", "w_TRAIN.ts", "bare.ts", *options)
    pd.testing.assert_frame_equal(pd.read_csv("classes.csv"), found.drop(columns="true"))
    run("classify", "waves.csv", *options, "--save", "kept")
    found = pd.read_csv("classes.csv")
    assert list(found) == ["id", "label", "true", "p_fast", "p_slow"] and len(found) == 4
    # integer times are no channel, nor is a column without a value
    run("classify", "unlabeled.csv", "--load", "kept", "--id_col", "series")
    assert "column 'none' has no value, and is not used" in capsys.readouterr().out
    found = pd.read_csv("classes.csv")
    assert list(found) == ["series", "label", "p_fast", "p_slow"] and len(found) == 16


def test_ts_files_are_tables_too(here):
    text = (here / "w_TEST.ts").read_text().replace("1,2,3:new", "1,?,3:new")
    (here / "gap.ts").write_text(text)
    run("impute", "gap.ts", "--out", "filled.csv", "--model", "LinearInterpolation")
    found = pd.read_csv("filled.csv")
    assert list(found) == ["unique_id", "ds", "value"]
    assert found["value"].tolist()[-3:] == pytest.approx([1, 2, 3])
    run("detect", "w_TRAIN.ts", "--out", "scores.csv", "--model", "SubPCA", "--season", "3")
    assert list(pd.read_csv("scores.csv")) == ["unique_id", "ds", "value", "score", "anomaly"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("impute nothing.csv", "file 'nothing.csv' not found"),
        ("impute bad.ts", "seqmix: bad.ts, line 1: stands before @data"),
        ("impute sensors.csv --out filled.doc", "--out 'filled.doc' ends in '.doc'"),
        (
            "impute sensors.csv --out ./sensors.csv",
            "--out './sensors.csv' is the file of --data, which it would replace",
        ),
        ("detect holes.csv --train sensors.csv --out sensors.csv", "--out 'sensors.csv' is the file of --train,"),
        ("impute sensors.csv --plot gaps.txt", "--plot 'gaps.txt' ends in '.txt'"),
        ("impute sensors.csv --channels w", "column 'w' not found"),
        ("impute sensors.csv --channels place", "column 'place' holds 'x', which is not a number"),
        ("impute sensors.csv --levels many", "--levels should be percentages separated by commas, got 'many'"),
        ("impute sensors.csv --load kept --levels 80", "--levels is for fitting, and --load takes fitted models"),
        ("impute holes.csv", "Pass --fill_gaps true"),
        ("impute sensors.csv --model Hidra", "did you mean 'Hydra'?"),
        ("detect sensors.csv --label_col place", "--label_col place should hold 1 for anomalies and 0 for other rows"),
        ("detect sensors.csv --label_col v", "--label_col v should hold 1 for anomalies and 0 for other rows"),
        ("detect infinite.csv", "column 'v' holds 'inf', which is not a number; mend it, pass --na, or"),
        ("detect five.csv --train sensors.csv", "none of 5 rows can be scored: DetectorMean looks at windows of up to"),
        ("detect sensors.csv --load nowhere", "no anomaly_detector.json in 'nowhere'"),
        ("detect sensors.csv --quantile 2", "quantile should be above 0 and below 1, got 2"),
        ("classify waves.csv --label_col kind", "column 'kind' not found"),
        ("classify sensors.csv --label_col place", "file 'sensors.csv' holds one series"),
        ("classify w_TRAIN.ts missing.ts", "missing.ts"),
    ],
)
def test_errors_are_one_line_before_training(here, capsys, words, message):
    assert cli.run(words.split()) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("seqmix: ") and said.count("\n") == 1
