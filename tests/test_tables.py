"""Files of real people: separators, decimal signs, dates, encodings, ids and roles of columns, found or told."""

import gzip

import numpy as np
import pandas as pd
import pytest

from seqmix.commands._long_table import find_roles, long_frame, split, with_id_columns
from seqmix.errors import ConfigError, DataError, WriteError
from seqmix.forecasting.cells import Cells
from seqmix.forecasting.tables import OUTPUTS, check_folder, check_output, read_table, write_table

LONG = "id,ds,y\n" + "".join(f"{i},2024-01-{d:02},{d}.5\n" for i in ("007", "NA") for d in range(1, 4))


def read(tmp_path, text, *, sep=None, encoding=None, id_col=None, time_col=None, target_col=None, inputs=(), **written):
    """The long frame of a file with this content, its roles and notes."""
    file = tmp_path / "in.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    table = read_table(str(file), sep=sep, encoding=encoding)
    cells = Cells(**written)
    cells.observe(table.frame, table.sep)
    roles = find_roles(
        table.frame, cells, id_col=id_col, time_col=time_col, target_col=target_col, covariates=split(",".join(inputs))
    )
    frame, notes = long_frame(table.frame, cells, roles, inputs)
    return frame, roles, [*table.notes, *notes]


@pytest.mark.parametrize(
    ("text", "options", "values", "first"),
    [
        ("ds;y\n31.12.2024;1.234,5\n01.01.2025;7\n", {}, [1234.5, 7], "2024-12-31"),
        ("ds\ty\n2024/01/31\t1\n2024/02/01\t2\n", {}, [1, 2], "2024-01-31"),
        ("ds   y\n20240131 1\n20240201  2\n", {"sep": "space"}, [1, 2], "2024-01-31"),
        ("ds|y\n2024-01-31|1\n2024-02-01|2\n", {}, [1, 2], "2024-01-31"),
        ("sep=;\nds;y\n2024-01-31;1\n2024-02-01;2\n", {}, [1, 2], "2024-01-31"),
        ('ds,y\n1/31/2024,"1,234.50"\n2/1/2024,"$2,000.00"\n', {}, [1234.5, 2000], "2024-01-31"),
        ('ds,y\n1/31/2024,"1,234"\n2/1/2024,999\n', {}, [1234, 999], "2024-01-31"),
        ("ds,y\n13/01/2024,12 %\n14/01/2024,-\n", {}, [12, np.nan], "2024-01-13"),
        ("ds,y\n2024Q1,(3)\n2024Q2,1'000\n", {}, [-3, 1000], "2024-01-01"),
        ("ds,y\n20240131,n/a\n20240201,5\n", {}, [np.nan, 5], "2024-01-31"),
        ("ds,y\n202401,-999\n202402,5\n", {"missing": ["-999"]}, [np.nan, 5], "2024-01-01"),
        ("ds;y\n2024-01-01;1.234\n2024-01-02;2\n", {"thousands": "."}, [1234, 2], "2024-01-01"),
        ("ds\tb\ty\n31.12.2024\t1,5\t1.234\n1.1.2025\t2\t985\n", {"target_col": "y"}, [1234, 985], "2024-12-31"),
        ("ds,y\n2024-01-31,1.234\n2024-02-01,12345\n", {}, [1.234, 12345], "2024-01-31"),
        ("ds,y\n2024-01-31,1.234\n2024-02-01,985\n", {"decimal": "."}, [1.234, 985], "2024-01-31"),
        ("ds,y\n01/02/2024,1\n02/02/2024,2\n", {"date_format": "%d/%m/%Y"}, [1, 2], "2024-02-01"),
        ("ds,y\nNov-49,1\nDec-75,2\n", {}, [1, 2], "1949-11-01"),
        ("ds,y\n1704067200,1\n1704070800,2\n", {}, [1, 2], "2024-01-01"),
        ("ds,y\n2024-1-5,1\n2024-10-15,2\n", {}, [1, 2], "2024-01-05"),
        ("year,month,y\n2024,1,1\n2024,12,2\n", {}, [1, 2], "2024-01-01"),
        ("date,time,y\n2024-01-01,00:30,1\n2024-01-01,01:00,2\n", {}, [1, 2], "2024-01-01 00:30"),
        ("date,hour,y\n31.12.2024,23,1\n31.12.2024,24,2\n", {}, [1, 2], "2024-12-31 23:00"),
        ("ds,y\n2024013123,1\n2024020100,2\n", {}, [1, 2], "2024-01-31 23:00"),
        ("Day, Sold units \n2024-01-01 , 1\n2024-01-02, 2 \n", {}, [1, 2], "2024-01-01"),
        ("Datum;y\n31.12.2024;1,5\n01.01.2025;7\nSumme;8,5\n", {}, [1.5, 7], "2024-12-31"),
        ("t,y\n5,1\n6,2\n", {}, [1, 2], 5),
        ("Sales of 2024\n\nds,y\n2024-01-01,1\n2024-01-02,2\nTotal,3\n", {}, [1, 2], "2024-01-01"),
        (",Unnamed: 0,ds,y\n0,0,2024-01-01,1\n1,1,2024-01-02,2\n", {}, [1, 2], "2024-01-01"),
        ("ds,y\r2024-01-01,1\r2024-01-02,2\r", {}, [1, 2], "2024-01-01"),
        ("ds,Größe\n2024-01-01,1\n2024-01-02,2\n".encode("cp1252"), {}, [1, 2], "2024-01-01"),
        ("ds,y\n2024-01-01,1\n2024-01-02,2\n".encode("utf-16"), {}, [1, 2], "2024-01-01"),
        ("\ufeffds,y\n2024-01-01,1\n2024-01-02,2\n", {}, [1, 2], "2024-01-01"),
    ],
)  # fmt: skip
def test_how_a_file_is_written_is_found(tmp_path, text, options, values, first):
    frame, roles, _ = read(tmp_path, text, **options)
    assert frame[roles.time_col].iloc[0] == (first if isinstance(first, int) else pd.Timestamp(first))
    np.testing.assert_array_equal(frame[roles.target_col], values)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("007,2024-01-01,1.5\n007,2024-01-02,2\n", {}, "has no header row: its first line is '007,2024-01-01,1.5'"),
        ("1,2\n2,3\n", {}, "has no header row: its first line is '1,2'"),
        ("a,0,1\na,1,2\n", {}, "has no header row: its first line is 'a,0,1'"),
        ("name,2024-01-01,2024-01-02,2024-01-03\nA,1,2,3\n", {}, "has times in its header row,"),
        ("ds,y,y\n2024-01-01,1,2\n", {}, "has column 'y' more than once; give every column its own name"),
        ("ds,y\n2024-01-01,1\n2024-01-02,2,3\n", {}, "row '2024-01-02,2,3' has 3 fields, the header 2; quote fields"),
        ("ds,y\n", {}, "has a header and no rows"),
        ("", {}, "is empty; give a header row and rows of data"),
        ("ds,,y\n2024-01-01,x,1\n2024-01-02,y,1\n", {}, "column 2 has no name; name it in the header row"),
        ("ds,y\n2024-01-01,1\n2024-01-02,about 2\n", {"target_col": "y"}, "'y' holds 'about 2', which is not a number"),
        ("ds,y\n2024-01-01,x\n2024-01-02,x\n", {}, "'y' holds 'x', which is not a number"),
        ("ds,y\n2024-01-01,\n2024-01-02,\n", {}, "'y' holds no numbers"),
        ("ds;y\n2024-01-01;1,234\n2024-01-02;2\n", {}, "'1,234', which can be read in two ways; pass --decimal ,"),
        ("ds\ty\n31.12.2024\t1.234\n01.01.2025\t985\n", {}, "'1.234', which can be read in two ways; pass --decimal ."),
        ("ds,y\n2024-01-31,1.234\n2024-02-01,985\n", {}, "'1.234', which can be read in two ways; pass --decimal ."),
        ("ds,y\n01/02/2024,1\n02/02/2024,2\n", {}, "pass --date_format '%d/%m/%Y' or '%m/%d/%Y'"),
        ("ds,y\nsoon,1\nlater,2\n", {}, "column 'ds' holds 'soon', which is not a date that is recognized"),
        ("ds,y\n2024-01-01,1\n", {"date_format": "%d.%m.%Y"}, "'2024-01-01', which is not written as '%d.%m.%Y'"),
        ("ds,y\n2024-01-01,1\n", {"encoding": "utf-99"}, "--encoding 'utf-99' is not known; use for example utf-8"),
        ("ds,y\n2024-01-01,1\n", {"sep": "::"}, "--sep '::' is not one character; use one, or \\t, tab, space"),
        ("ds,y\n2024-01-01,1\n", {"decimal": ";"}, "--decimal ';' is not known; use '.' or ','"),
        ("ds,y\n2024-01-01,1\n", {"decimal": ",", "thousands": ","}, "--decimal and --thousands are both ','"),
        (b"PK\x03\x04\x00\x00", {}, "is not text; give a CSV, Excel or parquet file"),
        ("a,b\nx,y\nz,w\n", {}, "no column to take for --time_col among ['a', 'b']; name it"),
        ("ds,y\n2024-01-01,1\n", {"id_col": "shop"}, "column 'shop' not found; columns are ['ds', 'y']"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_with_the_option_that_helps(tmp_path, text, options, message):
    with pytest.raises((DataError, ConfigError)) as error:
        read(tmp_path, text, **options)
    assert message in str(error.value)


def test_ids_are_text(tmp_path):
    frame, roles, _ = read(tmp_path, LONG)
    assert roles.ids == ["id"] and frame["id"].tolist() == ["007"] * 3 + ["NA"] * 3


def test_a_column_is_judged_by_all_its_cells(tmp_path):
    """Codes among numbers, in a column of which a sample would say that it holds numbers."""
    days = pd.date_range("2024-01-01", periods=3000).strftime("%Y-%m-%d")
    for odd, kind in (("007", "text"), ("A1", "text"), ("8", "number"), ("", "number")):
        column = pd.Series(["7"] * 1501 + [odd] + ["7"] * 1498, dtype="str")
        assert Cells().kind(column) == kind
    assert Cells().kind(pd.Series([*days], dtype="str")) == "time"
    assert Cells().kind(pd.Series([""] * 10, dtype="str")) == "empty"
    mixed = pd.Series([1.5, "n/a", None, 2], dtype=object, name="y")
    assert Cells().numbers(mixed).tolist()[::3] == [1.5, 2] and Cells().numbers(mixed).isna().sum() == 2


def test_several_columns_are_one_id_and_come_back(tmp_path):
    days = [f"2024-01-{d:02}" for d in range(1, 5)]
    text = "store,product,day,sold\n" + "".join(f"{s},{p},{d},1\n" for s in ("1", "02") for p in "xy" for d in days)
    for option in (None, "store,product"):
        frame, roles, _ = read(tmp_path, text, id_col=option)
        assert sorted(roles.ids) == ["product", "store"] and len(frame["unique_id"].unique()) == 4
    forecasts = pd.DataFrame({"unique_id": ["02/y", "1/x"], "day": pd.Timestamp("2024-02-01"), "M": [1.0, 2.0]})
    out = with_id_columns(forecasts, pd.read_csv(tmp_path / "in.csv", dtype=str), roles)
    assert out.to_dict("list") == {
        "store": ["02", "1"],
        "product": ["y", "x"],
        "day": [*forecasts["day"]],
        "M": [1.0, 2.0],
    }


def test_joined_ids_are_unique(tmp_path):
    text = "a,b,ds,y\n" + "".join(f"{a},{b},2024-01-0{d},1\n" for a, b in (("x/y", "z"), ("x", "y/z")) for d in (1, 2))
    with pytest.raises(DataError, match="ids of a, b joined by '/' are not unique; write '/' in them otherwise"):
        read(tmp_path, text, id_col="a,b")


def test_wide_tables_keep_their_covariates(tmp_path):
    frame, roles, _ = read(tmp_path, "date,1,2,promo\n2024-01-01,5,6,0\n2024-01-02,7,8,1\n", inputs=["promo"])
    assert roles.series == ["1", "2"]
    assert frame.drop(columns="ds").values.tolist() == [["1", 5, 0], ["1", 7, 1], ["2", 6, 0], ["2", 8, 1]]


def test_what_was_left_out_is_said(tmp_path):
    text = "Report\nds,y\n2024-01-01,1\n2024-01-02,2\nTotal,3\nSource: us,\n".encode("ascii")
    assert read(tmp_path, text)[2] == [
        "1 line above the header ignored, first: 'Report'",
        "2 lines at the end without a time ignored, first: 'Total 3'",
    ]
    assert "read as Windows-1252" in read(tmp_path, text.replace(b"us", b"\xe4"))[2][0]


def test_files_of_every_kind(tmp_path):
    frame = pd.DataFrame({"id": ["7", "7"], "ds": pd.to_datetime(["2024-01-01", "2024-01-02"]), "y": [1.0, 2.0]})
    with gzip.open(tmp_path / "in.csv.gz", "wt") as file:
        frame.to_csv(file, index=False)
    assert read_table(str(tmp_path / "in.csv.gz")).frame["y"].tolist() == ["1.0", "2.0"]
    for ending in OUTPUTS:
        if ending == ".xlsx":
            pytest.importorskip("openpyxl")
        file = tmp_path / f"out{ending}"
        check_output("out", str(file), OUTPUTS)
        write_table(frame, file)
        assert read_table(str(file)).frame["y"].astype(float).tolist() == [1.0, 2.0]
        assert not file.with_name(f"{file.name}.part").exists()


def test_index_levels_with_names_are_columns(tmp_path):
    file = tmp_path / "in.parquet"
    pd.DataFrame({"unique_id": ["007"], "ds": [pd.Timestamp("2024-01-01")], "y": [1.0]}).set_index("ds").to_parquet(
        file
    )
    assert set(read_table(str(file)).frame) == {"unique_id", "ds", "y"}


def test_outputs_are_checked_before_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path, message in (
        (".", r"--out '\.' is a folder; give a file, for example 'forecast.csv'"),
        ("x.txt", r"--out 'x.txt' ends in '\.txt'; use one of \.csv, \.tsv, \.parquet, \.xlsx"),
        (str(tmp_path / "file" / "x.csv"), "cannot be written"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_output("out", path, OUTPUTS)
    with pytest.raises(ConfigError, match=r"--save .* is not a folder to write to"):
        check_folder("save", str(tmp_path / "file"))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(WriteError, match=r"x\.csv' cannot be written: the disk is full; make room, or choose another"):
        write_table(pd.DataFrame({"y": [1]}), tmp_path / "x.csv")
    with pytest.raises(DataError, match="is a folder; give one CSV, Excel or parquet file"):
        read_table(str(tmp_path))
