"""The Forecaster: frames out, every mode, options, and no word on the happy path."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from daily_panel import panel, small

from seqmix import Forecaster
from seqmix.errors import ConfigError, DataError, NotFittedError
from seqmix.mixers import Identity, Pool
from seqmix.models import DLinear, ForecastModel, MixerForecaster
from seqmix.series import Series
from seqmix.tasks import Forecasting

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def fitted():
    return small().fit(panel())


def test_a_fit_learns_and_says_nothing(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, state = panel(), torch.get_rng_state()
    df = before.copy()
    fc = small(max_steps=80, learning_rate=0.02).fit(df)
    forecast = fc.predict()
    pd.testing.assert_frame_equal(df, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())
    assert forecast.columns.tolist() == ["unique_id", "ds", "DLinear"]
    assert forecast["ds"].tolist() == pd.date_range("2024-04-10", periods=6).tolist() * 2
    t = np.arange(100, 106)
    truth = np.concatenate([np.sin(t / 7 * 2 * np.pi) + level for level in (0, 5)])
    assert np.abs(forecast["DLinear"] - truth).max() < 0.15
    assert fc.history_.columns.tolist() == ["step", "train_loss", "val_mse", "val_mae", "model"]
    assert fc.report_["series"] == 2 and fc.mode_ == "global" and fc.freq_ == "D" and fc.season_ == 7


@pytest.mark.parametrize(
    ("change", "dtypes"),
    [
        (lambda df: df.assign(ds=df["ds"].dt.tz_localize("Europe/Berlin")), {"ds": "datetime64[us, Europe/Berlin]"}),
        (lambda df: df.assign(ds=np.tile(np.arange(100), 2).astype("int32")), {"ds": "int32"}),
        (lambda df: df.assign(unique_id=df["unique_id"].map({"a": 7, "b": 3})), {"unique_id": "int64"}),
        (lambda df: df.assign(ds=df["ds"].dt.strftime("%Y-%m-%d")), {"ds": "datetime64[us]"}),
        (lambda df: df.sample(frac=1, random_state=3), {"ds": "datetime64[us]"}),
        (lambda df: df.convert_dtypes(dtype_backend="pyarrow"), {"ds": "timestamp[us][pyarrow]"}),
    ],
)
def test_types_and_order_survive(change, dtypes, fitted):
    df = change(panel())
    out = small().fit(df).predict()
    for name, dtype in dtypes.items():
        assert str(out[name].dtype) == dtype
    assert out["unique_id"].unique().tolist() == df["unique_id"].unique().tolist()
    one = out[out["unique_id"] == df["unique_id"].iloc[0]]
    assert len(one) == 6 and one["ds"].is_monotonic_increasing


def test_polars_in_polars_out():
    pl = pytest.importorskip("polars")
    df = pl.from_pandas(panel())
    out = small().fit(df).predict(df)
    assert isinstance(out, pl.DataFrame) and out["unique_id"].to_list() == ["a"] * 6 + ["b"] * 6
    cv = small().cross_validation(df)
    assert isinstance(cv, pl.DataFrame) and cv.columns == ["unique_id", "ds", "cutoff", "y", "DLinear"]


def test_history_of_any_series(fitted):
    """The frame of the fit gives what predict gives without one; new ids and shorter horizons are welcome."""
    pd.testing.assert_frame_equal(fitted.predict(panel()), fitted.predict())
    moved = fitted.predict(panel(("q", "b")))
    assert moved["unique_id"].tolist() == ["q"] * 6 + ["b"] * 6
    pd.testing.assert_series_equal(moved["DLinear"][6:], fitted.predict()["DLinear"][6:])
    short = fitted.predict(horizon=2)
    assert short["DLinear"].tolist() == fitted.predict()["DLinear"].iloc[[0, 1, 6, 7]].tolist()
    with pytest.warns(UserWarning) as warned:
        out = fitted.predict(panel().groupby("unique_id").head(4))
    assert str(warned[0].message) == (
        "2 of 2 series have fewer than context_length = 14 rows and are padded: [a (4), b (4)]"
    )
    assert out["DLinear"].notna().all()


def test_a_longer_horizon_is_forecast_from_forecasts(fitted):
    with pytest.warns(UserWarning) as warned:
        longer = fitted.predict(horizon=10)
    assert str(warned[0].message) == "horizon 10 is longer than the fitted 6: forecasts are made from forecasts"
    first = fitted.predict()
    known = pd.concat([panel(), first.rename(columns={"DLinear": "y"})])
    second = fitted.predict(known, horizon=4)
    expected = pd.concat([first, second]).sort_values(["unique_id", "ds"], kind="stable")
    np.testing.assert_allclose(longer["DLinear"], expected["DLinear"], rtol=1e-5)


def test_a_model_forecasts_the_same_in_company(tmp_path):
    """Ridge needs no validation rows, TSM2 has the series as channels, SeasonalNaive scales them otherwise."""
    names, df = ["Pool", "Ridge", "TSM2", "SeasonalNaive"], panel(n=60)
    df["y"] += np.random.default_rng(0).normal(size=len(df)) * (df["unique_id"] == "b")
    fc = small(names, max_steps=2, levels=[50]).fit(df)
    together = fc.predict()
    assert together.columns.tolist()[2::3] == names and fc.history_["model"].unique().tolist()[0] == "Pool"
    assert list(fc.report_["parameters"]) == names and len(fc.report_["best_val_mse"]) == len(names)
    for name in names:
        columns = ["unique_id", "ds", name, f"{name}-lo-50", f"{name}-hi-50"]
        pd.testing.assert_frame_equal(together[columns], small(name, max_steps=2, levels=[50]).fit(df).predict())
    ridge, *both = (small(each).cross_validation(df) for each in ("Ridge", ["Ridge", "SeasonalNaive"]))
    pd.testing.assert_frame_equal(both[0][ridge.columns], ridge)
    held_out = "no rows are held out: intervals are calibrated on training windows, by fits without them"
    assert f"Ridge: {held_out}" in fc.notes_ and held_out not in fc.notes_
    fc.save(tmp_path / "several")
    twin = Forecaster.load(tmp_path / "several")
    pd.testing.assert_frame_equal(twin.predict(), together)
    assert twin.notes_ == fc.notes_ and twin.report_["parameters"] == fc.report_["parameters"]
    # channels have the order of the fit, and so have the other models then
    pd.testing.assert_frame_equal(twin.predict(df[::-1].sort_values("ds", kind="stable")), together)
    with pytest.warns(UserWarning, match="longer than the fitted 6") as caught:
        twin.predict(horizon=7, levels=[])
    assert {Path(each.filename).name for each in caught} == {Path(__file__).name}
    assert len(twin.fit_more(df, max_steps=1).predict()) == len(together)


def test_several_models_have_a_column_each():
    models = ["DLinear", partial(DLinear, kernel_size=3), "SeasonalNaive", "Pool", Identity, partial(Pool, pool_size=3)]
    fc = small(models, context_length=16).fit(panel())
    out = fc.predict()
    assert out.columns.tolist()[2:] == ["DLinear", "DLinear1", "SeasonalNaive", "Pool", "Identity", "Pool1"]
    assert not out["DLinear"].equals(out["DLinear1"])
    assert isinstance(fc.tasks_["Identity"].model, MixerForecaster)
    np.testing.assert_allclose(out["SeasonalNaive"][:6], panel()["y"][93:99], atol=1e-6)


def test_multivariate_models_know_their_series():
    fc = small("TSM2", context_length=16, model_kwargs={"d_model": 4, "n_layers": 1}).fit(panel())
    assert fc.mode_ == "multivariate" and fc.tasks_["TSM2"].series.n_channels == 2
    other = panel(("b", "a")).assign(y=lambda df: np.where(df["unique_id"] == "b", df["y"] + 5, df["y"] - 5))
    # rows in another order, the same channels
    out = fc.predict(other).sort_values(["unique_id", "ds"], kind="stable").reset_index(drop=True)
    np.testing.assert_allclose(out["TSM2"], fc.predict()["TSM2"], rtol=1e-5)
    with pytest.raises(DataError) as error:
        fc.predict(panel(("q", "r", "s")))
    assert str(error.value) == "model was fitted on 2 series [a, b], got 3 [q, r, s]; give the same, or fit again"
    ragged = pd.concat([panel(), panel(("c",), 80)])
    assert small("TSM2", context_length=16, model_kwargs={"d_model": 4, "n_layers": 1}).fit(ragged).mode_ == "global"


def test_what_is_missing_does_not_count():
    """A missing value is worth what it is replaced by: nothing, in input, scale and loss."""
    df = panel()
    df.loc[[20, 21, 60, 130], "y"] = np.nan
    fc = small(max_steps=20).fit(df)
    filled = panel()
    filled.loc[[20, 21, 60, 130], "y"] = 1e9
    assert fc.notes_[1] == "4 missing values are left out of input and loss: a 3, b 1"
    np.testing.assert_allclose(fc.fitted_.loc[0], df["y"][:85].mean())
    assert fc.predict()["DLinear"].abs().max() < 20


@pytest.mark.parametrize("short", ["pad", "drop"])
def test_short_series_are_forecast_too(short):
    df = pd.concat([panel(), panel(("c",), 9), panel(("d",), 3)], ignore_index=True)
    fc = small(short=short).fit(df)
    out = fc.predict()
    assert out["unique_id"].unique().tolist() == ["a", "b", "c", "d"] and out["DLinear"].notna().all()
    # nine rows are padded to one window; three are no more than a horizon
    assert fc.report_["windows"] == 2 * 66 + (short == "pad")
    assert fc.notes_[-1] == f"series shorter than a window: [c, d]; short={short!r}"


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_folder_of_parquet_files_is_a_frame(tmp_path, partitioned):
    df = pd.concat([panel(("z", "a", "m")), panel(("q",), 70)], ignore_index=True)
    df.loc[[10, 150], "y"] = np.nan
    for k, (i, part) in enumerate(df.groupby("unique_id", sort=False)):
        file = tmp_path / (f"unique_id={i}/part.parquet" if partitioned else f"{k}.parquet")
        file.parent.mkdir(exist_ok=True)
        (part.drop(columns="unique_id") if partitioned else part).to_parquet(file)
    order = ["a", "m", "q", "z"] if partitioned else ["z", "a", "m", "q"]
    df = df.set_index("unique_id").loc[order].reset_index()
    fc, twin = small().fit(tmp_path), small().fit(df)
    assert fc.report_["windows"] == twin.report_["windows"] and fc.notes_ == twin.notes_
    for one, two in ((fc.predict(), twin.predict()), (fc.predict(str(tmp_path)), twin.predict(df))):
        pd.testing.assert_frame_equal(one, two, check_exact=True, check_dtype=False)
    df.iloc[:5].to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError) as error:
        fc.predict(tmp_path)
    assert str(error.value) == f"1 series are in more than one file: [{order[0]}]; put each in one file"
    with pytest.raises(DataError, match=r"folder '.*' not found; give a DataFrame, or a folder of parquet files"):
        fc.predict(tmp_path / "nothing")


def test_options_are_stored_and_shown(fitted):
    fc = Forecaster("DLinear", 6, levels=[80], seed=3)
    assert repr(fc) == "Forecaster('DLinear', 6, levels=[80], seed=3)"
    one = small(levels=np.array([80]), future_covariates=pd.Index(["promo"]), season=np.int64(7))
    assert "Index(['promo']" in repr(one) and one.fit(panel().assign(promo=1.0)).plan_.levels == (80,)
    twin = fc.clone()
    assert twin.get_params() == fc.get_params() and twin.levels is fc.levels
    assert fc.set_params(seed=4) is fc and fc.seed == 4
    sklearn = pytest.importorskip("sklearn.base")
    assert sklearn.clone(fitted).get_params() == fitted.get_params() and not hasattr(sklearn.clone(fitted), "fitted_")


def test_importing_the_name_is_light():
    code = (
        "import sys, seqmix; from seqmix import Forecaster; Forecaster('DLinear', 3)\n"
        "assert not sys.modules.keys() & {'torch', 'lightning', 'sklearn', 'matplotlib', 'pyarrow.dataset'}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr


def test_a_series_weighs_as_in_mase():
    """Scaled by the error of the season before, not by the deviation: a steep trend does not hide the cycle."""
    df = panel(n=120)
    df["y"] += np.tile(np.arange(120) ** 2 / 50, 2) * (df["unique_id"] == "b")
    fc = small().fit(df)
    error = df["y"].groupby(df["unique_id"]).apply(lambda y: y[:105].diff(7).abs().mean())
    deviation = df["y"].groupby(df["unique_id"]).apply(lambda y: y[:105].std(ddof=0))
    # 'a' repeats itself exactly: its deviation has to do
    np.testing.assert_allclose(fc.fitted_.scale[:, 0], [deviation["a"], error["b"]], rtol=1e-6)
    np.testing.assert_allclose(fc.fitted_.scales.deviation, deviation, rtol=1e-6)
    # models that tell series apart are free of that weight
    short = partial(MixerForecaster, mixer=Pool, patch_len=7)
    for options in ({"scaler": "standard"}, {"model": short}, {"model": ["DLinear", short]}):
        standard = small(**options).fit(df)
        np.testing.assert_allclose(standard.fitted_.parts[-1].scale[:, 0], deviation, rtol=1e-6)
    new = fc.predict(df.assign(unique_id=lambda df: df["unique_id"] + "'"))
    np.testing.assert_allclose(new["DLinear"], fc.predict()["DLinear"], rtol=0.2)


class Zero(ForecastModel):
    """Says that nothing changes."""

    def forward(self, x, *, future=None, static=None, past=None):
        return 0 * x[:, :1].expand(-1, self.series.horizon, -1)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("season", [1, 3, 14])
def test_a_model_of_differences_starts_from_the_season_before(season, missing):
    """Added to the season before, nothing is the season before; a missing value is that of an earlier season.

    Where there is none, it is the mean of the window.
    """
    x = torch.randn(2, 14, 3, dtype=torch.float64)
    batch = {"x": x, "y": torch.zeros(2, 6, 3)}
    task = Forecasting(Zero, Series(3, 14, 6), normalize="season", season=season)
    expected = torch.cat([x[:, -season:]] * 6, 1)[:, :6]
    if missing:
        mask = torch.ones_like(x, dtype=torch.bool)
        mask[:, -1] = False
        batch["x_mask"] = mask
        last = (torch.arange(6) % season == season - 1)[None, :, None]
        before = x[:, :-1].mean(1, keepdim=True) if season == 14 else x[:, [-1 - season]]
        expected = torch.where(last, before, expected)
    torch.testing.assert_close(task(batch), expected)
    with pytest.raises(ConfigError) as error:
        Forecasting(Zero, Series(3, 14, 6), normalize="season", season=15)
    assert str(error.value) == "season = 15 does not fit context = 14; use a season of 1 to 14"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, "season"),
        ({"calendar": True}, "window"),
        ({"season": 1}, "window"),
        ({"model": "SeasonalNaive"}, "window"),
        ({"normalize": "none"}, "none"),
    ],
)
def test_what_is_taken_from_a_window(options, found):
    fc = small(**options).fit(panel())
    (task,) = fc.tasks_.values()
    assert task.norm.kind == found and task.norm.season == fc.season_


def test_histories_of_joint_models_end_together():
    """Rows that one series lacks before the first are missing values; an end of its own is refused."""
    fc = small("DLinear", mode="multivariate").fit(panel())
    late = panel().drop(index=range(0, 80))
    first = fc.predict(late)
    full = fc.predict(panel())
    np.testing.assert_allclose(first["DLinear"], full["DLinear"], rtol=1e-5)
    early = panel().drop(index=range(90, 100))
    for run in (fc.predict, fc.evaluate, fc.fit_more):
        with pytest.raises(DataError) as error:
            run(early)
        assert str(error.value) == (
            "the models forecast all series together, and these end at different times: 'a' at 2024-03-30, 'b' at "
            "2024-04-09; cut them to a common end, or fit with mode='global'"
        )


def test_a_fit_forgets_the_one_before():
    fc = small().fit(panel())
    hours = panel().assign(
        ds=lambda df: df.groupby("unique_id")["ds"].transform(
            lambda t: pd.date_range(t.iloc[0], periods=len(t), freq="h")
        )
    )
    assert fc.cross_validation(hours)["ds"].diff().median() == pd.Timedelta("1h")
    # the context is that of the options: too short for a day
    assert fc.fit(hours).freq_ == "h" and fc.season_ == 1
    assert small(context_length=24).fit(hours).season_ == 24
    fc.set_params(horizon=3)
    assert not hasattr(fc, "plan_")
    with pytest.raises(NotFittedError):
        fc.predict()


def test_options_set_on_the_side_change_no_fitted_model(fitted):
    """What was learned decides: an attribute that is written to is an option of the next fit."""
    fc = fitted.clone().fit(panel())
    fc.horizon, fc.levels, fc.normalize, fc.scaler, fc.freq, fc.conformal = 3, [50], "none", "none", "h", True
    pd.testing.assert_frame_equal(fc.predict(panel()), fitted.predict(panel()))
    pd.testing.assert_frame_equal(fc.evaluate(panel(), "mae"), fitted.evaluate(panel(), "mae"))
