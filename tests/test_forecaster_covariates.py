"""Covariates: they reach the models, and what is wrong with them is said."""

import numpy as np
import pandas as pd
import pytest
from daily_panel import panel, small

from seqmix.errors import ConfigError, DataError


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


def two(promo_a, promo_b):
    """The daily series, each with a column of its own."""
    return panel().assign(promo=np.r_[promo_a, promo_b].astype(float))


def test_joint_models_keep_one_input_or_one_for_each_series():
    """The fit decides: what all shared then is refused when it differs, what differed then may be the same."""
    even, odd = np.arange(100) % 2, np.arange(100) % 3 == 0
    options = {"mode": "multivariate", "future_covariates": ["promo"]}
    fc = small(**options).fit(two(even, even))
    assert fc.tasks_["DLinear"].series.n_future == 1
    future = fc.make_future_dataframe()
    fc.predict(future_df=future.assign(promo=1.0))
    with pytest.raises(DataError) as error:
        fc.predict(future_df=future.assign(promo=(future["unique_id"] == "b") * 1.0))
    assert str(error.value) == (
        "column 'promo' had the same values for all series when the models were fitted, so that they have one input "
        "for all, and now 'b' differs from 'a'; give the same values, or fit with mode='global'"
    )
    fc = small(**options, calendar=True).fit(two(even, odd))
    assert fc.tasks_["DLinear"].series.n_future == 2 + 3
    assert fc.predict(two(even, even), future_df=future.assign(promo=0.0))["DLinear"].notna().all()


@pytest.mark.parametrize("options", [{"calendar": True}, {"future_covariates": ["promo"]}])
def test_a_part_of_the_horizon_is_forecast_as_in_the_whole(options):
    """Models see the inputs of all their steps, however few are asked for."""
    fc = small("Pool", context_length=16, **options).fit(two(np.arange(100) % 5, np.arange(100) % 3))
    future = fc.make_future_dataframe(horizon=12).assign(promo=np.arange(24.0))
    whole = fc.predict(future_df=future)
    part = fc.predict(future_df=future, horizon=2)
    np.testing.assert_allclose(part["Pool"], whole.groupby("unique_id").head(2)["Pool"])
    with pytest.warns(UserWarning, match="longer than the fitted"):
        longer = fc.predict(future_df=future, horizon=8)
    np.testing.assert_allclose(longer.groupby("unique_id").head(6)["Pool"], whole["Pool"], rtol=1e-6)
    if "calendar" not in options:
        with pytest.warns(UserWarning, match="the last row stands for those after step 2"):
            fc.predict(future_df=future.groupby("unique_id").head(2), horizon=2)


def test_a_baseline_beside_a_model_needs_no_covariates():
    df = two(np.arange(100) % 5, np.arange(100) % 3)
    fc = small(["DLinear", "SeasonalNaive"], future_covariates="promo").fit(df)
    assert [task.series.n_future for task in fc.tasks_.values()] == [1, 0]
    with pytest.raises(ConfigError, match="SeasonalNaive uses no covariates, got promo; use DLinear, Mixer"):
        small("SeasonalNaive", future_covariates=["promo"]).fit(df)
