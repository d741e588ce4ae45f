"""Cross-validation and errors: no leak, every window, scales of the training rows."""

import numpy as np
import pandas as pd
import pytest
from daily_panel import panel, small


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
    train = panel().groupby("unique_id").head(85)
    naive = train.groupby("unique_id")["y"].apply(lambda y: y.diff(5).abs().mean())
    mase = fitted.evaluate(cv, ("mase",), by="unique_id").set_index("unique_id")["value"]
    np.testing.assert_allclose(mase, np.array([1.0, 3.0]) / naive, rtol=1e-6)
    scale = train.groupby("unique_id")["y"].std(ddof=0)
    standard = fitted.evaluate(cv, ("mae",), by="unique_id", standardized=True).set_index("unique_id")["value"]
    np.testing.assert_allclose(standard, np.array([1.0, 3.0]) / scale, rtol=1e-6)
    assert fitted.evaluate(panel(), ("mae",))["value"].notna().all()
