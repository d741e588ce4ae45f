"""The plan of a fit: what the options come to for the data, without "auto" and without None."""

import numpy as np
import pandas as pd
import pytest
from daily_panel import panel, small

from seqmix import Forecaster
from seqmix.errors import DataError
from seqmix.forecasting.clock import Clock
from seqmix.forecasting.plan import _lengths, held_out


def cycle(freq, season, n):
    """One series that repeats itself."""
    return pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=n, freq=freq), "y": np.arange(n) % season + 1.0})


def test_nothing_is_left_open():
    plan = small(levels=80, normalize="auto").fit(panel()).plan_
    assert not [value for value in vars(plan).values() if value is None or value == "auto"]
    assert (plan.context, plan.season, plan.normalize, plan.scaler, plan.levels) == (14, 7, "season", "season", (80,))


@pytest.mark.parametrize(
    ("freq", "season", "n", "given", "context"),
    [
        ("5min", 288, 900, {}, 288),
        ("10min", 144, 400, {}, 144),
        ("D", 7, 80, {}, 28),
        # at most half of the rows hold a window with its horizon, unless the season needs more
        ("D", 7, 60, {}, 24),
        ("D", 7, 20, {}, 8),
        ("MS", 12, 24, {}, 12),
        ("W", 52, 200, {}, 52),
        ("D", 90, 220, {"season": 90}, 90),
        ("D", 90, 120, {"season": 90}, 90),
        ("MS", 12, 40, {"season": 12, "context_length": 12}, 12),
    ],
)
def test_a_season_fits_the_context(freq, season, n, given, context):
    """The seasonal naive model forecasts what repeats itself, and has no error in MASE's unit either."""
    df = cycle(freq, season, n)
    fc = Forecaster("SeasonalNaive", 6, device="cpu", **given).fit(df)
    assert (fc.season_, fc.context_) == (season, context)
    np.testing.assert_allclose(fc.predict()["SeasonalNaive"], [(n + i) % season + 1 for i in range(6)], rtol=1e-5)


def test_a_season_that_does_not_fit_is_left_out_or_refused():
    df = cycle("W", 52, 60)
    fc = Forecaster(["DLinear", "SeasonalNaive"], 8, max_steps=2, device="cpu").fit(df)
    assert fc.season_ == 1 and fc.notes_[0] == (
        "no season: the models see 24 steps, and a season has 52; set context_length"
    )
    np.testing.assert_allclose(fc.predict()["SeasonalNaive"], df["y"].iloc[-1], rtol=1e-6)
    np.testing.assert_allclose(fc.fitted_.scales.naive, df["y"][: -len(df) + 60 - 8].diff().abs().mean(), rtol=0.3)
    with pytest.raises(DataError) as error:
        Forecaster("DLinear", 8, season=55, device="cpu").fit(df)
    assert str(error.value) == (
        "season = 55 needs series of 63 rows, half of them have 60 or fewer; give longer series, or season=1"
    )


@pytest.mark.parametrize(
    ("n", "rows", "horizon", "freq", "found"),
    [
        # a day of minutes that is seen once is no season, and a window of it leaves nothing to learn from
        (5, 2000, 60, "min", (180, 1)),
        (1, 2880, 60, "min", (1440, 1440)),
        (40, 2000, 60, "min", (1440, 1440)),
        (1, 80, 8, "W", (52, 52)),
        (1, 18, 3, "MS", (12, 12)),
        (137, 47, 5, "W", (18, 1)),
        (1, 20, 3, "YS", (9, 1)),
    ],
)
def test_a_long_season_is_seen_twice_or_in_many_series(n, rows, horizon, freq, found):
    options = {"horizon": horizon, "context_length": None, "season": None}
    clock = Clock(freq, np.dtype("datetime64[ns]"))
    assert _lengths(options, np.full(n, rows), clock, pretrained=False)[:2] == found


@pytest.mark.parametrize(("rows", "held"), [(100, 15), (300, 30), (32, 8), (27, 6), (25, 0)])
def test_rows_are_held_out_for_ten_origins(rows, held):
    """Horizon 6 and context 14: a tenth, or ten origins, or what short series can give, or nothing."""
    plan = small().fit(panel()).plan_
    n_val, _ = held_out(plan, np.array([rows, rows]), np.array([0, 0]), "auto")
    assert n_val.tolist() == [held, held]


def test_many_series_are_no_channels(monkeypatch):
    monkeypatch.setattr("seqmix.forecasting.plan.MOST_CHANNELS", 2)
    options = {"context_length": 16, "model_kwargs": {"d_model": 4, "n_layers": 1}}
    assert small("TSM2", **options).fit(panel()).mode_ == "multivariate"
    fc = small("TSM2", **options).fit(panel(("a", "b", "c")))
    assert fc.mode_ == "global"
    assert fc.notes_[0] == "3 series are more than 2 channels: mode is global; mode='multivariate' insists"
    assert small("TSM2", mode="multivariate", **options).fit(panel(("a", "b", "c"))).mode_ == "multivariate"


@pytest.mark.parametrize("mode", ["global", "multivariate"])
@pytest.mark.parametrize("absent", ["value", "weight"])
def test_validation_is_on_rows_that_were_observed(mode, absent):
    """Series that end in missing values, or in rows of no weight: the rows before them are held out."""
    late = np.tile(np.arange(100) >= 70, 2)
    df = panel().assign(w=np.where(late & (absent == "weight"), 0.0, 1.0))
    df["y"] = df["y"].mask(late & (absent == "value"))
    fc = small(mode=mode, levels=[80]).fit(df, weight_col="w")
    assert fc.history_["val_mse"].notna().any() and fc.fitted_.scales.until[0] == pd.Timestamp("2024-02-24").value
    with pytest.raises(DataError) as error:
        small(mode=mode).fit(df, weight_col="w", val_size=12)
    assert str(error.value) == (
        "no value is observed in the validation rows, the last 12 of each series; pass another val_size, val_df=..., "
        "or val_size=0"
    )
