"""Forecaster("auto"): weights learned on a backtest, no leak, a budget, and members that fail."""

import sys
import time
import warnings
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from daily_panel import panel, small

from seqmix import Forecaster
from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.auto import portfolio, stats
from seqmix.forecasting.auto.holdout import make_holdout
from seqmix.forecasting.auto.theta import theta
from seqmix.forecasting.auto.weights import combined, learn
from seqmix.forecasting.folder import read_long
from seqmix.forecasting.frame import Reading
from seqmix.models import DLinear, ForecastModel


def auto(*members, **options):
    given = {"model_kwargs": {"members": list(members)}} if members else {}
    return small("auto", **{"context_length": None, **given, **options})


class Fragile(ForecastModel):
    """Repeats the last value until it breaks."""

    linear = True
    broken = False

    def forward(self, x, *, future=None, static=None, past=None):
        if self.broken:
            raise RuntimeError("it broke")
        return x[:, -1:].expand(-1, self.series.horizon, -1)


def rows(values, name="x"):
    return pd.DataFrame({"unique_id": name, "ds": pd.date_range("2024-01-01", periods=len(values)), "y": values})


@pytest.mark.parametrize(("mode", "n", "tested"), [("auto", 5, 4), ("auto", 4, 4), ("multivariate", 5, 5)])
def test_models_of_all_series_are_compared_on_all_of_them(mode, n, tested, monkeypatch):
    """As many series may be channels of one as models are compared on."""
    monkeypatch.setattr("seqmix.forecasting.auto.holdout.MOST_CHANNELS", 4)
    test = make_holdout(read_long(panel(range(n), 20), Reading()), 3, 1, 0, mode)
    assert len(test.long.ids) == tested and len(test.train.ids) == n


@pytest.mark.parametrize(
    ("n", "length", "windows", "first"), [(1, 20, 3, 9), (1, 200, 13, 39), (2, 900, 32, 180), (170, 200, 3, 9)]
)
def test_long_series_have_more_windows(n, length, windows, first):
    """Up to 32, in the last fifth of their rows, unless there are many series."""
    test = make_holdout(read_long(panel(range(n), length), Reading()), 3, 1, 0, "auto")
    assert len(test.rows) == windows and test.rows[0] == first and test.rows[-1] == 3 and (test.rows % 3 == 0).all()
    assert test.truth.shape == (n, windows, 3) and np.diff(test.train.indptr).tolist() == [length - first] * n


def test_a_portfolio_is_compared_and_combined(capfd):
    fc = auto(levels=[50, 80]).fit(panel())
    board = fc.leaderboard_
    assert board.columns.tolist() == ["model", "MASE", "WQL", "weight", "seconds", "note"]
    assert board["model"][0] == "auto" and set(board["model"][1:]) >= {"SeasonalNaive", "Drift", "Theta", "DLinear"}
    assert board["weight"][1:].sum() == pytest.approx(1) and capfd.readouterr() == ("", "")
    out = fc.predict(quantiles=[0.1, 0.5])
    names = ["auto", "auto-lo-50", "auto-hi-50", "auto-lo-80", "auto-hi-80", "auto_q0.1", "auto_q0.5"]
    assert out.columns.tolist() == ["unique_id", "ds", *names]
    assert (out["auto-lo-80"] <= out["auto-lo-50"]).all() and (out["auto-hi-50"] <= out["auto-hi-80"]).all()
    np.testing.assert_allclose(out["auto_q0.1"], out["auto-lo-80"])
    np.testing.assert_allclose(out["auto_q0.5"], out["auto"])
    # a perfect cycle
    np.testing.assert_allclose(out["auto"][:6], np.sin(np.arange(100, 106) / 7 * 2 * np.pi), atol=0.05)
    pd.testing.assert_frame_equal(fc.predict(panel(), quantiles=[0.1, 0.5]), out)


def test_what_was_learned_is_saved(tmp_path):
    fc = auto("Drift", "Theta", "DLinear", "ZeroShot", partial(DLinear, kernel_size=5), levels=[80]).fit(panel(n=60))
    fc.save(tmp_path / "auto")
    twin = Forecaster.load(tmp_path / "auto")
    pd.testing.assert_frame_equal(twin.predict(), fc.predict())
    pd.testing.assert_frame_equal(twin.predict(panel(("q",), 70)), fc.predict(panel(("q",), 70)))
    pd.testing.assert_frame_equal(twin.leaderboard_, fc.leaderboard_)
    with pytest.raises(ConfigError) as error:
        fc.fit_more(panel())
    assert str(error.value) == (
        "auto is not trained further: its weights are learned as a whole; call fit with all rows"
    )
    with pytest.raises(ConfigError, match=r"auto is not a single graph; fit and export one of its models, "):
        fc.export(tmp_path / "auto.pt2")


def test_rows_after_a_cutoff_change_nothing_before_it():
    df, spiked = panel(), panel()
    spiked.loc[spiked.groupby("unique_id").tail(6).index, "y"] += 100
    noise = np.random.default_rng(0).normal(size=len(df))
    one, two = (
        auto("Theta", "Ridge", "DLinear", levels=[80]).cross_validation(
            x.assign(y=x["y"] + noise), n_windows=2, refit=True
        )
        for x in (df, spiked)
    )
    first = one["cutoff"] == one["cutoff"].min()
    pd.testing.assert_frame_equal(one[first], two[first])


def test_a_part_that_fails_later_leaves_its_weight_to_the_others(monkeypatch):
    df = panel().assign(y=lambda x: np.random.default_rng(0).normal(size=len(x)))
    fc = auto("Drift", Fragile).fit(df)
    assert dict(zip(fc.leaderboard_["model"], fc.leaderboard_["weight"], strict=True))["Fragile"] > 0
    whole = fc.predict()
    monkeypatch.setattr(Fragile, "broken", True)
    with pytest.warns(UserWarning) as warned:
        rest = fc.predict()
    assert str(warned[0].message) == (
        "parts of auto failed, and the others stand in: [Fragile (RuntimeError: it broke)]"
    )
    assert rest["auto"].notna().all() and not rest["auto"].equals(whole["auto"])
    fc = auto(Fragile).fit(df)
    assert fc.notes_[-1] == "Fragile failed: RuntimeError: it broke"
    alone = small("SeasonalNaive", context_length=None).fit(df).predict()
    np.testing.assert_allclose(fc.predict()["auto"], alone["SeasonalNaive"], rtol=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        [3.0],
        [1.0, 2.0],
        [0.0] * 60,
        [5.0] * 60,
        [0.0, 0, 0, 4] * 15,
        [np.nan] * 30 + [1.0, 2] * 15,
        [*range(30), *[np.nan] * 30],
        list(range(12)),
        [1e12 + k for k in range(60)],
        [1e-9 * (k % 7) for k in range(60)],
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_odd_series_are_forecast(values, alone):
    df = rows(values) if alone else pd.concat([panel(), rows(values)], ignore_index=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = auto("Drift", "Theta", freq="D", levels=[80]).fit(df).predict()
    assert np.isfinite(out.select_dtypes("number")).all(axis=None)
    mine, known = out.loc[out["unique_id"] == "x", "auto"], np.array(values)[~np.isnan(values)]
    reach = np.ptp(known) + 1e-9 * abs(known).max()
    assert mine.between(known.min() - reach, known.max() + reach).all()


def test_covariates_reach_the_models_that_use_them():
    df = panel().assign(promo=lambda x: np.random.default_rng(0).integers(0, 2, len(x)) * 1.0)
    df["y"] += 3 * df["promo"]
    fc = auto("DLinear", "Theta", max_steps=60, learning_rate=0.02, future_covariates=["promo"]).fit(df)
    with_promo, without = (fc.predict(future_df=fc.make_future_dataframe().assign(promo=k))["auto"] for k in (1.0, 0.0))
    assert (with_promo - without).mean() > 0.5
    with pytest.raises(DataError, match=r"the models need the known-future columns \[promo\] for the horizon"):
        fc.predict()


def test_forecasts_are_measured_like_those_of_any_model():
    def worst(y, forecast):
        return np.abs(y - forecast).max()

    fc, df = auto("Drift", "Theta"), panel()
    df["y"] += np.random.default_rng(0).normal(size=len(df))
    tested = fc.cross_validation(df, n_windows=2, quantiles=[0.1, 0.5, 0.9])
    found = fc.evaluate(tested, ["mae", "mase", "wql", worst])
    assert found["model"].unique().tolist() == ["auto"] and np.isfinite(found["value"]).all() and len(found) == 4
    assert fc.fit(df).evaluate(df, ["mae", worst])["value"].notna().all()


def test_the_budget_leaves_slow_models_out(monkeypatch):
    def slow(y, season, horizon):
        time.sleep(0.2)
        return np.zeros((len(y), horizon))

    monkeypatch.setitem(portfolio._LOCAL, "Slow", slow)
    fc = auto("Drift", "Slow", budget=0.5).fit(panel([f"s{k}" for k in range(30)], 50))
    board = fc.leaderboard_.set_index("model")
    assert board["weight"]["Slow"] == 0 and board["note"]["Slow"].startswith("left out: it needs ")
    assert board["note"]["Drift"] == "" and board["seconds"]["Slow"] < 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "soon"}, "budget = 'soon' is not a time; use seconds, or for example '1min'"),
        ({"budget": -1}, "budget = -1 is not a time; use seconds, or for example '1min'"),
        ({"model": "DLinear", "budget": 5}, "budget = 5 is the time of model='auto'; limit max_steps, or leave it out"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError) as error:
        Forecaster(**{"model": "auto", "horizon": 3, **options})
    assert str(error.value) == message


def test_weights_follow_each_series_and_doubt_few_windows():
    generator = np.random.default_rng(0)
    truth = generator.normal(size=(40, 2, 5)).cumsum(1)
    noise = generator.normal(size=(2, 40, 2, 5))
    # the first is better on the first half of the series, the second on the others
    size = np.where(np.arange(40) < 20, [[0.1], [1.0]], [[1.0], [0.1]])[..., None, None]
    points, prior = truth + noise * size, np.ones(2)
    losses = np.abs(points - truth)
    found = learn(losses, prior)
    assert (found.series[0, :20] > 0.8).all() and (found.series[1, 20:] > 0.8).all()
    np.testing.assert_allclose(found.series.sum(0), 1)
    np.testing.assert_allclose(found.panel, found.of(np.array([-1]))[:, 0])
    assert (found.of(np.array([3]))[:, 0] == found.series[:, 3]).all()
    # one window says less than two, and less than all series together
    few = learn(losses[:, :, :1], prior)
    assert few.series[0, :20].mean() < found.series[0, :20].mean()
    # a break that no model came near does not decide
    broken = np.abs(points - np.where(np.arange(40)[:, None, None] == 7, 1e15, truth))
    np.testing.assert_allclose(learn(broken, prior).series[:, 8:], found.series[:, 8:], atol=0.05)
    # a window counts relative to itself
    even = learn(np.array([[1.0, 100], [2, 50]]).reshape(2, 1, 2, 1), prior)
    np.testing.assert_allclose(even.series, 0.5, rtol=1e-4)
    # nothing known: the prior
    unknown = learn(losses * np.nan, np.array([1.0, 3]))
    np.testing.assert_allclose(unknown.of(np.array([-1, 5])), [[0.25] * 2, [0.75] * 2])
    lost = np.where([[[True]], [[False]]], np.nan, points[:, :, 0])
    np.testing.assert_allclose(combined(lost, found.series), points[1, :, 0])


def test_theta_is_that_of_statsforecast():
    models = pytest.importorskip("statsforecast.models")
    generator = np.random.default_rng(0)
    t = np.arange(120)
    for y, season in (
        (generator.normal(size=(4, 120)).cumsum(1) + 50, 1),
        (50 + 0.1 * t + 5 * np.sin(t / 6 * np.pi) + generator.normal(size=(4, 120)), 12),
    ):
        theirs = [models.DynamicOptimizedTheta(season_length=season).forecast(row, 12)["mean"] for row in y]
        # least squares against an optimizer that stops near the optimum: a small part of the spread of the values
        assert np.abs(theta(y, season, 12) - theirs).mean() < 0.02 * y.std()


def test_statistical_models_join_where_they_are_installed(monkeypatch):
    """The names are known by the package alone; a stand-in shows how they are called."""
    assert {"AutoETS", "AutoCES", "AutoTheta"} <= set(stats.stats_models()) or not find_spec("statsforecast")

    class AutoETS:
        def __init__(self, season_length):
            self.season = season_length

        def forecast(self, y, h):
            assert np.isfinite(y).all()
            if y.max() > 90:
                raise ValueError("no")
            return {"mean": np.full(h, y[-self.season])}

    monkeypatch.setitem(sys.modules, "statsforecast", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "statsforecast.models", SimpleNamespace(AutoETS=AutoETS))
    y = np.array([[np.nan, *range(9)], [*range(90, 100)], [np.nan] * 7 + [1.0, 2, 3]])
    found = stats._forecasts("AutoETS", y, 3, 2)
    np.testing.assert_array_equal(found, [[6, 6], [np.nan] * 2, [np.nan] * 2])
