"""Resampling: values of whole steps alone, at every frequency, in every kind of frame."""

import numpy as np
import pandas as pd
import pytest

from seqmix.errors import ConfigError, DataError
from seqmix.forecasting import resample


def daily(n=30, start="2024-01-03", ids=("a",), freq="D", tz=None):
    days = pd.date_range(start, periods=n, freq=freq, tz=tz)
    return pd.concat([pd.DataFrame({"unique_id": i, "ds": days, "y": 1.0}) for i in ids], ignore_index=True)


@pytest.mark.parametrize(
    ("given", "freq", "first", "values"),
    [
        # from a Wednesday: the first and the last week are not whole
        (daily(), "W", "2024-01-14", [7, 7, 7]),
        (daily(33, "2024-01-01"), "W", "2024-01-07", [7, 7, 7, 7]),
        (daily(80), "MS", "2024-02-01", [29]),
        (daily(60, "2024-01-01", freq="h"), "D", "2024-01-01", [24, 24]),
        (daily(60, "2024-03-30", freq="h", tz="Europe/Berlin"), "D", "2024-03-30", [24, 23]),
        (daily(20, "2024-01-01", freq="15min"), "h", "2024-01-01", [4, 4, 4, 4, 4]),
        (daily(30, freq="MS"), "YS", "2025-01-01", [12]),
        (daily(30, freq="MS"), "QS", "2024-04-01", [3] * 9),
        (daily(30, freq="B"), "W", "2024-01-14", [5] * 5),
        (daily(30), "2D", "2024-01-03", [2] * 15),
    ],
)
def test_whole_steps_are_kept(given, freq, first, values):
    before = given.copy()
    result = resample(given, freq)
    assert result["y"].tolist() == values and result["ds"].iloc[0].tz_localize(None) == pd.Timestamp(first)
    assert result["ds"].dtype == given["ds"].dtype
    pd.testing.assert_frame_equal(given, before)


def test_series_begin_and_end_on_their_own_and_columns_have_their_own_words():
    frame = pd.concat([daily(21, "2024-01-01", "b"), daily(21, "2024-01-08", "a")]).assign(price=range(42), kind="x")
    frame.loc[frame["ds"] < "2024-01-08", "y"] = np.nan
    result = resample(frame.sample(frac=1, random_state=0), "W", {"y": "sum", "price": "max"})
    by_id = result.set_index("unique_id")
    assert by_id.loc["a", "y"].tolist() == [7, 7, 7] and by_id.loc["a", "price"].tolist() == [27, 34, 41]
    assert by_id.loc["b", "y"].isna().tolist() == [True, False, False] and set(result["kind"]) == {"x"}
    assert by_id.loc["b", "ds"].iloc[0] == pd.Timestamp("2024-01-07")


def test_the_kind_of_the_frame_is_kept():
    polars = pytest.importorskip("polars")
    result = resample(polars.from_pandas(daily()).with_columns(polars.col("ds").cast(polars.Date)), "W", "mean")
    assert result.schema["ds"] == polars.Date and result["y"].to_list() == [1.0] * 3


@pytest.mark.parametrize(
    ("given", "freq", "word", "message"),
    [
        (daily(), "h", "sum", "freq 'h' is finer than the rows, which are 1 day apart; give the freq of the rows"),
        (daily(3), "MS", "sum", "no series covers a whole step of freq 'MS'; give more rows, or a finer freq"),
        (daily(), "weekly", "sum", "freq = 'weekly' is not known to pandas; did you mean 'W'?"),
        (
            daily(),
            "W",
            "total",
            "aggregate = 'total' is not known; use one of sum, mean, median, min, max, first, last",
        ),
        (daily().assign(ds=range(30)), "W", "sum", "column 'ds' holds integers, and only dates can be resampled"),
        (daily().drop(columns="y"), "W", "sum", "column 'y' not found; columns are ['unique_id', 'ds']"),
    ],
)
def test_what_cannot_be_resampled(given, freq, word, message):
    with pytest.raises((DataError, ConfigError)) as error:
        resample(given, freq, word)
    assert str(error.value).startswith(message)
