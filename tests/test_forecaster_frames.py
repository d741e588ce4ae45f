"""Frames in and out of the Forecaster: kinds and types, after load too; covariates; validation frames."""

import numpy as np
import pandas as pd
import pytest

from seqmix import Forecaster
from seqmix.errors import DataError, WriteError

DAYS = pd.date_range("2024-01-01", periods=60)


def panel(ids=("a", "b"), **columns):
    t = np.arange(60)
    parts = [pd.DataFrame({"unique_id": i, "ds": DAYS, "y": k + np.sin(t / 3)}) for k, i in enumerate(ids)]
    return pd.concat(parts, ignore_index=True).assign(**columns)


def forecaster(**options):
    return Forecaster("DLinear", 4, context_length=12, max_steps=2, device="cpu", **options)


def types(frame):
    """Library, and types of ids and times."""
    if isinstance(frame, pd.DataFrame):
        return "pandas", frame["unique_id"].dtype, frame["ds"].dtype
    if hasattr(frame, "to_arrow"):
        return "polars", frame.schema["unique_id"], frame.schema["ds"]
    return "pyarrow", str(frame.schema.field("unique_id").type).removeprefix("large_"), frame.schema.field("ds").type


@pytest.mark.parametrize("kind", ["polars", "pyarrow", "arrow types", "category", "period", "zone"])
def test_results_are_of_the_kind_of_the_frame(kind, tmp_path):
    frame = panel()
    if kind in ("polars", "pyarrow"):
        polars = pytest.importorskip("polars")
        frame = polars.from_pandas(frame).with_columns(polars.col("ds").cast(polars.Date))
        frame = frame if kind == "polars" else frame.to_arrow()
    elif kind == "arrow types":
        frame = frame.convert_dtypes(dtype_backend="pyarrow")
    elif kind == "category":
        frame["unique_id"] = frame["unique_id"].astype("category")
    else:
        frame["ds"] = frame["ds"].dt.to_period("D") if kind == "period" else frame["ds"].dt.tz_localize("Europe/Berlin")
    fitted = forecaster().fit(frame)
    fitted.save(tmp_path / "m")
    loaded = Forecaster.load(tmp_path / "m", device="cpu")
    future = fitted.make_future_dataframe()
    results = [fitted.predict(), fitted.predict(frame), loaded.predict(), loaded.predict(frame), future]
    results += [fitted.get_missing_future(future[:3]), forecaster().cross_validation(frame)]
    assert [types(result) for result in results] == [types(frame)] * 7
    assert type(fitted.evaluate(frame)) is type(frame)
    assert len(results[-2]) == 5
    assert len(fitted.plot(frame, results[-1]).axes) == len(fitted.plot(frame).axes) == 2
    assert fitted.plot(frame, levels=[50], unit="MW").axes[0].get_ylabel() == "MW"


def test_rare_categories_are_learned_from_all_rows_and_unknown_ones_count_as_none():
    frame = panel(holiday=np.where(np.arange(120) % 60 == 58, "Xmas", "none"))
    fitted = forecaster(future_covariates=["holiday"]).fit(frame)
    future = fitted.make_future_dataframe()
    assert np.isfinite(fitted.predict(future_df=future.assign(holiday="Xmas"))["DLinear"]).all()
    with pytest.warns(
        UserWarning, match=r"column 'holiday' holds \[Easter\] in 8 rows, which the model was not fitted on"
    ):
        fitted.predict(future_df=future.assign(holiday="Easter"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda df: df.assign(ds=df["ds"].dt.tz_localize("UTC")),
            "times of future_df have UTC time zone, those of df no; use future_df['ds'].dt.tz_localize(None)",
        ),
        (
            lambda df: pd.concat([df, df.tail(1).assign(promo=5.0)]),
            "future_df has 1 rows that contradict another, first: b, 2024-03-04 00:00:00; keep one for each",
        ),
        (lambda df: df.drop(columns="promo"), "future_df has no column 'promo'; columns are ['unique_id', 'ds']"),
        (lambda df: df.drop(columns="ds"), "future_df has no column 'ds'; columns are ['unique_id', 'promo']"),
        (lambda df: df.drop(columns="unique_id"), "future_df has no column 'unique_id'; columns are ['ds', 'promo']"),
        (lambda df: df.assign(unique_id=1), "column 'unique_id' of future_df holds int64, that of df "),
        (lambda df: df.assign(ds=5), "column 'ds' of future_df holds int64, that of df datetime64["),
        (lambda df: df.assign(promo="low"), "column 'promo' holds 'low', and numbers when the model was fitted"),
        (lambda df: df.head(7), "future_df lacks 1 of 8 rows of the horizon, first: ('b', 2024-03-04)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_covariates_of_the_horizon_is_said(promoted, change, message):
    future = promoted.make_future_dataframe().assign(promo=1.0)
    with pytest.raises(DataError) as error:
        promoted.predict(future_df=change(future))
    assert str(error.value).startswith(message)


@pytest.fixture(scope="module")
def promoted():
    return forecaster(future_covariates=["promo"]).fit(panel(promo=np.arange(120) % 5.0))


def test_covariates_of_the_horizon_may_be_indexed_and_repeated(promoted):
    future = promoted.make_future_dataframe().assign(promo=1.0)
    plain = promoted.predict(future_df=future)
    for same in (
        future.set_index(["unique_id", "ds"]),
        pd.concat([future, future]),
        future.assign(ds=future["ds"].astype(str)),
    ):
        pd.testing.assert_frame_equal(promoted.predict(future_df=same), plain)


def test_static_columns_that_are_absent_are_named():
    fitted = forecaster(static_covariates=["size"]).fit(panel(size="big"))
    new = panel(["n"])
    with pytest.raises(DataError, match=r"static column 'size' not found in df; add it, or pass static_df=\.\.\."):
        fitted.predict(new)
    found = fitted.predict(new, static_df=pd.DataFrame({"size": ["big"]}, index=pd.Index(["n"], name="unique_id")))
    assert len(found) == 4
    with pytest.raises(DataError, match="static_df has 1 rows that contradict another, first: n; keep one for each"):
        fitted.predict(new, static_df=pd.DataFrame({"unique_id": ["n", "n"], "size": ["big", "small"]}))


def test_validation_frames_go_on_where_the_frame_ends():
    frame = panel()
    first, last = frame[frame["ds"] < "2024-02-15"], frame[frame["ds"] >= "2024-02-15"]
    assert len(forecaster().fit(first, val_df=last).predict()) == 8
    with pytest.raises(DataError, match=r"val_df holds series that df has no rows of: \[c\]; add rows to df"):
        forecaster().fit(first, val_df=last.replace({"unique_id": {"b": "c"}}))
    with pytest.raises(DataError, match="val_df holds rows that are not after those of df, first: id 'a'; give later"):
        forecaster().fit(last, val_df=first)


def test_rows_to_train_on_have_a_value_and_a_weight():
    frame = panel(["a"])
    late = frame["ds"] >= frame["ds"].iloc[55]
    with pytest.raises(DataError, match="no training row has a value and a weight above 0, before the last "):
        forecaster().fit(frame.assign(w=late.astype(float)), weight_col="w")
    with pytest.raises(DataError, match=r"give earlier rows, or pass val_size=0"):
        forecaster().fit(frame.assign(y=frame["y"].where(late)))
    assert len(forecaster().fit(frame.assign(y=frame["y"].where(late)), val_size=0).predict()) == 4


def test_time_zones_stay_those_of_the_fit():
    frame = panel(["a"])
    zoned = frame.assign(ds=frame["ds"].dt.tz_localize("UTC"))
    with pytest.raises(
        DataError, match=r"times of df have UTC time zone, those before no; use \.dt\.tz_localize\(None\)"
    ):
        forecaster().fit(frame).predict(zoned)
    fitted = forecaster().fit(zoned)
    with pytest.raises(
        DataError, match=r"times of df have no time zone, those before UTC; use \.dt\.tz_localize\('UTC'\)"
    ):
        fitted.evaluate(frame)
    assert fitted.predict(zoned.astype({"ds": "datetime64[ms, UTC]"}))["ds"].dtype == "datetime64[ms, UTC]"


def test_folders_name_the_file_that_is_wrong(tmp_path, monkeypatch):
    for name in "ab":
        panel([name]).to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "._a.parquet").write_text("left by a system")
    assert len(forecaster().fit(tmp_path).predict()) == 8
    assert len(forecaster().fit(tmp_path / "a.parquet").predict()) == 4
    with pytest.raises(DataError, match="folder 'nowhere' not found; give a DataFrame"):
        forecaster().fit("nowhere")
    frame = panel(["b"])
    frame.assign(ds=frame["ds"].dt.tz_localize("UTC")).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet': times of the file have UTC time zone, those before no"):
        forecaster().fit(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(WriteError, match=r"no room in a temporary folder .No space left on device.; set TMPDIR"):
        forecaster().fit(tmp_path)


def test_a_series_without_a_value_is_named_before_its_forecast_is_believed():
    frame = panel()
    frame["y"] = frame["y"].where(frame["unique_id"] == "a")
    fitted = Forecaster("SeasonalNaive", 2, context_length=14).fit(frame)
    with pytest.warns(UserWarning, match=r"^1 of 2 series has no value in the last 14 rows.*leave them out: \[b\]$"):
        fitted.predict()
    with pytest.warns(UserWarning, match=r"^1 of 1 series has no value"):
        fitted.predict(frame.assign(y=frame["y"].where(frame["ds"] < DAYS[9])).head(60))
