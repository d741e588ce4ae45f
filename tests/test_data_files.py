"""A user's own CSV: what is read, and every complaint word for word."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from seqmix.data import WideCSV
from seqmix.errors import ConfigError, DataError

ROWS = 40


def _lines(rows=ROWS, freq="h"):
    times = np.datetime64("2024-02-28T00", freq) + np.arange(rows)
    dates = np.datetime_as_string(times).tolist()
    return ["date,a,b", *(f"{date.replace('T', ' ')},{i},{i / 4}" for i, date in enumerate(dates))]


def _write(folder, lines, name="mine.csv"):
    path = folder / name
    text = lines if isinstance(lines, bytes) else ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return str(path)


@pytest.mark.parametrize("name", ["mine.csv", "mine.csv.gz"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n\n"])
def test_wide_csv_is_split_and_scaled_by_training_rows(tmp_path, name, ending):
    text = "\n".join(_lines()).replace("\n", ending.strip("\n") + "\n") + ending
    path = _write(tmp_path, b"\xef\xbb\xbf" + text.encode(), name)
    data = WideCSV(path, 4, 2, 8)
    assert (data.n_channels, data.season, data.name) == (2, 24, name)
    assert data.window_counts == {"train": 28 - 5, "val": 4 - 1, "test": 8 - 1}
    assert torch.allclose(data.mean, torch.tensor([13.5, 13.5 / 4]))
    assert torch.allclose(data.std, torch.tensor([1, 0.25]) * np.arange(28).std())
    test = next(iter(data.test_dataloader()))
    assert torch.allclose(test["x"][0] * data.std + data.mean, torch.tensor([[i, i / 4] for i in range(28, 32)]))
    assert torch.allclose(test["y"][-1, :, 0] * data.std[0] + data.mean[0], torch.tensor([38.0, 39.0]))


def test_wide_csv_takes_the_columns_asked_for(tmp_path):
    lines = [f"{line},text,{i}" for i, line in enumerate(_lines())]
    lines[0] = "date,a,b,note,stamp"
    data = WideCSV(_write(tmp_path, lines), 4, 2, columns=["b", "a"], time_col="stamp", season=3)
    x = next(iter(data.test_dataloader()))["x"] * data.std + data.mean
    assert (data.n_channels, data.season) == (2, 3)
    assert torch.allclose(x[0, 0], torch.tensor([28 / 4, 28.0]))
    with pytest.raises(
        ConfigError, match=r"^mine.csv has no dates, or rows that are years apart; leave out calendar=Tr"
    ):
        WideCSV(_write(tmp_path, lines), 4, 2, columns=["a"], time_col="stamp", calendar=True)


@pytest.mark.parametrize(
    ("freq", "season", "n_future"), [("m", 1440, 5), ("h", 24, 4), ("D", 7, 3), ("W", 52, 2), ("M", 12, 1)]
)
def test_season_and_calendar_follow_the_step(tmp_path, freq, season, n_future):
    data = WideCSV(_write(tmp_path, _lines(60, freq)), 4, 2, calendar=True)
    data.setup()
    assert (data.season, data.series.n_future) == (season, n_future)
    batch = next(iter(data.train_dataloader()))
    assert batch["future"].shape == (32, 6, n_future) and batch["future"].abs().max() <= 0.5


def test_changing_test_rows_does_not_change_the_scale(tmp_path):
    lines = _lines()
    before = WideCSV(_write(tmp_path, lines), 4, 2)
    before.setup()
    lines[30:] = [line.replace(",", ",9", 1) for line in lines[30:]]
    after = WideCSV(_write(tmp_path, lines), 4, 2)
    after.setup()
    assert torch.equal(before.mean, after.mean) and torch.equal(before.std, after.std)
    batches = [next(iter(data.test_dataloader())) for data in (before, after)]
    assert not torch.equal(batches[0]["y"], batches[1]["y"])


def test_a_constant_channel_is_centered_and_not_blown_up(tmp_path):
    lines = [",".join([line.split(",")[0], "0.1", str(i)]) for i, line in enumerate(_lines())]
    lines[0] = "date,a,b"
    data = WideCSV(_write(tmp_path, lines), 4, 2)
    x = next(iter(data.test_dataloader()))["x"]
    assert data.std[0] == 1 and x[..., 0].abs().max() < 1e-6


def test_unscaled_data_is_as_in_the_file(tmp_path):
    data = WideCSV(_write(tmp_path, _lines()), 4, 2, scale=False)
    assert next(iter(data.test_dataloader()))["x"][0, :, 0].tolist() == [28, 29, 30, 31]


FILL = "fill or remove it (1 of the 40 cells read are not finite numbers)"
CORRECT = "correct it, or leave the column out with data.columns (1 of the 40 cells read are no numbers)"
REWRITE = "write it like the others, or set data.time_format"
NAME = "name it, or remove the commas at the end of the lines"
QUOTE = "remove it, or quote the cell"
ADD = "add the missing rows, or set data.allow_gaps to let windows run across"

# line, what it becomes, message
BAD_CSV = {
    "empty cell": (4, "2024-02-28 03,,0.5", f", line 4, column 'a': missing value ''; {FILL}"),
    "nan": (4, "2024-02-28 03,1,NaN", f", line 4, column 'b': missing value 'NaN'; {FILL}"),
    "inf": (40, "2024-02-29 14,1,-inf", f", line 40, column 'b': infinite value '-inf'; {FILL}"),
    "text": (41, "2024-02-29 15,low,2", f", line 41, column 'a': text 'low' in place of a number; {CORRECT}"),
    "short row": (7, "2024-02-28 05,1", f", line 7, column 'b': missing value ''; {FILL}"),
    "long row": (
        7,
        "2024-02-28 05,1,2,3",
        ", line 7: has 4 fields, the header has 3; separate fields by single commas",
    ),
    "empty row": (7, "", f", line 7, column 'a': missing value ''; {FILL}"),
    "date": (9, "2024-02-30 07,1,2", f", line 9, column 'date': '2024-02-30 07' is not a date; {REWRITE}"),
    "no date": (9, ",1,2", f", line 9, column 'date': '' is not a date; {REWRITE}"),
    "repeated": (
        9,
        "2024-02-28 06,1,2",
        ", line 9, column 'date': 2024-02-28 06:00:00 stands in line 8 already; keep one row per time",
    ),
    "unsorted": (
        9,
        "2024-02-27 06,1,2",
        ", line 9, column 'date': 2024-02-27 06:00:00 comes after 2024-02-28 06:00:00; sort the file by time",
    ),
    "gap": (
        41,
        "2024-03-01 15,1,2",
        f", line 41, column 'date': gap between 2024-02-29 14:00:00 and 2024-03-01 15:00:00 (1 in all); {ADD}",
    ),
    "repeated name": (1, "date,a,a", ", line 1: has ['a'] more than once; give every column its own name"),
    "unnamed": (1, "date,,b", f", line 1: has no name for column 2; {NAME}"),
    "comma at the end": (1, "date,a,b,", f", line 1: has no name for column 4; {NAME}"),
    "carriage return": (7, "2024-02-28 05,1\r,2", f", line 7: has a carriage return inside a row; {QUOTE}"),
    "long cell": (
        5,
        f"2024-02-28 03,{'x' * 200_000},2",
        f", line 5, column 'a': text '{'x' * 60}...' in place of a number; {CORRECT}",
    ),
    "below a quoted line end": (
        9,
        '2024-02-28 07,"1\n",2\n2024-02-28 07,1,2',
        ", line 11, column 'date': 2024-02-28 07:00:00 stands in line 9 already; keep one row per time",
    ),
    "empty first line": (1, "\ndate,a,b", ", line 1: is empty; begin the file with the names of the columns"),
    "semicolons": (
        1,
        "date;a;b",
        ": has no channel beside 'date;a;b'; give a time column and at least one column of numbers",
    ),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_rows_are_named(tmp_path, case):
    line, text, message = BAD_CSV[case]
    lines = _lines()
    lines[line - 1] = text
    with pytest.raises(DataError) as error:
        WideCSV(_write(tmp_path, lines), 4, 2).setup()
    assert str(error.value) == f"mine.csv{message}"


def test_times_without_a_name_and_one_column_by_name(tmp_path):
    lines = _lines()
    lines[0] = ",a,b"
    data = WideCSV(_write(tmp_path, lines), 4, 2, columns="a")
    data.setup()
    assert data.n_channels == 1


def test_gaps_are_accepted_on_demand(tmp_path):
    lines = _lines()
    del lines[20]
    data = WideCSV(_write(tmp_path, lines), 4, 2, allow_gaps=True)
    assert sum(data.window_counts.values()) == 27 - 5 + 5 - 1 + 7 - 1


BAD_FILES = {
    "empty": (b"", ": is empty; give a header and rows of data"),
    "header only": (b"date,a\n", ": has 0 rows of data; give a header and at least two rows"),
    "latin": (b"date,a\n2024,1\n2025,\xb52\n", ", line 3: is not UTF-8 (byte 0xb5); save it as UTF-8"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named(tmp_path, case):
    content, message = BAD_FILES[case]
    with pytest.raises(DataError) as error:
        WideCSV(_write(tmp_path, content), 4, 2)
    assert str(error.value) == f"mine.csv{message}"


def test_too_few_rows(tmp_path):
    with pytest.raises(DataError) as error:
        WideCSV(_write(tmp_path, _lines()), 24, 5).setup()
    assert str(error.value) == (
        "mine.csv has 28 / 4 / 8 rows for training / validation / test, context 24 and horizon 5 need at least "
        "29 / 5 / 5; use a longer series, or a smaller context or horizon"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["a", "B"]}, "mine.csv: has no column 'B'; it has date, a, b"),
        ({"time_col": "dates"}, "mine.csv: has no column 'dates'; did you mean 'date'? it has date, a, b"),
        (
            {"columns": []},
            "mine.csv: has no channel beside 'date'; give a time column and at least one column of numbers",
        ),
        (
            {"split": (0.7, 0.1, 0.1)},
            "split must be three positive shares that add up to 1, got (0.7, 0.1, 0.1); try (0.7, 0.1, 0.2)",
        ),
        ({"seed": -1}, "seed must not be negative, got -1; set data.seed to 0 or more"),
        ({"stride": 0}, "stride must be at least 1, got 0; set data.stride to a positive number"),
        (
            {"eval_batch_size": 0},
            "eval_batch_size must be at least 1, got 0; set data.eval_batch_size to a positive number",
        ),
        ({"columns": ["a", "a"]}, "columns = ['a', 'a'] holds a name twice; name every column once"),
        (
            {"time_format": "%Q"},
            "time_format = '%Q' is not known ('Q' is a bad directive in format '%Q'); use for example '%d.%m.%Y'",
        ),
        ({"time_format": "%d/%m/%Y"}, f"mine.csv, line 2, column 'date': '2024-02-28 00' is not a date; {REWRITE}"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises((DataError, ConfigError)) as error:
        WideCSV(_write(tmp_path, _lines()), 4, 2, **options)
    assert str(error.value) == message


@pytest.mark.parametrize("damage", ["truncated", "flipped", "plain"])
def test_damaged_gzip(tmp_path, damage):
    # incompressible, so that half a file still holds a header
    noise = np.random.default_rng(0).random(2000)
    lines = ["step,a", *(f"{i},{x}" for i, x in enumerate(noise))]
    path = Path(_write(tmp_path, lines, "mine.csv.gz"))
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-2000], "flipped": whole[:-6] + b"xxxxxx", "plain": b"step,a\n"}[damage])
    with pytest.raises(DataError, match=r"^mine.csv.gz in .* is truncated or no gzip file \(.+\); get a whole copy$"):
        WideCSV(str(path), 4, 2).setup()


def test_file_that_is_not_there_or_is_a_folder(tmp_path):
    with pytest.raises(DataError) as error:
        WideCSV(str(tmp_path / "mine.csv"), 4, 2)
    assert str(error.value) == f"mine.csv not found in {tmp_path}; check the path"
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\); check path and permissions$"):
        WideCSV(str(tmp_path), 4, 2)


@pytest.mark.parametrize(
    ("dates", "time_format", "second"),
    [
        (["1/2/2024", "2/2/2024", "3/2/2024"], "%d/%m/%Y", "2024-02-02"),
        (["20240101", "20240102", "20240103"], "%Y%m%d", "2024-01-02"),
        (["2024-01-01T00:00+01:00", "2024-01-01T01:00+01:00", "2024-01-01T02:00+01:00"], None, "2024-01-01"),
        (["2024-01-01", "2024-01-01 12:00", "2024-01-02"], None, "2024-01-01 12:00"),
    ],
)
def test_ways_to_write_a_date(tmp_path, dates, time_format, second):
    path = _write(tmp_path, ["date,a", *(f"{date},1" for date in dates)])
    data = WideCSV(path, 1, 1, time_format=time_format)
    times = data._load().times
    assert times[1] == np.datetime64(second)
