"""The Forecaster: frames out, no leak, every mode, covariates, saving, export, and no word on the happy path."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from seqmix import Forecaster
from seqmix.data.series.panel import Panel
from seqmix.errors import ConfigError, DataError, NotFittedError
from seqmix.forecasting.covariates import ahead
from seqmix.forecasting.exporting import graph_of
from seqmix.mixers import Identity, Pool
from seqmix.models import DLinear, ForecastModel, MixerForecaster, list_models
from seqmix.series import Series
from seqmix.tasks import Forecasting

ROOT = Path(__file__).parents[1]


def panel(ids=("a", "b"), n=100):
    """Daily series, a level apart, with a weekly cycle."""
    t = np.arange(n)
    days = pd.date_range("2024-01-01", periods=n)
    parts = [
        pd.DataFrame({"unique_id": i, "ds": days, "y": np.sin(t / 7 * 2 * np.pi) + 5 * k}) for k, i in enumerate(ids)
    ]
    return pd.concat(parts, ignore_index=True)


def small(model="DLinear", **options):
    return Forecaster(model, **{"horizon": 6, "context_length": 14, "max_steps": 3, "device": "cpu", **options})


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


class Wreck(Callback):
    """Spoils the weights half way."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 20:
            for p in module.parameters():
                p.data.mul_(100)


def test_best_weights_come_back():
    df = panel()
    fc = small(max_steps=30, early_stopping=None, trainer_kwargs={"callbacks": [Wreck()]}).fit(df)
    errors = fc.history_["val_mse"].dropna()
    assert len(errors) == 10 and errors.iloc[-1] > 100 * errors.min() and errors.idxmin() <= 6
    rows = Panel(
        df["y"].to_numpy()[:, None], np.array([0, 100, 200]), 14, 6, 8, n_val=np.array([10, 10]), eval_batch_size=99
    )
    batch = next(iter(rows.val_dataloader()))
    (task,) = fc.tasks_.values()
    with torch.no_grad():
        error = (task.predict_step(batch, 0)["yhat"] - batch["y"]).square().mean()
    assert float(error) == pytest.approx(errors.min(), rel=1e-5)


def test_the_same_seed_gives_the_same_forecast(fitted):
    again = small().fit(panel())
    pd.testing.assert_frame_equal(again.predict(), fitted.predict())
    assert not small(seed=1).fit(panel()).predict()["DLinear"].equals(fitted.predict()["DLinear"])


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


@pytest.mark.parametrize(
    ("run", "kind", "message"),
    [
        (lambda fc: small().predict(), NotFittedError, "this Forecaster is not fitted; call fit() or load()"),
        (lambda fc: Forecaster("DLinear", 0), ConfigError, "horizon must be >= 1, got 0"),
        (lambda fc: fc.predict(horizon=0), ConfigError, "horizon must be >= 1, got 0"),
        (
            lambda fc: fc.predict(horizon=7, levels=[80]),
            ConfigError,
            "intervals are known up to the fitted horizon 6, got 7; fit with that horizon",
        ),
        (
            lambda fc: small("dlinear").fit(panel()),
            ConfigError,
            "no model or mixer 'dlinear'; did you mean 'DLinear'? there are "
            + ", ".join(list_models())
            + ", and every mixer",
        ),
        (
            lambda fc: fc.set_params(horizn=3),
            ConfigError,
            "Forecaster has no option 'horizn'; it has " + ", ".join(Forecaster("DLinear", 1).get_params()),
        ),
        (
            lambda fc: small(short="error").fit(pd.concat([panel(), panel(("c",), 9)])),
            DataError,
            "1 of 3 series have fewer than context + horizon = 20 rows, first: 'c' (9); give longer series, a smaller "
            "context or horizon, or leave them out with short='drop'",
        ),
        (
            lambda fc: fc.cross_validation(panel(), n_windows=20),
            DataError,
            "2 of 2 series are too short for a test of 120 rows: [a (100), b (100)]; use fewer windows, or leave them "
            "out",
        ),
        (
            lambda fc: small(mode="multivariate").fit(pd.concat([panel(), panel(("c",), 90)])),
            DataError,
            "mode='multivariate' needs series with the same time stamps; 1 of 3 differ from 'a', first: 'c'. "
            "Cut them to a common span, or use mode='global'",
        ),
        (
            lambda fc: small(calendar=True).fit(panel().assign(ds=np.tile(np.arange(100), 2))),
            ConfigError,
            "calendar=True needs dates less than a year apart, freq is 1; leave it out",
        ),
        (
            lambda fc: small(past_covariates=["y2"]).fit(panel().assign(y2=1.0)).predict(horizon=9),
            ConfigError,
            "past covariates [y2] are not known beyond the fitted horizon 6, got 9; fit with that horizon",
        ),
        (
            lambda fc: fc.fit(panel(), val_size=3),
            ConfigError,
            "val_size = 3 should be 'auto', 0, or at least horizon = 6",
        ),
        (
            lambda fc: fc.export("model.bin"),
            ConfigError,
            "path = 'model.bin' should end in .pt2 (torch.export) or .onnx",
        ),
    ],
)
def test_what_cannot_be_is_said(fitted, run, kind, message):
    with pytest.raises(kind) as error:
        run(fitted.clone().fit(panel()) if "fc.fit" in message else fitted)
    assert str(error.value) == message


def test_a_spike_in_the_future_moves_nothing_before_it():
    """Cross-validation: a value after a cutoff changes neither scaling nor weights nor forecasts up to that cutoff."""
    plain, spiked = panel(), panel()
    spiked.loc[97, "y"] = 1e6
    for refit in (False, True):
        options = {"n_windows": 3, "refit": refit}
        one, two = (small().cross_validation(df, **options) for df in (plain, spiked))
        early = one["ds"] < pd.Timestamp("2024-04-07")
        assert early.sum() == 2 * 15 and (one["y"] != two["y"]).sum() == 1
        pd.testing.assert_series_equal(one["DLinear"], two["DLinear"])
    # the first cutoff is what a fit on those rows forecasts
    first = small().fit(plain.groupby("unique_id").head(82)).predict()
    cv = one.groupby(["unique_id", "cutoff"]).head(6)
    part = cv[cv["cutoff"] == pd.Timestamp("2024-03-22")].reset_index(drop=True)
    pd.testing.assert_frame_equal(part[["unique_id", "ds", "DLinear"]], first, check_dtype=False)


@pytest.mark.parametrize("model", ["DLinear", "TSM2"])
def test_windows_of_a_backtest(model):
    options = (
        {"model_kwargs": {"d_model": 4, "n_layers": 1, "patch_len": 7, "patch_stride": 7}} if model == "TSM2" else {}
    )
    fc = small(model, **options)
    df = panel(("z", "a", "m"))
    cv = fc.cross_validation(df, test_size=9, step_size=1, levels=[50])
    assert not hasattr(fc, "fitted_")
    assert cv.columns.tolist() == ["unique_id", "ds", "cutoff", "y", model, f"{model}-lo-50", f"{model}-hi-50"]
    assert cv["unique_id"].tolist() == ["z"] * 24 + ["a"] * 24 + ["m"] * 24
    assert (cv["ds"] - cv["cutoff"]).dt.days.tolist() == list(range(1, 7)) * 12
    truth = cv.merge(df, on=["unique_id", "ds"])
    assert (truth["y_x"] == truth["y_y"]).all() and len(truth) == len(cv)
    assert (cv[f"{model}-lo-50"] <= cv[model]).all() and (cv[model] <= cv[f"{model}-hi-50"]).all()


def test_errors_by_hand():
    fitted = small(season=5).fit(panel())
    cv = fitted.cross_validation(panel(), n_windows=2)
    cv["DLinear"] = cv["y"] + np.where(cv["unique_id"] == "a", 1.0, -3.0)
    found = fitted.evaluate(cv, ("mse", "mae", "bias")).set_index("metric")["value"]
    assert found.round(9).to_dict() == {"mse": 5.0, "mae": 2.0, "bias": -1.0}
    apart = fitted.evaluate(cv, ("mae",), by="unique_id")
    assert apart.set_index("unique_id")["value"].round(9).to_dict() == {"a": 1.0, "b": 3.0}
    train = panel().groupby("unique_id").head(90)
    naive = train.groupby("unique_id")["y"].apply(lambda y: y.diff(5).abs().mean())
    mase = fitted.evaluate(cv, ("mase",), by="unique_id").set_index("unique_id")["value"]
    np.testing.assert_allclose(mase, np.array([1.0, 3.0]) / naive, rtol=1e-6)
    scale = train.groupby("unique_id")["y"].std(ddof=0)
    standard = fitted.evaluate(cv, ("mae",), by="unique_id", standardized=True).set_index("unique_id")["value"]
    np.testing.assert_allclose(standard, np.array([1.0, 3.0]) / scale, rtol=1e-6)
    assert fitted.evaluate(panel(), ("mae",))["value"].notna().all()


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
    assert str(error.value) == "model was fitted on 2 series [a, b]; got 3 [q, r, s]"
    ragged = pd.concat([panel(), panel(("c",), 80)])
    assert small("TSM2", context_length=16, model_kwargs={"d_model": 4, "n_layers": 1}).fit(ragged).mode_ == "global"


@pytest.mark.parametrize("mode", ["global", "multivariate"])
def test_covariates_reach_the_model(mode):
    """A value that is a function of a known-future column: found with it, not without."""
    price = np.random.default_rng(0).normal(size=106)
    df = panel()
    df["y"] = np.tile(3 * price[:100], 2) + 1
    df["price"] = np.tile(price[:100], 2)
    df["shop"] = np.where(df["unique_id"] == "a", "big", "small")
    options = {"max_steps": 60, "learning_rate": 0.05, "mode": mode, "static_covariates": ["shop"]}
    fc = small(future_covariates=["price"], **options).fit(df)
    future = fc.make_future_dataframe().assign(price=np.tile(price[100:], 2), shop="?")
    error = fc.predict(future_df=future)["DLinear"] - np.tile(3 * price[100:] + 1, 2)
    blind = small(**options).fit(df).predict()["DLinear"] - np.tile(3 * price[100:] + 1, 2)
    assert error.abs().mean() < 0.5 * blind.abs().mean()
    cv = fc.cross_validation(df)
    assert (cv["DLinear"] - cv["y"]).abs().mean() < 1.5
    with pytest.raises(DataError) as raised:
        fc.predict()
    assert str(raised.value) == (
        "the models need the known-future columns [price] for the horizon; pass future_df=..., one row for each row of "
        "make_future_dataframe()"
    )
    with pytest.raises(DataError) as raised:
        fc.predict(future_df=future.drop(index=[3, 4]))
    assert str(raised.value) == (
        "future_df lacks 2 of 12 rows of the horizon, first: ('a', 2024-04-13), ('a', 2024-04-14); "
        "get_missing_future(future_df) lists them"
    )
    lacking = fc.get_missing_future(future.drop(index=[3, 4]))
    assert lacking["ds"].dt.day.tolist() == [13, 14]


def test_past_and_static_covariates_and_the_calendar():
    df = panel().assign(day=lambda df: df["ds"].dt.day_name(), shop=lambda df: df["unique_id"] + "!")
    static = pd.DataFrame({"unique_id": ["b", "a"], "size": [1.0, 3.0]})
    fc = small(past_covariates=["day"], static_covariates=["size"], calendar=True).fit(df, static_df=static)
    series = fc.tasks_["DLinear"].series
    # seven days; weekday, day of month, day of year
    assert (series.n_past, series.n_static, series.n_future) == (7, 1, 3)
    assert fc.notes_[1] == "columns that are not used: shop"
    assert fc.fitted_.ends.static.ravel().tolist() == [1.0, -1.0]
    assert fc.predict(df, static_df=static)["DLinear"].notna().all()
    with pytest.warns(UserWarning, match=r"holds \[Holiday\] in 200 rows, which the model was not fitted on"):
        fc.predict(df.assign(day="Holiday"), static_df=static)
    with pytest.raises(DataError) as error:
        small(static_covariates=["day"]).fit(df)
    assert str(error.value) == (
        "static column 'day' changes within 2 series, first: 'a'; make it a past or future covariate"
    )
    with pytest.raises(DataError) as error:
        small(static_covariates=["size"]).fit(df, static_df=static[:1])
    assert str(error.value) == "static_df has no row for 1 series: [a]; add one for each"


def test_what_is_missing_does_not_count():
    """A missing value is worth what it is replaced by: nothing, in input, scale and loss."""
    df = panel()
    df.loc[[20, 21, 60, 130], "y"] = np.nan
    fc = small(max_steps=20).fit(df)
    filled = panel()
    filled.loc[[20, 21, 60, 130], "y"] = 1e9
    assert fc.notes_[1] == "4 missing values are left out of input and loss: a 3, b 1"
    np.testing.assert_allclose(fc.fitted_.loc[0], df["y"][:90].mean())
    assert fc.predict()["DLinear"].abs().max() < 20


def test_weights_and_validation_rows():
    df = panel().assign(w=lambda df: (df["unique_id"] == "a").astype(float))
    weighted = small(max_steps=30).fit(df, weight_col="w", val_size=0)
    alone = small(max_steps=30, batch_size=128).fit(df[df["unique_id"] == "a"], val_size=0)
    assert weighted.history_["val_mse"].isna().all() and "no series is long enough" in weighted.notes_[-1]
    assert weighted.report_["windows"] == 2 * 81 and alone.report_["windows"] == 81
    held = small().fit(panel(n=80), val_df=panel()[lambda df: df["ds"] >= pd.Timestamp("2024-03-21")])
    same = small().fit(panel(), val_size=20)
    assert held.report_["windows"] == same.report_["windows"] == 2 * 61
    pd.testing.assert_frame_equal(held.predict(), same.predict())


@pytest.mark.parametrize("short", ["pad", "drop"])
def test_short_series_are_forecast_too(short):
    df = pd.concat([panel(), panel(("c",), 9), panel(("d",), 3)], ignore_index=True)
    fc = small(short=short).fit(df)
    out = fc.predict()
    assert out["unique_id"].unique().tolist() == ["a", "b", "c", "d"] and out["DLinear"].notna().all()
    # nine rows are padded to one window; three are no more than a horizon
    assert fc.report_["windows"] == 2 * 71 + (short == "pad")
    assert fc.notes_[-1] == f"series shorter than a window: [c, d]; short={short!r}"


def test_intervals_are_nested_and_hold_the_forecast(fitted):
    out = fitted.predict(levels=[50, 90], quantiles=[0.05, 0.5])
    names = ["DLinear-lo-90", "DLinear-lo-50", "DLinear", "DLinear-hi-50", "DLinear-hi-90"]
    assert (np.diff(out[names].to_numpy()) >= 0).all()
    np.testing.assert_allclose(out["DLinear_q0.05"], out["DLinear-lo-90"])
    np.testing.assert_allclose(out["DLinear_q0.5"], out["DLinear"])


@pytest.mark.parametrize("loss", ["quantile", "student_t"])
def test_losses_with_their_own_intervals(loss):
    out = small(loss=loss, levels=[80]).fit(panel()).predict(quantiles=[0.3])
    assert out.columns.tolist()[2:] == ["DLinear", "DLinear-lo-80", "DLinear-hi-80", "DLinear_q0.3"]
    assert (out["DLinear-lo-80"] < out["DLinear_q0.3"]).all() and (out["DLinear_q0.3"] < out["DLinear-hi-80"]).all()


def test_counts_are_not_scaled():
    df = panel().assign(y=lambda df: np.arange(200.0) % 7)
    out = small(loss="negative_binomial", levels=[80]).fit(df).predict()
    assert (out["DLinear-lo-80"] >= 0).all() and (out["DLinear-lo-80"] % 1 == 0).all()


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
        # the values were kept in float32
        pd.testing.assert_frame_equal(one, two, rtol=1e-5, check_dtype=False)
    df.iloc[:5].to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError) as error:
        fc.predict(tmp_path)
    assert str(error.value) == f"1 series are in more than one file: [{order[0]}]; put each in one file"
    with pytest.raises(DataError, match=r"no .parquet file in '.*'; give a folder of parquet files"):
        fc.predict(tmp_path / "nothing")


def test_options_are_stored_and_shown(fitted):
    fc = Forecaster("DLinear", 6, levels=[80], seed=3)
    assert repr(fc) == "Forecaster('DLinear', 6, levels=[80], seed=3)"
    twin = fc.clone()
    assert twin.get_params() == fc.get_params() and twin.levels is fc.levels
    assert fc.set_params(seed=4) is fc and fc.seed == 4
    sklearn = pytest.importorskip("sklearn.base")
    assert sklearn.clone(fitted).get_params() == fitted.get_params() and not hasattr(sklearn.clone(fitted), "fitted_")


@pytest.mark.parametrize("model", ["DLinear", ["Pool", partial(MixerForecaster, mixer=partial(Pool, pool_size=3))]])
def test_saved_and_loaded(tmp_path, model):
    df = panel().assign(day=lambda df: df["ds"].dt.day_name())
    fc = small(model, context_length=16, past_covariates=("day",), levels=[80]).fit(df)
    fc.save(tmp_path / "kept")
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["forecaster.json", "weights.safetensors"]
    twin = Forecaster.load(tmp_path / "kept", device="cpu")
    assert repr(twin) == repr(fc)
    pd.testing.assert_frame_equal(twin.predict(), fc.predict())
    pd.testing.assert_frame_equal(twin.predict(df), fc.predict(df))
    assert twin.fit_more(df, max_steps=2).predict().columns.tolist() == fc.predict().columns.tolist()


def test_what_cannot_be_saved_or_loaded(tmp_path, fitted):
    with pytest.raises(ConfigError, match=r"model = .* cannot be saved; use a name, a class of a module"):
        small(lambda series: DLinear(series)).set_params(model=[lambda series: DLinear(series)]).fit(panel()).save(
            tmp_path
        )
    with pytest.raises(DataError) as error:
        Forecaster.load("nowhere")
    assert str(error.value) == "no forecaster.json in 'nowhere'; give a folder that Forecaster.save wrote"
    fitted.save(tmp_path)
    file = tmp_path / "forecaster.json"
    file.write_text(file.read_text().replace('"model": "DLinear"', '"model": {"class": "os:system"}'))
    with pytest.raises(DataError, match="'os:system' is no module of torch"):
        Forecaster.load(tmp_path)


def test_fit_more_goes_on_from_the_weights(fitted):
    start = small().fit(panel())
    more = start.clone().fit(panel()).fit_more(panel(), max_steps=1, learning_rate=1e-12)
    np.testing.assert_allclose(more.predict()["DLinear"], start.predict()["DLinear"], rtol=1e-4)
    assert more.fit_more(panel(("q",)), max_steps=2).predict()["unique_id"].unique().tolist() == ["q"]


@pytest.mark.parametrize("options", [{}, {"mode": "multivariate"}, {"calendar": True, "loss": "quantile"}])
@pytest.mark.parametrize("exported", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_exported_graph_gives_the_same_numbers(tmp_path, options, exported):
    fc = small(**options).fit(panel())
    graph = graph_of(fc.fitted_, 0)
    if exported:
        fc.export(tmp_path / "model.pt2")
        graph = torch.export.load(tmp_path / "model.pt2").module()
    ends = fc.fitted_.ends
    inputs = {"x": ends.values}
    if fc.mode_ == "global":
        inputs |= {"loc": ends.loc, "scale": ends.scale}
    if fc.calendar:
        f = fc.fitted_
        known = ahead(f.inputs, f.reading, f.clock, f.ids, f.last, 6, None, joint=f.plan.joint)
        inputs["future"] = np.concatenate([ends.future, known], 1)
    y = graph(**{name: torch.from_numpy(x).float() for name, x in inputs.items()})
    expected = fc.predict()["DLinear"].to_numpy().reshape(2, 6)
    found = y.detach().numpy()[0].T if fc.mode_ == "multivariate" else y.detach().numpy()[..., 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_onnx_gives_the_same_numbers(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    fc = small().fit(panel(("a",)))
    fc.export(tmp_path / "model.onnx")
    x = fc.fitted_.ends.values.astype(np.float32)
    (y,) = runtime.InferenceSession(tmp_path / "model.onnx").run(None, {"x": np.repeat(x, 3, 0)})
    np.testing.assert_allclose(y[2, :, 0], fc.predict()["DLinear"], rtol=1e-5)


def test_importing_the_name_is_light():
    code = (
        "import sys, seqmix; from seqmix import Forecaster; Forecaster('DLinear', 3)\n"
        "assert not sys.modules.keys() & {'torch', 'lightning', 'sklearn', 'matplotlib', 'pyarrow.dataset'}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("loss", ["quantile", "normal"])
def test_conformal_quantiles_hold_the_validation_rows(loss):
    """Far too narrow before: after three steps of training the intervals know nothing of the spread."""
    rng = np.random.default_rng(0)
    df = panel(tuple(range(60)), 160).assign(y=lambda df: df["y"] + rng.standard_t(3, len(df)))
    options = {"loss": loss, "levels": [50, 80], "max_steps": 3}
    raw, moved = (small(conformal=on, **options).cross_validation(df, n_windows=3) for on in (False, True))

    def coverage(cv, level):
        inside = (cv[f"DLinear-lo-{level}"] <= cv["y"]) & (cv["y"] <= cv[f"DLinear-hi-{level}"])
        return 100 * inside.mean()

    for level in (50, 80):
        # 180 windows of six steps each: two standard errors of a share of independent ones are 7 points
        assert abs(coverage(moved, level) - level) < 7
    assert abs(coverage(raw, 80) - 80) > 15
    assert (moved["DLinear-lo-80"] <= moved["DLinear-lo-50"]).all()
    fc = small(conformal=True, **options).fit(df)
    with pytest.raises(ConfigError) as error:
        fc.predict(levels=[90])
    assert str(error.value) == "levels [90] were not calibrated, [50, 80] were; fit with levels=[90]"


@pytest.mark.parametrize(("n", "apart"), [(100, False), (400, True)])
def test_intervals_come_from_rows_that_early_stopping_has_not_seen(n, apart, monkeypatch):
    """A jump in the last validation rows: it widens the intervals, and moves no weight where there is room for both."""
    calm, wild = panel(n=n), panel(n=n)
    wild.loc[wild.groupby("unique_id").tail(3).index, "y"] += 50
    fits = [small(max_steps=20, levels=[80]).fit(df) for df in (calm, wild)]
    one, two = (fc.history_["val_mse"].dropna().to_numpy() for fc in fits)
    assert np.array_equal(one, two) == apart
    widths = [(p["DLinear-hi-80"] - p["DLinear-lo-80"]).iloc[5] for p in (fc.predict() for fc in fits)]
    assert widths[1] > widths[0]


def test_a_series_weighs_as_in_mase():
    """Scaled by the error of the season before, not by the deviation: a steep trend does not hide the cycle."""
    df = panel(n=120)
    df["y"] += np.tile(np.arange(120) ** 2 / 50, 2) * (df["unique_id"] == "b")
    fc = small().fit(df)
    error = df["y"].groupby(df["unique_id"]).apply(lambda y: y[:108].diff(7).abs().mean())
    deviation = df["y"].groupby(df["unique_id"]).apply(lambda y: y[:108].std(ddof=0))
    # 'a' repeats itself exactly: its deviation has to do
    np.testing.assert_allclose(fc.fitted_.scale[:, 0], [deviation["a"], error["b"]], rtol=1e-6)
    np.testing.assert_allclose(fc.fitted_.deviation, deviation, rtol=1e-6)
    # models that tell series apart are free of that weight
    short = partial(MixerForecaster, mixer=Pool, patch_len=7)
    for options in ({"scaler": "standard"}, {"model": short}, {"model": ["DLinear", short]}):
        standard = small(**options).fit(df)
        np.testing.assert_allclose(standard.fitted_.scale[:, 0], deviation, rtol=1e-6)
    new = fc.predict(df.assign(unique_id=lambda df: df["unique_id"] + "'"))
    np.testing.assert_allclose(new["DLinear"], fc.predict()["DLinear"], rtol=0.2)


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as error:
        Forecaster.load("seqmix/nothing-here")
    assert str(error.value) == (
        "'seqmix/nothing-here' is no folder, and the hub gives no such repository (LocalEntryNotFoundError); check "
        "name and connection, or give a folder that Forecaster.save wrote"
    )


class Zero(ForecastModel):
    """Says that nothing changes."""

    def forward(self, x, *, future=None, static=None, past=None):
        return 0 * x[:, :1].expand(-1, self.series.horizon, -1)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("season", [1, 3, 14])
def test_a_model_of_differences_starts_from_the_season_before(season, missing):
    """Added to the season before, nothing is the season before; where that is missing, the mean of the window."""
    x = torch.randn(2, 14, 3, dtype=torch.float64)
    batch = {"x": x, "y": torch.zeros(2, 6, 3)}
    task = Forecasting(Zero, Series(3, 14, 6), normalize="season", season=season)
    expected = torch.cat([x[:, -season:]] * 6, 1)[:, :6]
    if missing:
        mask = torch.ones_like(x, dtype=torch.bool)
        mask[:, -1] = False
        batch["x_mask"] = mask
        last = (torch.arange(6) % season == season - 1)[None, :, None]
        expected = torch.where(last, x[:, :-1].mean(1, keepdim=True), expected)
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
    assert task.normalize == found and task.season == fc.season_


@pytest.mark.slow
@pytest.mark.skipif("SEQMIX_DATA" not in os.environ, reason="needs M4 in $SEQMIX_DATA")
@pytest.mark.parametrize("options", [{}, {"loss": "quantile", "conformal": True}])
def test_coverage_on_m4_hourly(options):
    """Intervals of 80 and 95 percent hold that share of the test hours, within 5 points over the series."""
    folder = Path(os.environ["SEQMIX_DATA"]) / "m4"
    parts = [pd.read_csv(folder / f"Hourly-{name}.csv.gz", index_col=0) for name in ("train", "test")]
    df = pd.concat([part.stack().dropna() for part in parts]).rename("y").rename_axis(["unique_id", "ds"])
    df = df.reset_index().assign(ds=lambda df: df.groupby("unique_id").cumcount())
    fc = Forecaster("DLinear", 48, season=24, levels=[80, 95], max_steps=300, device="cpu", **options)
    cv = fc.cross_validation(df)
    for level in (80, 95):
        inside = (cv[f"DLinear-lo-{level}"] <= cv["y"]) & (cv["y"] <= cv[f"DLinear-hi-{level}"])
        assert abs(100 * inside.groupby(cv["unique_id"]).mean().mean() - level) < 5
