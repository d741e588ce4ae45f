"""Frames in: what is accepted, what comes out as it went in, and the message for everything that is wrong."""

import datetime
import json
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from seqmix import check_frame, long_from_wide
from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.clock import Clock, infer_freq
from seqmix.forecasting.covariates import encode, learn
from seqmix.forecasting.frame import Reading, read_frame, stamped
from seqmix.forecasting.kind import Kind, dtype_name, dtype_of
from seqmix.forecasting.long import channels, head


def panel(ids=("a", "b"), n=100):
    """Daily series, a phase apart."""
    t = np.arange(n)
    days = pd.date_range("2024-01-01", periods=n)
    parts = [pd.DataFrame({"unique_id": i, "ds": days, "y": np.sin(t / 3) + k}) for k, i in enumerate(ids)]
    return pd.concat(parts, ignore_index=True)


def read(df, **options):
    return read_frame(df, Reading(**options))


def changed(column, row, value):
    df = panel()
    df[column] = df[column].astype(object) if isinstance(value, str) else df[column]
    df.loc[row, column] = value
    return df


WIDE = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=50), "OT": 1.0, "HUFL": 2.0})
GAP = panel().drop(index=[50, 51, 52])
TEXT = panel().assign(ds=lambda df: df["ds"].dt.strftime("%Y-%m-%d"))


@pytest.mark.parametrize(
    ("df", "options", "message"),
    [
        (
            panel().rename(columns={"y": "value"}),
            {},
            "column 'y' not found; columns are ['unique_id', 'ds', 'value']; did you mean target_col='value'?",
        ),
        (
            panel().rename(columns={"ds": "day"}),
            {},
            "column 'ds' not found; columns are ['unique_id', 'day', 'y']; did you mean time_col='day'?",
        ),
        (
            WIDE,
            {},
            "column 'ds' not found; this looks like a wide frame, with times in 'date' and 2 series beside it. "
            "Use seqmix.long_from_wide(df, time_col='date')",
        ),
        (
            TEXT.assign(ds=TEXT["ds"].where(TEXT.index != 7, "7 Jan 2024")),
            {},
            "column 'ds' holds text that is no ISO date, first '7 Jan 2024' in row 7; "
            "convert it with pd.to_datetime(df['ds'], format=...)",
        ),
        (panel().assign(ds=0.5), {}, "column 'ds' holds float64, not times; give dates, ISO text or integers"),
        (
            changed("ds", [4, 9], pd.NaT),
            {},
            "column 'ds' has 2 missing times, first in row 4; drop those rows",
        ),
        (
            changed("unique_id", 3, None),
            {},
            "column 'unique_id' has 1 row without an id; name or drop them",
        ),
        (
            changed("y", [3, 4, 150], np.nan),
            {"missing": "error"},
            "3 missing values in 'y' of 2 of 2 series: 'a' 2, 'b' 1. Use missing='mask' to leave them out, or 'ffill'",
        ),
        (
            changed("y", 5, np.inf),
            {},
            "1 infinite value in 'y' (id 'a', 2024-01-06); make them numbers, or NaN for missing",
        ),
        (
            GAP,
            {},
            "1 of 2 series has gaps at freq 'D': 'a' 3 missing (2024-02-20..2024-02-22). Pass fill_gaps=True",
        ),
        (
            GAP[GAP["ds"] != "2024-01-06"],
            {"freq": "D"},
            "2 of 2 series have gaps at freq 'D': 'a' 4 missing (first 2024-01-06). Pass fill_gaps=True",
        ),
        (
            pd.concat([panel(), panel().iloc[[10]]]),
            {},
            "1 duplicate time stamp, first: id 'a' at 2024-01-11; merge them, for example "
            "df.groupby(['unique_id', 'ds'], as_index=False, sort=False).mean()",
        ),
        (panel(), {"freq": "h"}, "freq='h' but the median step is 1 day; pass the freq of the data, or None"),
        (
            panel(),
            {"freq": "W"},
            "freq='W' but the median step is 1 day; pass the freq of the data, or None, or resample the rows with "
            "aggregate='sum'",
        ),
        (
            changed("ds", 99, pd.Timestamp("2024-04-09 05:30")),
            {"freq": "D"},
            "1 time stamps are off the grid of freq 'D', first: id 'a' at 2024-04-09 05:30; "
            "pass another freq, or resample the frame",
        ),
        (
            panel().iloc[:40].assign(ds=pd.date_range("2024-01-01", periods=40, freq="MS") + pd.Timedelta(days=14)),
            {},
            "16 time stamps are off the grid of freq '31D', first: id 'a' at 2024-03-15; "
            "for one row in each period, whatever its day, give the periods, as by df['ds'].dt.to_period('M')",
        ),
        (panel().iloc[:0], {}, "frame has 0 rows; give at least one row for each series"),
        (
            panel().iloc[[0, 100]],
            {},
            "the frequency cannot be seen in 'ds': no series has two different times; pass freq='D'",
        ),
        (
            changed("y", 3, "x"),
            {},
            "column 'y' should hold numbers, got object, first 'x' in row 3; convert it with pd.to_numeric(df['y'])",
        ),
        (
            panel().assign(w=-1.0),
            {"weight_col": "w"},
            "column 'w' holds weights below 0 or missing; give a number from 0 up in every row",
        ),
        (
            panel(),
            {"past": ["price"]},
            "column 'price' not found; columns are ['unique_id', 'ds', 'y']; add it, or leave it out of the covariates",
        ),
        (
            panel(),
            {"future": ["y"]},
            "column 'y' is the target; leave it out of the covariates",
        ),
        (
            panel().assign(y=1j),
            {},
            "column 'y' should hold numbers, got complex128, first np.complex128(1j) in row 0; convert it with "
            "pd.to_numeric(df['y'])",
        ),
        (
            panel().assign(unique_id=[["a"]] * 200),
            {},
            "column 'unique_id' holds list, not ids; give texts",
        ),
        (
            panel().assign(ds=pd.Series([1, "2024-01-01"] * 100, dtype=object)),
            {},
            "column 'ds' mixes texts, numbers or dates; convert it with pd.to_datetime",
        ),
        (
            panel().assign(w=0.0),
            {"weight_col": "w"},
            "column 'w' holds no weight above 0; leave weight_col out to train on every row",
        ),
        (
            pd.concat([panel(), panel()[["y"]]], axis=1),
            {},
            "column 'y' is there 2 times; rename or drop one of them",
        ),
        (
            panel(["a"]).set_index("ds").rename_axis(None),
            {},
            "column 'ds' not found; the times are in the index, use df.reset_index(names='ds')",
        ),
        (
            panel().set_index("unique_id").rename_axis(None),
            {},
            "column 'unique_id' not found, and the index holds text such as 'a'; if these are ids, use "
            "df.reset_index(names='unique_id')",
        ),
        (
            panel().drop(columns="unique_id"),
            {},
            "100 duplicate time stamps, first: 2024-01-01, and no column 'unique_id'; name the column of the series "
            "with id_col=..., or merge the rows",
        ),
        (
            panel(["a"])["y"],
            {},
            "df is a Series; make a DataFrame of it, for example df.rename('y').rename_axis('ds').reset_index()",
        ),
        (
            panel().assign(ds=panel()["ds"].dt.strftime("%Y%m%d").astype(int)),
            {},
            "column 'ds' holds integers that are dates, first 20240101; convert it with "
            "pd.to_datetime(df['ds'].astype(str), format='%Y%m%d')",
        ),
        (
            panel().assign(ds=[*range(202401, 202413), *range(202501, 202513)] * 8 + [202401] * 8),
            {},
            "column 'ds' holds integers that are dates, first 202401; convert it with "
            "pd.to_datetime(df['ds'].astype(str), format='%Y%m')",
        ),
        (
            panel().assign(ds=panel()["ds"].dt.strftime("%Y%m%d05").astype(int)),
            {},
            "column 'ds' holds integers that are dates, first 2024010105; convert it with "
            "pd.to_datetime(df['ds'].astype(str), format='%Y%m%d%H')",
        ),
        (
            panel().assign(ds=np.datetime64("1500-01-01", "s")),
            {},
            "column 'ds' holds dates outside 1678 to 2261, first 1500-01-01 in row 0; correct them, or count time in "
            "integers",
        ),
        (
            panel().set_axis(pd.MultiIndex.from_product([["a"], ["unique_id", "ds", "y"]]), axis=1),
            {},
            "df has several levels of column names; use df.columns = ['_'.join(c) for c in df]",
        ),
        (
            [1, 2],
            {},
            "df should be a DataFrame of pandas or polars, or the path of a parquet folder, got list; "
            "use pd.DataFrame(...)",
        ),
    ],
)
def test_what_is_wrong_is_said(df, options, message):
    before = df.copy()
    with pytest.raises(DataError) as error:
        read(df, **options)
    assert str(error.value) == message
    if isinstance(df, pd.DataFrame):
        pd.testing.assert_frame_equal(df, before)


@pytest.mark.parametrize(
    ("freq", "message"),
    [
        ("2M", "freq = '2M' is not known to pandas; did you mean '2ME'?"),
        ("Monthly", "freq = 'Monthly' is not known to pandas; did you mean 'MS'?"),
        ("foo", "freq = 'foo' is not known to pandas; use for example 'h', '15min', 'D', 'B', 'W', 'MS'"),
        (1, "freq = 1 does not go with a time column of dates; use for example freq='D'"),
    ],
)
def test_frequencies_that_cannot_be(freq, message):
    with pytest.raises(ConfigError) as error:
        read(panel(), freq=freq)
    assert str(error.value) == message


def test_index_levels_that_are_named_are_columns():
    df = panel()
    for indexed in (df.set_index("unique_id"), df.set_index(["unique_id", "ds"]), df.set_index("ds")):
        long = read(indexed)
        assert long.ids.tolist() == ["a", "b"] and np.array_equal(long.y, df["y"])


@pytest.mark.parametrize(
    "values",
    [
        [1.5, None, 3.0],
        [Decimal("1.5"), None, Decimal(3)],
        [1.5, pd.NA, 3],
        pd.array([1.5, None, 3], "Float64"),
        pd.Categorical([1.5, None, 3]),
    ],
)
def test_objects_that_are_numbers_are_read(values):
    df = pd.DataFrame({"ds": range(3), "y": pd.Series(values, dtype=getattr(values, "dtype", object))})
    assert read(df).y.tolist()[::2] == [1.5, 3] and np.isnan(read(df).y[1])


def test_periods_and_dates_without_times_come_back():
    days = pd.date_range("2024-01-01", periods=20, freq="MS")
    for column in (days.to_period("M"), pd.Categorical(days.strftime("%Y-%m-%d"))):
        long = read(pd.DataFrame({"ds": column, "y": 1.0}))
        ahead = long.clock.column(long.clock.after(long.last, np.arange(1, 3)))
        assert long.clock.freq == "MS" and ahead.astype(str).tolist()[0].startswith("2025-09")
    assert read(pd.DataFrame({"ds": days.to_period("M"), "y": 1.0})).clock.dtype == "period[M]"


def test_results_come_back_as_frames_went_in():
    polars = pytest.importorskip("polars")
    df = panel()
    dates = polars.from_pandas(df).with_columns(polars.col("ds").cast(polars.Date))
    named = dates.with_columns(polars.col("unique_id").cast(polars.Enum(["a", "b"])))
    zoned = named.with_columns(polars.col("ds").cast(polars.Datetime("ms")).dt.replace_time_zone("Europe/Berlin"))
    for frame in (dates, named, zoned, dates.to_arrow()):
        long = read(frame)
        saved = Kind(*json.loads(json.dumps(long.kind)))
        result = stamped(Reading(), long.clock, long.ids, long.last, 3)
        out = saved.give(result.assign(cutoff=result["ds"]))
        assert type(out) is type(frame)
        columns = [polars.DataFrame(x).schema for x in (out, frame)]
        assert [columns[0][c] for c in ("unique_id", "ds", "cutoff")] == [
            columns[1][c] for c in ("unique_id", "ds", "ds")
        ]
    category = df.astype({"unique_id": "category"})
    assert read(category).kind.give(category.head(1))["unique_id"].dtype == "category"


@pytest.mark.parametrize("text", ["string", "int64", "date32[day]", "timestamp[ms]", "timestamp[us, tz=UTC]"])
def test_types_of_arrow_are_named_and_read_again(text):
    pyarrow = pytest.importorskip("pyarrow")
    named = dtype_name(dtype_of(f"arrow:{text}"))
    assert named == f"arrow:{text}" and isinstance(dtype_of(named), pd.ArrowDtype) and pyarrow
    assert dtype_of(dtype_name(np.dtype("int32"))) == np.dtype("int32")


def test_order_does_not_matter_but_that_of_the_ids():
    long = read(panel(("z", "a")))
    mixed = panel(("z", "a")).sample(frac=1, random_state=0)
    other = read(mixed)
    assert long.ids.tolist() == ["z", "a"]
    assert other.ids.tolist() == mixed["unique_id"].unique().tolist()
    twin = channels(other, long.ids)
    assert np.array_equal(twin.y, long.y) and np.array_equal(twin.first, long.first)
    assert twin.columns.shape == (200, 0) and np.array_equal(twin.indptr, [0, 100, 200])


def test_gaps_become_missing_values():
    whole, long = read(panel()), read(GAP.assign(k=0.5), fill_gaps=True, past=["k"], weight_col="k")
    assert np.flatnonzero(np.isnan(long.y)).tolist() == [50, 51, 52]
    kept = ~np.isnan(long.y)
    assert np.array_equal(long.y[kept], whole.y[kept]) and np.array_equal(long.indptr, whole.indptr)
    assert long.weight[[49, 50, 53]].tolist() == [0.5, 0, 0.5] and long.columns["k"].isna().sum() == 3
    assert np.array_equal(read(GAP, fill_gaps=True, missing="ffill").y[50:53], whole.y[[49] * 3])


def test_gaps_are_filled_with_a_value():
    long = read(GAP.assign(k=2.5), fill_gaps=True, fill_value=0, weight_col="k")
    assert long.y[50:53].tolist() == [0, 0, 0] and set(long.weight) == {2.5}
    # values beside the gap stay as they are, whatever the type of the fill
    assert np.array_equal(np.delete(long.y, [50, 51, 52]), GAP["y"])


def test_rows_finer_than_the_frequency_are_aggregated():
    long = read(panel(), freq="W", aggregate="mean")
    assert np.diff(long.indptr).tolist() == [14, 14] and long.clock.freq == "W"
    assert long.y[0] == pytest.approx(np.sin(np.arange(7) / 3).mean())


def test_ffill_stays_inside_a_series():
    df = changed("y", [99, 100], np.nan)
    long = read(df, missing="ffill")
    assert long.y[99] == df["y"][98] and np.isnan(long.y[100])


def test_head_is_the_beginning_of_each_series():
    df = panel().assign(k=range(200))
    long = head(read(df, past=["k"]), np.array([3, 98]))
    assert long.indptr.tolist() == [0, 3, 101] and long.columns["k"].tolist() == [0, 1, 2, *range(100, 198)]
    assert np.array_equal(long.y, df["y"][[0, 1, 2, *range(100, 198)]])


@pytest.mark.parametrize(
    "freq", ["15min", "h", "D", "2D", "B", "W-SUN", "MS", "ME", "2MS", "2QS-JAN", "YS-JAN", 1, 5, 3600]
)
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_frequencies_are_seen_and_go_on(freq, zone):
    """Inferred from 100 stamps with a hole; the next three are those of pandas, across changes of the clocks."""
    if isinstance(freq, int):
        every, zone = pd.Series(range(7, 7 + 200 * freq, freq), dtype="int32"), None
    else:
        every = pd.Series(pd.date_range("2023-01-01", periods=200, freq=freq, tz=zone))
    times = every.iloc[:100].drop(index=[50, 51])
    found = infer_freq(times, np.array([0, 98]), "ds")
    clock = Clock(found, times.dtype)
    assert found == freq
    stamps = clock.stamps(times)
    steps, whole = clock.steps(stamps)
    assert steps.tolist() == [1] * 49 + [3] + [1] * 47 and whole.all()
    ahead = clock.column(clock.after(stamps[-1:], np.arange(1, 101)))
    assert ahead.dtype == times.dtype and ahead.tolist() == every.iloc[100:].tolist()


@pytest.mark.parametrize(
    ("freqs", "season"),
    [
        (("30s",), 120), (("1min",), 1440), (("5min",), 288), (("10min",), 144), (("90min",), 16), (("h",), 24),
        (("2h",), 12), (("6h",), 4), (("12h",), 2), (("7h", "7min", "100ms", "2D", "2B", "15D", "YS", 1, 3600), 1),
        (("D", "24h"), 7), (("B", "C"), 5), (("bh",), 8), (("2bh",), 4), (("3bh",), 1), (("W", "7D"), 52),
        (("2W", "14D", "2W-TUE"), 26), (("4W",), 13), (("3W",), 1), (("SMS", "SME"), 24),
        (("MS", "ME", "BMS", "BME"), 12), (("2MS",), 6), (("4MS",), 3), (("6MS", "2QS"), 2), (("5MS",), 1),
        (("QS", "QE", "BQS", "3MS"), 4), (("HYE",), 2),
    ],
)  # fmt: skip
def test_season_is_that_of_the_base_frequency_divided(freqs, season):
    for freq in freqs:
        clock = Clock(freq, np.dtype("int64" if isinstance(freq, int) else "datetime64[ns]"))
        assert (freq, clock.season) == (freq, season)


def test_integer_time_of_any_step():
    t = np.arange(0, 160, 2)
    long = read(pd.DataFrame({"ds": t, "y": np.sin(t)}))
    assert long.clock.freq == 2 and long.clock.after(long.last, np.arange(1, 3)).tolist() == [160, 162]
    seconds = 1_704_067_200 + 3600 * np.delete(np.arange(50), 7)
    with pytest.raises(DataError, match=r"gaps at freq 3600: 'y' 1 missing \(1704092400\)"):
        read(pd.DataFrame({"ds": seconds, "y": 1.0}))
    assert len(read(pd.DataFrame({"ds": seconds, "y": 1.0}), fill_gaps=True).y) == 50
    with pytest.raises(DataError, match="freq=1 but the median step is 2; pass the freq of the data"):
        read(pd.DataFrame({"ds": t, "y": 1.0}), freq=1)


def test_integers_of_few_bits_do_not_begin_again():
    long = read(pd.DataFrame({"ds": np.arange(236, 256, dtype="uint8"), "y": 1.0}))
    assert long.clock.column(long.clock.after(long.last, np.arange(1, 3))).tolist() == [256, 257]
    assert read(pd.DataFrame({"ds": pd.Series(range(20), dtype=object), "y": 1.0})).clock.freq == 1


@pytest.mark.parametrize("freq", [pd.offsets.Day(), pd.Timedelta(days=1), datetime.timedelta(days=1)])
def test_a_frequency_may_be_an_offset_or_a_timedelta(freq):
    clock = Clock(freq, np.dtype("datetime64[ns]"))
    assert clock.freq in ("D", "24h") and clock.season == 7


def test_series_of_two_months_may_begin_in_odd_and_even_ones():
    ends = [pd.date_range(start, periods=20, freq="2MS") for start in ("2020-01-01", "2020-02-01")]
    long = read(pd.concat([pd.DataFrame({"unique_id": k, "ds": ds, "y": 1.0}) for k, ds in enumerate(ends)]))
    assert long.clock.freq == "2MS" and long.clock.column(long.last).tolist() == [ds[-1] for ds in ends]


def test_check_frame_counts_what_fit_would_meet(capsys):
    df = changed("y", [3, 4, 150], np.nan).drop(index=[50, 51, 52]).assign(k=1)
    df.loc[df["unique_id"] == "b", "y"] = 4.0
    report = check_frame(df)
    assert report.gaps == {"a": 3} and report.missing == {"a": 2} and report.constant == ["b"]
    assert (report.series, report.rows, report.freq, report.longest, report.others) == (2, 197, "D", 100, ["k"])
    assert "3 steps left out" in repr(report) and "a 2" in repr(report) and "constant      1 series" in repr(report)
    with pytest.raises(DataError, match="duplicate"):
        check_frame(pd.concat([panel(), panel()]))


def test_check_frame_looks_at_covariates_as_fit_does():
    df = panel().assign(price=[None, *range(199)], size="big")
    report = check_frame(df, past_covariates="price", static_covariates=["size"])
    assert report.incomplete == {"price": 1} and report.others == []
    for names, message in (
        ({"future_covariates": ["promo"]}, "column 'promo' not found"),
        ({"static_covariates": ["price"]}, "static column 'price' changes within 2 series"),
        ({"past_covariates": ["bad"]}, "column 'bad' holds infinite values"),
        ({"weight_col": "zero"}, "column 'zero' holds no weight above 0"),
    ):
        with pytest.raises(DataError, match=message):
            check_frame(df.assign(bad=np.inf, zero=0.0), **names)


def test_long_from_wide_keeps_the_order_of_columns():
    long = long_from_wide(WIDE)
    assert long.columns.tolist() == ["unique_id", "ds", "y"] and read(long).ids.tolist() == ["OT", "HUFL"]
    assert long["y"].tolist() == [1.0] * 50 + [2.0] * 50
    polars = pytest.importorskip("polars")
    dates = polars.from_pandas(WIDE).with_columns(polars.col("date").cast(polars.Date))
    assert long_from_wide(dates).schema["ds"] == polars.Date
    with pytest.raises(DataError, match=r"column 'day' not found; df has \['date', 'OT', 'HUFL'\]"):
        long_from_wide(WIDE, "day")


def test_covariates_become_numbers():
    columns = pd.DataFrame({"x": [1.0, Decimal(3), None, 99], "kind": ["b", "a", None, "a"]})
    codes = learn(columns, np.array([True, False, False, False]))
    # categories are those of all rows, mean and deviation those of the training rows
    assert codes[0]["mean"] == 1 and codes[1]["categories"] == ["a", "b"]
    codes = learn(columns, np.array([True, True, True, False]))
    # mean 2 and deviation 1 of the first rows; what is missing is the mean, and no category
    assert encode(columns, codes, None, joint=False).tolist() == [[-1, 0, 1], [1, 1, 0], [0, 0, 0], [97, 1, 0]]
    unknown = "column 'kind' holds [c] in 4 rows, which the model was not fitted on; they count as none of [a, b]"
    with pytest.warns(UserWarning, match=re.escape(unknown)):
        assert encode(columns.assign(kind="c"), codes, None, joint=False)[:, 1:].tolist() == [[0, 0]] * 4
    with pytest.raises(
        DataError, match="column 'x' holds 'low', and numbers when the model was fitted; convert it with"
    ):
        encode(columns.assign(x="low"), codes, None, joint=False)
    many = pd.DataFrame({"id": [f"{i:02}" for i in range(40)]})
    ranks = encode(many, learn(many, np.ones(40, bool)), None, joint=False)
    assert ranks.shape == (40, 1) and ranks[0, 0] == pytest.approx(-0.975) and (np.diff(ranks[:, 0]) > 0).all()
