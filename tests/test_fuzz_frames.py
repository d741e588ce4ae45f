"""Any frame is read and forecast, or refused in our words: no other error, no warning, no NaN."""

import numpy as np
import pandas as pd
import polars
from hypothesis import strategies as st
from strategies import frames, fuzz, one_of

from seqmix import Forecaster
from seqmix.errors import SeqmixError
from seqmix.forecasting.frame import Reading, read_frame
from seqmix.forecasting.kind import to_pandas


def _at(*times):
    return pd.DataFrame({"unique_id": "a", "ds": np.array(times, "datetime64[us]"), "y": 1.0})


def _series(*y):
    return pd.DataFrame({"unique_id": "a", "ds": pd.date_range("2024-01-01", periods=len(y)), "y": np.array(y, float)})


@fuzz(
    60,
    4000,
    # a year of six digits, and gaps of more rows than memory holds
    {"frame": _at(2**62, 2**62 + 1), "fill_gaps": False, "missing": "mask"},
    {"frame": _at(0, 1, 2, 3, 10**15), "fill_gaps": True, "missing": "mask"},
    # integers that are too large for float64, or for 64 bits
    {"frame": _at(0, 1).assign(y=pd.Series([1, 10**400], dtype=object)), "fill_gaps": False, "missing": "mask"},
    {"frame": _at(0, 1).assign(ds=pd.Series([1, 10**400], dtype=object)), "fill_gaps": False, "missing": "mask"},
    frame=frames(),
    fill_gaps=st.booleans(),
    missing=one_of("mask", "error", "ffill"),
)
def test_a_frame_is_read_or_refused(frame, fill_gaps, missing):
    try:
        long = read_frame(frame, Reading(fill_gaps=fill_gaps, missing=missing))
    except SeqmixError as e:
        assert "; " in str(e) or "." in str(e), e
        return
    assert long.indptr[-1] == len(long.y) and (np.diff(long.indptr) > 0).all() and len(long.ids) == len(long.first)
    assert not np.isinf(long.y).any()


@fuzz(
    6,
    1000,
    # a range that has no deviation in float64, one that later values are far from, a series that ends in NaN, and times
    # that are categories
    {"frame": _series(0, 5e-324, 0, 5e-324), "model": "Ridge", "levels": []},
    {"frame": _series(1e-300, 2e-300, 1e-300, 1e300), "model": "ZeroShot", "levels": []},
    {
        "frame": pd.concat([_series(1, 2, 3), _series(1, *[np.nan] * 15).assign(unique_id="b")]),
        "model": "Ridge",
        "levels": [],
    },
    {
        "frame": polars.DataFrame(_series(1, 2, 3).astype({"ds": str}), schema_overrides={"ds": polars.Categorical}),
        "model": "Ridge",
        "levels": [],
    },
    frame=frames(),
    model=one_of("Ridge", "SeasonalNaive", "ZeroShot", "DLinear"),
    levels=one_of([], [80]),
)
def test_a_frame_is_forecast_or_refused(frame, model, levels):
    fc = Forecaster(model, 2, fill_gaps=True, levels=levels or None, max_steps=1, device="cpu")
    try:
        found = fc.fit(frame).predict()
    except SeqmixError as e:
        assert "; " in str(e) or "." in str(e), e
        return
    assert type(found) is type(frame)
    found = to_pandas(found)
    n = len(fc.fitted_.ids)
    assert len(found) == 2 * n
    assert np.isfinite(found[[c for c in found if str(c).startswith(model)]].to_numpy(float)).all()
