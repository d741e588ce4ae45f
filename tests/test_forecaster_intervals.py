"""Intervals of the Forecaster: nested, calibrated, and those of distributions."""

import numpy as np
import pandas as pd
import pytest
from daily_panel import panel, small
from lightning.pytorch.callbacks import Callback

from seqmix import Forecaster
from seqmix.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def fitted():
    return small().fit(panel())


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


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"loss": "quantile", "conformal": True}])
def test_coverage_on_m4_hourly(options, real_data):
    """Intervals of 80 and 95 percent hold that share of the test hours, within 5 points over the series."""
    folder = real_data("m4")
    parts = [pd.read_csv(folder / f"Hourly-{name}.csv.gz", index_col=0) for name in ("train", "test")]
    df = pd.concat([part.stack().dropna() for part in parts]).rename("y").rename_axis(["unique_id", "ds"])
    df = df.reset_index().assign(ds=lambda df: df.groupby("unique_id").cumcount())
    fc = Forecaster("DLinear", 48, season=24, levels=[80, 95], max_steps=300, device="cpu", **options)
    cv = fc.cross_validation(df)
    for level in (80, 95):
        inside = (cv[f"DLinear-lo-{level}"] <= cv["y"]) & (cv["y"] <= cv[f"DLinear-hi-{level}"])
        assert abs(100 * inside.groupby(cv["unique_id"]).mean().mean() - level) < 5


def test_intervals_of_series_that_move_together():
    """Sixty series on one random walk: they are calibrated on at least ten origins, and hold about what they should."""
    walk = np.cumsum(np.random.default_rng(3).normal(size=260))
    df = panel(tuple(range(60)), 260).assign(y=lambda df: np.tile(walk, 60) + df["unique_id"])
    fc = small("SeasonalNaive", season=1, levels=[80]).fit(df)
    assert not [note for note in fc.notes_ if "origins" in note]
    short = small("SeasonalNaive", season=1).fit(df.groupby("unique_id").head(30))
    assert short.notes_[-1] == "intervals are calibrated on 2 forecast origins; ten or more would be surer"
    cv = fc.cross_validation(df, n_windows=20, step_size=3, refit=4)
    inside = (cv["SeasonalNaive-lo-80"] <= cv["y"]) & (cv["y"] <= cv["SeasonalNaive-hi-80"])
    assert 0.7 < inside.mean() < 0.95


class Counter(Callback):
    """Counts the steps of training."""

    steps = 0

    def on_train_batch_end(self, *_):
        self.steps += 1


def test_levels_without_enough_windows_are_refused_before_training():
    """Of calibrated quantiles; around a point forecast they are by Student's t, and it is said."""
    counter = Counter()
    given = {"loss": "quantile", "conformal": True}
    fc = small(levels=[80, 99.5], trainer_kwargs={"callbacks": [counter]}, **given)
    with pytest.raises(DataError) as error:
        fc.fit(panel(("a",)))
    with pytest.raises(DataError):
        fc.set_params(levels=None).cross_validation(panel(("a",)), levels=[99.5])
    assert str(error.value) == (
        "intervals of level 99.5 need 199 calibration windows, got 37; use more windows, pool the series, or lower the "
        "level"
    )
    assert not counter.steps
    fc = small(levels=[80, 99.5]).fit(panel(("a",)))
    assert "intervals of level 99.5 are by Student's t: 37 calibration windows have no score of its rank" in fc.notes_
    out = fc.predict()
    assert (out["DLinear-hi-99.5"] > out["DLinear-hi-80"]).all()


@pytest.mark.parametrize("model", ["Ridge", "DLinear", "auto"])
@pytest.mark.parametrize("n", [3, 5, 8, 15])
@pytest.mark.parametrize("horizon", [1, 6])
def test_a_single_short_series_has_intervals_or_a_remedy(model, n, horizon):
    """Months: forecasts lie inside of nested intervals that widen, none beyond what the series did before."""
    y = 100 + np.random.default_rng(n).standard_normal(n).cumsum()
    df = pd.DataFrame({"ds": pd.date_range("2020-01-01", periods=n, freq="MS"), "y": y})
    options = {"model_kwargs": {"members": ["Theta"]}} if model == "auto" else {"max_steps": 3}
    fc = Forecaster(model, horizon, levels=[80, 95], **options)
    if n <= horizon and model != "auto":
        with pytest.raises(
            DataError, match=rf"^the longest series has {n} rows, and training for horizon = 6 takes 7; "
        ):
            fc.fit(df)
        return
    out = fc.fit(df).predict()
    order = [f"{model}-lo-95", f"{model}-lo-80", model, f"{model}-hi-80", f"{model}-hi-95"]
    assert (np.diff(out[order].to_numpy(), axis=1) > 0).all()
    assert (out[f"{model}-hi-80"] - out[f"{model}-lo-80"]).min() > 0.3
    if model == "Ridge":
        assert np.ptp(out[model] - y[-1]) < np.ptp(y) and any("intervals" in note for note in fc.notes_)


def test_each_of_unlike_series_has_intervals_of_its_own(tmp_path):
    """A cycle of nine days among walks has narrow intervals, and those of all series under another name."""
    rng, t = np.random.default_rng(0), np.arange(200)
    easy = np.sin(t * 2 * np.pi / 9) + 0.02 * rng.standard_normal(200)
    values = {"easy": easy, **{f"walk{k}": rng.standard_normal(200).cumsum() for k in range(3)}}
    ds = pd.date_range("2024-01-01", periods=200)
    df = pd.concat([pd.DataFrame({"unique_id": k, "ds": ds, "y": v}) for k, v in values.items()])
    fc = Forecaster("Ridge", 3, levels=[80]).fit(df)

    def width(frame):
        return (frame["Ridge-hi-80"] - frame["Ridge-lo-80"]).groupby(frame["unique_id"], sort=False).mean()

    known, others = fc.predict(), df.assign(unique_id=df["unique_id"] + " again")
    strange = fc.predict(others)
    assert width(known)["easy"] < 0.5 * width(strange)["easy again"]
    assert width(known)["walk0"] > width(strange)["walk0 again"]
    fc.save(tmp_path / "saved")
    pd.testing.assert_frame_equal(Forecaster.load(tmp_path / "saved").predict(df.iloc[::-1]), fc.predict(df.iloc[::-1]))
    tests = fc.cross_validation(df, n_windows=10)
    covered = tests["y"].between(tests["Ridge-lo-80"], tests["Ridge-hi-80"]).groupby(tests["unique_id"]).mean()
    assert covered.between(0.6, 0.97).all(), covered


@pytest.mark.parametrize(("level", "option", "cut"), [(0, "auto", True), (0, False, False), (-1, "auto", False)])
def test_forecasts_stay_above_zero_where_values_do(level, option, cut):
    """A wide interval around values near zero ends there, unless it is told not to or a value is below."""
    df = panel(("a",)).assign(y=lambda df: df["y"].clip(0) + level)
    out = small(levels=[50, 80], nonnegative=option).fit(df).predict(quantiles=[0.1])
    assert (out.drop(columns=["unique_id", "ds"]).to_numpy() >= 0).all() == cut
