"""Cross-validation and errors: no leak, every window, scales of the training rows."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from daily_panel import panel, small
from utilsforecast import losses

from seqmix.errors import ConfigError, DataError


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
    train = panel().groupby("unique_id").head(88)
    naive = train.groupby("unique_id")["y"].apply(lambda y: y.diff(5).abs().mean())
    mase = fitted.evaluate(cv, ("mase",), by="unique_id").set_index("unique_id")["value"]
    np.testing.assert_allclose(mase, np.array([1.0, 3.0]) / naive, rtol=1e-6)
    scale = train.groupby("unique_id")["y"].std(ddof=0)
    standard = fitted.evaluate(cv, ("mae",), by="unique_id", standardized=True).set_index("unique_id")["value"]
    np.testing.assert_allclose(standard, np.array([1.0, 3.0]) / scale, rtol=1e-6)
    assert fitted.evaluate(panel(), ("mae",))["value"].notna().all()


def test_series_too_short_for_a_test_are_left_out_of_it():
    df = pd.concat([panel(), panel(("new",), 5)], ignore_index=True)
    with pytest.warns(UserWarning) as warned:
        cv = small().cross_validation(df)
    assert str(warned[0].message) == ("1 of 3 series are too short for a test of 6 rows and are left out: [new (5)]")
    pd.testing.assert_frame_equal(cv, small().cross_validation(panel()))


def test_a_test_is_measured_without_a_fit():
    """Scales come from the rows before the first cutoff: those of the test, or given ones, never later ones."""
    df = panel().assign(y=lambda df: df["y"] + np.random.default_rng(0).normal(size=200))
    fc = small()
    cv = fc.cross_validation(df, n_windows=2)
    found = fc.evaluate(cv, "mase", by="unique_id").set_index("unique_id")["value"]
    train = df.groupby("unique_id").head(88)
    naive = train.groupby("unique_id")["y"].apply(lambda y: y.diff(7).abs().mean())
    error = (cv["y"] - cv["DLinear"]).abs().groupby(cv["unique_id"]).mean()
    np.testing.assert_allclose(found, error / naive, rtol=1e-6)
    other = small()
    again = other.evaluate(cv, "mase", by="unique_id", train_df=df).set_index("unique_id")["value"]
    np.testing.assert_allclose(again, found, rtol=1e-6)
    assert other.evaluate(cv.drop(columns="unique_id"), "mae")["value"].notna().all()
    late = small().fit(df, val_size=0)
    with pytest.raises(DataError) as raised:
        late.evaluate(cv, "mase")
    assert str(raised.value) == (
        "metric 'mase' needs the rows before the first cutoff of each series, and this Forecaster has not "
        "measured them; pass train_df=..., or leave it out"
    )


def test_errors_of_intervals_and_of_functions_by_hand():
    fc = small(levels=[80])
    df = panel().assign(y=lambda df: df["y"] + np.arange(200) % 3)
    cv = fc.cross_validation(df)
    cv["DLinear"], cv["DLinear-lo-80"], cv["DLinear-hi-80"] = cv["y"] + 1, cv["y"] - 2, cv["y"] + 4
    cv.loc[cv["unique_id"] == "b", "DLinear-hi-80"] = cv["y"] - 1
    cv.loc[cv["unique_id"] == "b", "DLinear"] = cv["y"] - 1.5

    def worst(y, yhat):
        return np.abs(y - yhat).max()

    metrics = ["coverage", "msis", "pinball", "crps", "wql", "wape", "rmsse", worst]
    found = fc.evaluate(cv, metrics, by="unique_id").pivot(index="metric", columns="unique_id", values="value")
    groups = df.groupby("unique_id").head(94).groupby("unique_id")["y"]
    naive, rms = groups.apply(lambda y: y.diff(7).abs().mean()), groups.apply(lambda y: (y.diff(7) ** 2).mean() ** 0.5)
    size = cv["y"].abs().groupby(cv["unique_id"]).mean()
    # pinball of the quantiles 0.1, 0.5 and 0.9
    pinball = np.array([(0.1 * 2 + 0.5 * 1 + 0.1 * 4) / 3, (0.1 * 2 + 0.5 * 1.5 + 0.9 * 1) / 3])
    expected = {
        "coverage-80": [1, 0],
        "msis-80": np.array([6, 1 + 10 * 1]) / naive,
        "pinball": pinball,
        "crps": 2 * pinball,
        "wql": 2 * pinball / size,
        "wape": np.array([1, 1.5]) / size,
        "rmsse": np.array([1, 1.5]) / rms,
        "worst": [1, 1.5],
    }
    assert set(found.index) == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found.loc[name], values, rtol=1e-6, err_msg=name)
    # of all series at once: the sum of losses over the sum of values
    everywhere = fc.evaluate(cv, "wql")["value"].item()
    assert everywhere == pytest.approx(2 * pinball.mean() / size.mean(), rel=1e-6)
    apart = fc.evaluate(fc.cross_validation(df, n_windows=2), metrics[:-1], by="cutoff")
    assert apart.columns.tolist() == ["metric", "model", "cutoff", "value"] and apart["cutoff"].nunique() == 2
    shops = fc.evaluate(cv.assign(shop="x", town="y"), "wape", by="shop")
    assert shops[["model", "shop"]].to_numpy().tolist() == [["DLinear", "x"]]
    with pytest.raises(ConfigError, match="metrics = 'mea' is not known; use mse, mae"):
        fc.evaluate(cv, "mea")
    with pytest.raises(DataError, match="series 'q' was not fitted: it has no scale, no MASE"):
        fc.fit(df).evaluate(panel(("q", "a")))
    with pytest.raises(DataError, match="coverage needs intervals of every model"):
        fc.evaluate(cv[["unique_id", "ds", "cutoff", "y", "DLinear"]], "coverage")


def test_functions_of_utilsforecast_are_given_what_they_ask_for():
    """Means over the series of what utilsforecast finds for each series and cutoff."""
    df = panel().assign(y=lambda df: df["y"] + np.random.default_rng(0).normal(size=200))
    fc = small(levels=[60, 80], model=["DLinear", "SeasonalNaive"])
    cv, models = fc.cross_validation(df, n_windows=2), ["DLinear", "SeasonalNaive"]
    weekly = {"seasonality": 7, "train_df": df}
    lo, q = {m: f"{m}-lo-80" for m in models}, np.array([0.1, 0.2, 0.5, 0.8, 0.9])
    bounds = {m: [f"{m}-lo-80", f"{m}-lo-60", m, f"{m}-hi-60", f"{m}-hi-80"] for m in models}
    expected = {
        "mase": losses.mase(cv, models, **weekly),
        "rmsse": losses.rmsse(cv, models, **weekly),
        "scaled_mqloss": losses.scaled_mqloss(cv, bounds, q, **weekly),
        "mqloss": losses.mqloss(cv, bounds, q),
        "quantile_loss-0.1": losses.quantile_loss(cv, lo, q=0.1),
        "calibration-0.1": losses.calibration(cv, lo),
        "winkler_score-80": losses.winkler_score(cv, models, level=80),
        "rmae": losses.rmae(cv, models, baseline="SeasonalNaive"),
        "linex": losses.linex(cv, models, a=0.1),
    }
    bound = {"rmae": partial(losses.rmae, baseline="SeasonalNaive"), "linex": partial(losses.linex, a=0.1)}
    metrics = [bound.get(name, getattr(losses, name.partition("-")[0])) for name in expected]
    found = fc.evaluate(cv, metrics, train_df=df).pivot(index="metric", columns="model", values="value")
    by_cutoff = fc.evaluate(cv, metrics, train_df=df, by="cutoff").groupby(["metric", "model"])["value"].mean()
    for name, each in expected.items():
        if name != "rmae":
            np.testing.assert_allclose(found.loc[name, models], each[models].mean(), rtol=1e-6, err_msg=name)
            np.testing.assert_allclose(by_cutoff[name][models], each[models].mean(), rtol=1e-6, err_msg=name)
    assert found.loc["rmae", "SeasonalNaive"] == 1
    assert {"quantile_loss-0.9", "winkler_score-60", "calibration-0.5"} <= {*found.index}
    only = fc.evaluate(cv, partial(losses.quantile_loss, q=0.2))["metric"]
    assert only.tolist() == ["quantile_loss-0.2"] * 2
    # the last horizon of a long frame, scaled by the rows before it
    last = fc.fit(df).evaluate(df, losses.mase).set_index("model")["value"]
    again = losses.mase(fc.cross_validation(df), ["SeasonalNaive"], **weekly)["SeasonalNaive"].mean()
    assert last["SeasonalNaive"] == pytest.approx(again, rel=1e-6)
    with pytest.raises(DataError, match="mase needs the rows before the cutoffs; pass train_df="):
        fc.evaluate(cv, losses.mase)
    with pytest.raises(DataError, match="mase is measured for each series and cutoff; use by="):
        fc.evaluate(cv.assign(shop="x"), losses.mase, train_df=df, by="shop")
    points = cv[["unique_id", "ds", "cutoff", "y", "DLinear"]]
    for metric, needs in ((losses.coverage, "coverage needs intervals"), (losses.mqloss, "mqloss needs quantiles")):
        with pytest.raises(DataError, match=needs):
            fc.evaluate(points, metric)
