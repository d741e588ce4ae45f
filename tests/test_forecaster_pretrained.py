"""Pretrained models in the Forecaster: forecasts without a fit, fine-tuning that never harms, own intervals."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from daily_panel import panel, small
from stand_ins import Walk

from seqmix import Forecaster
from seqmix.errors import ConfigError, DataError, NotFittedError


def unfitted(model=Walk, **options):
    return Forecaster(model, **{"horizon": 6, "device": "cpu", **options})


def test_it_forecasts_without_a_fit_and_stays_unfitted():
    fc = unfitted(levels=[80], verbose=True)
    out = fc.predict(panel())
    assert out.columns.tolist() == ["unique_id", "ds", "Walk", "Walk-lo-80", "Walk-hi-80"]
    last = panel().groupby("unique_id")["y"].last()
    np.testing.assert_allclose(out["Walk"], last.to_numpy().repeat(6), rtol=1e-5, atol=1e-6)
    assert not hasattr(fc, "fitted_")
    # another frame is read anew: other frequency, other ids, other length
    other = pd.DataFrame({"ds": pd.date_range("2020", periods=3, freq="MS"), "y": [1.0, 2.0, 4.0]})
    assert fc.predict(other)["ds"].tolist() == pd.date_range("2020-04", periods=6, freq="MS").tolist()
    named = other.rename(columns={"ds": "month", "y": "sold"})
    assert fc.predict(named, time_col="month", target_col="sold").columns.tolist()[:2] == ["unique_id", "month"]
    with pytest.raises(NotFittedError):
        fc.save("nowhere")
    with pytest.raises(ConfigError) as error:
        fc.set_params(max_steps=0).fit(other).predict(named, target_col="sold")
    assert str(error.value) == "target_col = 'sold', and the models were fitted with 'y'; rename the column"


def test_a_fit_without_steps_forecasts_the_same(tmp_path):
    df = panel()
    fc = unfitted(levels=[80, 95], max_steps=0).fit(df)
    want = unfitted(levels=[80, 95]).predict(df)
    pd.testing.assert_frame_equal(fc.predict(), want)
    assert fc.plan_.context == fc.context_ == 40 and fc.plan_.normalize == "none" and fc.report_["windows"] == 0
    fc.save(tmp_path)
    pd.testing.assert_frame_equal(Forecaster.load(tmp_path).predict(), want)
    pd.testing.assert_frame_equal(fc.clone().fit(df).predict(), want)


@pytest.mark.parametrize("rows", [1, 2, 7, 39, 41])
def test_any_length_is_served(rows):
    """From one row up, without a warning; what a longer history adds before the context changes nothing."""
    df = panel(n=rows)
    out = unfitted(levels=[80], freq="D").predict(df)
    np.testing.assert_allclose(out["Walk"], df.groupby("unique_id")["y"].last().to_numpy().repeat(6), atol=1e-5)
    assert np.isfinite(out["Walk-hi-80"]).all()


def test_missing_values_are_masked():
    df = panel(("a",))
    df.loc[df.index[-3:], "y"] = np.nan
    assert unfitted().predict(df)["Walk"].to_numpy() == pytest.approx(df["y"].iloc[-4], rel=1e-5)


def test_any_horizon_is_built_not_fed_back():
    """Intervals widen beyond the fitted horizon, as those of a model built for it."""
    df = panel()
    fc = unfitted(max_steps=0, levels=[80]).fit(df)
    far = fc.predict(horizon=20)
    pd.testing.assert_frame_equal(far, unfitted(levels=[80]).predict(df, horizon=20))
    pd.testing.assert_frame_equal(far, unfitted(levels=[80], horizon=20).predict(df))
    width = (far["Walk-hi-80"] - far["Walk-lo-80"]).to_numpy().reshape(2, 20)
    np.testing.assert_allclose(width / width[:, :1], np.sqrt(np.arange(1, 21))[None].repeat(2, 0), rtol=1e-4)


def test_quantiles_are_its_own():
    df, qs = panel(), [0.01, 0.15, 0.5, 0.99]
    out = unfitted().predict(df, quantiles=qs)
    assert (out["Walk_q0.5"] == out["Walk"]).all()
    both = unfitted().predict(df, quantiles=[0.1, 0.2])
    np.testing.assert_allclose(out["Walk_q0.15"], both[["Walk_q0.1", "Walk_q0.2"]].mean(axis=1), rtol=1e-5)
    for options, asked in ({"levels": [99]}, "levels = [99]"), ({"quantiles": [0.995]}, "quantiles = [0.995]"):
        with pytest.raises(ConfigError) as error:
            unfitted().predict(df, **options)
        assert str(error.value) == (
            f"{asked} reach beyond what Walk forecasts, quantiles 0.01 to 0.99; use levels up to 98"
        )
    with pytest.raises(ConfigError, match="reach beyond what Walk forecasts"):
        unfitted(levels=[99]).fit(df)


def test_models_that_need_training_are_named():
    with pytest.raises(NotFittedError) as error:
        unfitted([Walk, "DLinear"]).predict(panel())
    assert str(error.value) == ("this Forecaster is not fitted, and DLinear needs training; call fit() or load()")
    with pytest.raises(ConfigError) as error:
        unfitted([Walk, "DLinear"], max_steps=0).fit(panel())
    assert str(error.value) == "max_steps = 0 is for pretrained models, and DLinear needs training; use 1 or more"


@pytest.mark.parametrize("option", [{"loss": "normal"}, {"context_length": 20}, {"normalize": "last"}])
def test_what_it_has_of_its_own_is_refused(option):
    with pytest.raises(ConfigError, match=f"{next(iter(option))} = .* is for models that are not pretrained"):
        unfitted(**option).predict(panel())


def test_covariates_are_refused_by_name():
    with pytest.raises(ConfigError, match="Walk uses no covariates, got z; use"):
        unfitted(past_covariates=["z"]).predict(panel().assign(z=1.0))


def trended(n=120):
    """Series that rise by a step, which a random walk without drift misses."""
    days = pd.date_range("2024-01-01", periods=n)
    return pd.concat(
        [pd.DataFrame({"unique_id": i, "ds": days, "y": np.arange(n) * s}) for i, s in (("a", 1), ("b", 3))]
    )


def test_a_fit_fine_tunes():
    fc = unfitted(max_steps=60, learning_rate=0.05).fit(trended())
    assert fc.tasks_["Walk"].model.drift > 0.02
    assert fc.history_["step"].tolist()[0] == 0
    # windows from a horizon of rows on: 105 rows to train on, 6 to forecast from and 6 to forecast
    assert fc.report_["windows"] == 2 * (105 - 11)
    assert fc.history_["val_mse"].iloc[0] > 4 * fc.report_["best_val_mse"][0]


def test_steps_that_do_not_help_are_taken_back():
    """The weights of the package are right for a random walk, and a rate far too high leads away from them."""
    steps = np.random.default_rng(0).standard_normal(300)
    df = pd.DataFrame({"ds": pd.date_range("2024", periods=300), "y": np.cumsum(steps)})
    fc = unfitted(partial(Walk, drift=0.0), max_steps=20, learning_rate=5.0, early_stopping=None).fit(df)
    assert fc.tasks_["Walk"].model.drift == 0 and len(fc.history_) > 2
    assert fc.report_["best_val_mse"][0] == fc.history_["val_mse"].iloc[0]
    pd.testing.assert_frame_equal(fc.predict(), unfitted().predict(df))


def test_weights_stay_where_nothing_validates():
    fc = unfitted().fit(panel(n=9))
    assert fc.notes_[0] == "no series is long enough for validation: the weights of Walk stay as they are"
    pd.testing.assert_frame_equal(fc.predict(), unfitted().predict(panel(n=9)))
    further = fc.fit_more(trended(), learning_rate=0.05, max_steps=20)
    assert further.tasks_["Walk"].model.drift != 0


def test_models_of_one_list_have_their_own_context_and_loss(tmp_path):
    df = panel(n=200)
    options = {"levels": [80], "learning_rate": 0.01, "context_length": 14, "max_steps": 5}
    fc = small([Walk, "DLinear", "SeasonalNaive"], **options).fit(df)
    out = fc.predict()
    pd.testing.assert_frame_equal(out, fc.predict(df))
    assert [m.plan.context for m in fc.fitted_.members] == [40, 14, 14]
    alone = small("DLinear", **{**options, "scaler": "standard"}).fit(df).predict()
    for name in ("DLinear", "DLinear-lo-80"):
        np.testing.assert_array_equal(out[name], alone[name])
    fc.save(tmp_path)
    pd.testing.assert_frame_equal(Forecaster.load(tmp_path).predict(), out)
    cv = fc.cross_validation(df, n_windows=2)
    assert {"Walk", "Walk-hi-80", "DLinear-lo-80", "SeasonalNaive"} <= set(cv)


def test_cross_validation_without_steps():
    """No row is trained on, and one row before the first cutoff is enough."""
    df = panel(n=13)
    cv = unfitted([Walk], max_steps=0).cross_validation(df, n_windows=2)
    assert len(cv) == 2 * 2 * 6
    want = df[df["ds"] == df["ds"].iloc[0]]["y"].to_numpy()
    first = cv[cv["cutoff"] == cv["cutoff"].min()]
    np.testing.assert_allclose(first["Walk"], want.repeat(6), atol=1e-6)
    with pytest.raises(DataError, match="too short"):
        unfitted([Walk], max_steps=0).cross_validation(df, n_windows=3)


def test_conformal_calibrates_on_held_out_rows():
    df = panel(n=300)
    plain, fitted = unfitted(levels=[80]).predict(df), unfitted(levels=[80], conformal=True, max_steps=0).fit(df)
    out = fitted.predict()
    assert not np.allclose(out["Walk-hi-80"], plain["Walk-hi-80"], atol=0.1)
    np.testing.assert_allclose(out["Walk"], plain["Walk"], atol=1e-6)
    pd.testing.assert_frame_equal(unfitted(levels=[80], conformal=True).predict(df), out)


def test_frames_of_other_kinds(tmp_path):
    want = unfitted().predict(panel())
    pl = pytest.importorskip("polars")
    out = unfitted().predict(pl.from_pandas(panel()))
    assert isinstance(out, pl.DataFrame)
    np.testing.assert_array_equal(out["Walk"].to_numpy(), want["Walk"])
    for name, part in panel().groupby("unique_id"):
        part.to_parquet(tmp_path / f"{name}.parquet")
    np.testing.assert_allclose(unfitted().predict(tmp_path)["Walk"], want["Walk"], rtol=1e-6, atol=1e-6)


def test_a_graph_has_its_intervals(tmp_path):
    fc = unfitted(levels=[80, 50], max_steps=0).fit(panel(("a",)))
    fc.export(tmp_path / "walk.pt2")
    graph = torch.export.load(tmp_path / "walk.pt2").module()
    y = torch.from_numpy(panel(("a",))["y"].to_numpy()[-40:].astype(np.float32))[None, :, None]
    found = graph(x=y, mask=torch.ones_like(y, dtype=torch.bool))
    want = fc.predict()[["Walk", "Walk-lo-50", "Walk-hi-50", "Walk-lo-80", "Walk-hi-80"]].to_numpy().T
    np.testing.assert_allclose(torch.stack(found).detach()[:, 0, :, 0].numpy(), want, rtol=1e-5, atol=1e-5)


def test_zero_shot_continues_a_cycle(tmp_path):
    """The weights of the package: values, intervals, a far horizon without damping, short and broken histories."""
    df, t = panel(), np.arange(100, 300)
    fc = unfitted("ZeroShot", levels=[80, 95], max_steps=0).fit(df)
    out = fc.predict(horizon=200)
    truth = np.concatenate([np.sin(t / 7 * 2 * np.pi) + level for level in (0, 5)])
    assert np.abs(out["ZeroShot"] - truth).max() < 0.1
    rising = out[["ZeroShot-lo-95", "ZeroShot-lo-80", "ZeroShot", "ZeroShot-hi-80", "ZeroShot-hi-95"]].to_numpy()
    assert (np.diff(rising, axis=1) >= -1e-6).all()
    pd.testing.assert_frame_equal(unfitted("ZeroShot", levels=[80, 95]).predict(df, horizon=200), out)
    fc.save(tmp_path)
    pd.testing.assert_frame_equal(Forecaster.load(tmp_path).predict(horizon=200), out)
    holed = df.mask(df["ds"].dt.day % 5 == 0, other=np.nan).assign(unique_id=df["unique_id"], ds=df["ds"])
    for frame in (df.groupby("unique_id").tail(3), holed):
        assert np.isfinite(unfitted("ZeroShot", levels=[80]).predict(frame).select_dtypes("number")).all(axis=None)


def test_zero_shot_beside_others():
    """One list, each with its own plan; the seasonal naive model forecasts what it does alone."""
    df = panel()
    out = small(["SeasonalNaive", "ZeroShot"], levels=[80], max_steps=0).fit(df).predict()
    alone = small("SeasonalNaive", levels=[80], scaler="standard").fit(df).predict()
    pd.testing.assert_frame_equal(out[alone.columns], alone)
    assert {"ZeroShot", "ZeroShot-lo-80", "ZeroShot-hi-80"} <= set(out)
