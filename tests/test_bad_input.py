"""Bad input of every kind, for every model: a forecast of plausible size, or an error by name and remedy.

Warnings are errors in these tests, so that none of numpy or torch passes; what seqmix itself says is let through.
"""

import numpy as np
import pandas as pd
import pytest

from seqmix import Forecaster
from seqmix.errors import DataError, SeqmixError
from seqmix.models import DLinear, Residual, list_models, model_facts

T = np.arange(60)
RNG = np.random.default_rng(0)
WAVE = 10 + 3 * np.sin(2 * np.pi * T / 7) + RNG.normal(0, 0.3, 60)


def _missing(where, y=WAVE):
    return np.where(where, np.nan, y)


HEALTHY = {"wave": WAVE, "falling": 30 - WAVE, "long": np.r_[WAVE, WAVE], "noise": RNG.normal(0, 1, 60)}
BAD = {
    "one row": WAVE[:1],
    "two rows": WAVE[:2],
    "under two seasons": WAVE[:11],
    "all missing": _missing(T >= 0),
    "one observed": _missing(T != 30),
    "only the first": _missing(T != 0),
    "only the last": _missing(T != 59),
    "leading missing": _missing(T < 45),
    "trailing missing": _missing(T >= 50),
    "gaps": _missing(T % 3 == 0),
    "constant": np.full(60, 4.2),
    "constant with gaps": _missing(T % 4 == 0, np.full(60, 4.2)),
    "constant and huge": np.full(60, 1.1e15),
    "zero": np.zeros(60),
    "negative zero": np.full(60, -0.0),
    "true or false": (WAVE > 10).astype(float),
    "1e12": WAVE * 1e12,
    "1e-9": WAVE * 1e-9,
    "1e-300": WAVE * 1e-300,
    "denormal": WAVE * 5e-323,
    "1e100": WAVE * 1e100,
    "2^53": 2.0**53 + np.round(10 * WAVE),
    "spike": np.where(T == 30, 1e15, WAVE),
    "spike at the end": np.where(T == 59, 1e15, WAVE),
    "intermittent": np.where(T % 9 == 4, 3.0, 0.0),
    "zero, then alive": np.where(T < 50, 0.0, WAVE),
    "step": np.where(T < 30, 1e-6, 1e6),
    "trend": 1.0 * T,
    "exponential": np.exp(T / 2),
    "perfect cycle": np.resize([1.0, 2, 3, 4, 5, 6, 7], 60),
}
EVERY = {**HEALTHY, **BAD}
SCALED = [("1e12", 1e12, 1e-4), ("1e-9", 1e-9, 1e-4), ("1e-300", 1e-300, 1e-4), ("denormal", 5e-323, 0.02)]
# what seqmix says of short histories and undefined scores
SAID = [
    "ignore:.* series (have fewer|are too short):UserWarning",
    "ignore:(mase|rmsse|mape|wape|msis) leaves out:UserWarning",
    "ignore:values of .* are far from those of the fit:UserWarning",
    "ignore:.* series (has|have) no value in the last:UserWarning",
    "ignore:horizon .* is longer than the fitted:UserWarning",
]
pytestmark = [pytest.mark.filterwarnings(line) for line in SAID]


def long(series, name=str):
    """A long frame of daily rows."""
    parts = [
        pd.DataFrame({"unique_id": name(i), "ds": pd.date_range("2024-01-01", periods=len(y)), "y": y})
        for i, y in series.items()
    ]
    return pd.concat(parts, ignore_index=True)


def forecaster(model, horizon=5, **options):
    options = {"max_steps": 2, "device": "cpu", "freq": "D", "levels": [80], **options}
    example = model_facts(model)[2] if model in list_models() else {}
    return Forecaster(model, horizon, model_kwargs=example or None, **options)


def name_of(model):
    return model if isinstance(model, str) else model.func.__name__


def check(found, series, model):
    """Every forecast is finite and within three ranges of its data, and intervals hold it."""
    columns = [c for c in found if str(c).startswith(model)]
    assert np.isfinite(found[columns].to_numpy()).all(), found[~np.isfinite(found[columns]).all(axis=1)]
    for i, rows in found.groupby("unique_id"):
        y = series[i][~np.isnan(series[i])]
        # of a series that does not vary a thousandth of its level, of one that is zero a small part of the others
        low, high = (y.min(), y.max()) if len(y) else (0, 0)
        room = 3 * (high - low) + 1e-3 * max(abs(low), abs(high), 1e-300) + 1e-4 * (low == high == 0)
        point = rows[model]
        assert point.between(low - room, high + room).all(), f"{i}: {point.to_list()}, data from {low} to {high}"
        if f"{model}-lo-80" in rows:
            inside = (rows[f"{model}-lo-80"] <= point) & (point <= rows[f"{model}-hi-80"])
            assert inside.all(), f"{i}: {rows[~inside]}"


@pytest.fixture(scope="module", params=[*list_models(), "Mamba", Residual(DLinear)], ids=name_of)
def fitted(request):
    return forecaster(request.param).fit(long(EVERY))


def test_forecasts_beside_every_kind_of_series(fitted, tmp_path):
    """One fit of all kinds; the same forecasts from the frame, and after saving."""
    assert "series without any value are forecast as 0: [all missing]" in fitted.notes_
    found = fitted.predict()
    check(found, EVERY, name_of(fitted.model))
    fitted.save(tmp_path / "saved")
    pd.testing.assert_frame_equal(Forecaster.load(tmp_path / "saved", device="cpu").predict(), found)
    again = fitted.predict(long(EVERY))
    check(again, EVERY, name_of(fitted.model))
    np.testing.assert_allclose(again[name_of(fitted.model)], found[name_of(fitted.model)], rtol=1e-5, atol=1e-300)
    # forecasts of multiples of a series are multiples of its forecasts, as far as the digits of its values go
    points = found.set_index("unique_id")[name_of(fitted.model)]
    for kind, factor, digits in SCALED:
        np.testing.assert_allclose(points[kind] / factor, points["wave"], rtol=digits, err_msg=kind)
    np.testing.assert_allclose((points["2^53"] - 2.0**53) / 10, points["wave"], atol=0.5)


def test_forecasts_of_other_frames(fitted):
    """Series that were not fitted, and series of the same names with values of another kind."""
    check(
        fitted.predict(long(EVERY, "new {}".format)), {f"new {i}": y for i, y in EVERY.items()}, name_of(fitted.model)
    )
    turned = dict(zip(EVERY, reversed(EVERY.values()), strict=True))
    found = fitted.predict(long(turned))
    assert np.isfinite(found.select_dtypes("number").to_numpy()).all()


UNTRAINED = [name for name in list_models() if model_facts(name)[0].pretrained or name == "SeasonalNaive"]


@pytest.mark.parametrize("model", UNTRAINED)
def test_what_is_not_trained_forecasts_each_series_by_itself(model):
    """Other series, and their order, change nothing."""
    fc = forecaster(model, levels=None, max_steps=1 if model == "SeasonalNaive" else 0)
    alone = fc.fit(long(HEALTHY)).predict().set_index(["unique_id", "ds"])[model]
    among = fc.fit(long(dict(reversed(EVERY.items())))).predict().set_index(["unique_id", "ds"])[model]
    pd.testing.assert_series_equal(among[alone.index], alone, rtol=1e-5)


def test_tests_and_scores(fitted):
    fc, name = fitted.clone(), name_of(fitted.model)
    found = fc.cross_validation(long(EVERY), n_windows=2)
    seen = {i: y for i, y in EVERY.items() if i in set(found["unique_id"])}
    assert seen.keys() == EVERY.keys() - {"one row", "two rows", "under two seasons"}
    columns = [c for c in found if str(c).startswith(name)]
    assert np.isfinite(found[columns].to_numpy()).all()
    metrics = ("mae", "mase", "rmsse", "mape", "smape", "wape", "coverage", "msis", "crps")
    scores = fc.evaluate(found, metrics)
    assert np.isfinite(scores["value"]).all(), scores
    assert fc.evaluate(found, metrics, by="cutoff")["value"].notna().all()


@pytest.mark.parametrize("kind", EVERY)
def test_alone_there_is_a_forecast_or_a_remedy(kind):
    frame = long({kind: EVERY[kind]})
    for options in ({"levels": None}, {"horizon": 100, "levels": None}):
        fc = forecaster("DLinear", **{"horizon": 5, **options})
        try:
            check(fc.fit(frame).predict(), EVERY, "DLinear")
        except SeqmixError as error:
            assert any(word in str(error) for word in ("; give ", "; use ")), error
            assert kind in ("one row", "two rows", "all missing") or options["levels"] is None


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.append(WAVE[1:], 1e30), "column 'c' holds 1e.30, .* times its deviation in the training rows; correct it"),
        (WAVE * 1e200, "column 'c' holds values above 1e.150; divide them by a power of ten"),
        (np.full(60, 3.0), ""),
        (WAVE * 1e-300, ""),
    ],
)
def test_covariates_and_weights(column, message):
    frame = long({"wave": WAVE}).assign(c=column)
    fc = forecaster("DLinear", levels=None, past_covariates=["c"])
    if message:
        with pytest.raises(DataError, match=message):
            fc.fit(frame)
    else:
        check(fc.fit(frame).predict(), {"wave": WAVE}, "DLinear")
    with pytest.raises(DataError, match=r"column 'w' holds weights above 1e18; divide all of them by the largest"):
        fc.fit(frame.assign(w=1e40), weight_col="w")


@pytest.mark.slow
def test_a_single_series_of_a_million_rows():
    y = np.resize(WAVE, 1_000_000) + 1e-6 * np.arange(1_000_000)
    frame = pd.DataFrame({"unique_id": "y", "ds": np.arange(len(y)), "y": y})
    check(forecaster("DLinear", freq=1).fit(frame).predict(), {"y": y}, "DLinear")


def test_the_pictures_of_bad_series(fitted):
    assert fitted.plot(long(EVERY), ids=["all missing", "constant", "spike", "1e-300", "one row"]).axes
