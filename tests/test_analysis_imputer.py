"""The Imputer: observed values stay bit for bit, no NaN stays, intervals, windows of long tables, errors."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from seqmix import Imputer
from seqmix.analysis.filling import default_context, distances, split
from seqmix.errors import ConfigError, DataError, NotFittedError


def small(**options):
    return Imputer("DLinear", **{"max_steps": 2, "context": 8, **options})


def gappy(shape=(60, 2), rate=0.2, seed=0):
    """A table with missing cells, at both ends too, and a row without any value."""
    rng = np.random.default_rng(seed)
    X = np.sin(np.arange(shape[0])[:, None] / 3 + np.arange(shape[1])) * 1e3 + rng.normal(size=shape)
    X[rng.random(shape) < rate] = np.nan
    X[[0, -1], 0] = np.nan
    X[20:24] = np.nan
    return X


def as_frame(X, **columns):
    days = pd.date_range("2026-01-01", periods=len(X), freq="h")
    return pd.DataFrame({"ds": days, "u": X[:, 0], "v": X[:, 1], "note": "kept", **columns})


def same_bits(a, b):
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "form",
    [
        lambda X: X,
        lambda X: np.stack([X[:20], X[20:40]]),
        lambda X: [X[:5], X[7:40], X[40:]],
        lambda X: [X[:30, 0], X[30:, 1]],
    ],
    ids=["table", "array", "unequal", "one_channel"],
)
def test_observed_values_stay_bit_for_bit(form, dtype):
    X = form(gappy().astype(dtype))
    before = [x.copy() for x in X]
    found = small().fit_transform(X)
    assert type(found) is type(X) and len(found) == len(X)
    for y, x, kept in zip(found, X, before, strict=True):
        seen = ~np.isnan(kept)
        assert same_bits(x, kept) and y.shape == x.shape and y.dtype == dtype
        assert same_bits(y[seen], kept[seen]) and np.isfinite(y).all()


def test_channels_first_is_the_same():
    X = gappy()
    want = small().fit(X).transform(X)
    np.testing.assert_array_equal(small(channels_first=True).fit(X.T).transform(X.T), want.T)
    stacked = np.stack([X[:30], X[30:]])
    turned = small(channels_first=True).fit_transform(stacked.transpose(0, 2, 1))
    np.testing.assert_array_equal(turned.transpose(0, 2, 1), small().fit_transform(stacked))


def test_a_frame_keeps_its_rows_index_types_and_other_columns():
    X = gappy()
    frame = as_frame(X).assign(
        n=pd.array([None, *range(1, 60)], dtype="Int64"), w=np.float32(X[:, 1]), big=np.arange(60) + 2**60, yes=True
    )
    frame = frame.sample(frac=1, random_state=0).set_index(pd.Index(range(100, 160), name="row"))
    before = frame.copy(deep=True)
    found = small().fit_transform(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert (found.dtypes == frame.dtypes).all() and found.index.equals(frame.index)
    assert not found.isna().any(axis=None)
    for name in frame:
        seen = frame[name].notna()
        pd.testing.assert_series_equal(found.loc[seen, name], frame.loc[seen, name], check_exact=True)
    assert same_bits(found["w"][frame["w"].notna()], frame["w"].dropna())
    # the same values as those of the array
    arrays = small().fit_transform(X)
    ordered = small().fit_transform(as_frame(X))
    np.testing.assert_array_equal(ordered[["u", "v"]], arrays)


@pytest.mark.parametrize(("kind", "first"), [(int, 3), (Decimal, Decimal("1.5")), (bool, True), (float, 1.5)])
def test_columns_of_objects_are_filled_with_their_kind(kind, first):
    frame = as_frame(np.zeros((60, 2))).drop(columns="note")
    frame["u"] = pd.Series([first, pd.NA, *[kind(x % 3) for x in range(58)]], dtype=object)
    found = small().fit_transform(frame)
    assert found["u"].map(type).eq(kind).all() and found["u"].dtype == object
    # so is an array of them
    filled = small().fit_transform(frame[["u"]].to_numpy())
    assert filled.dtype == float and not np.isnan(filled).any()


def test_set_output_names_the_columns_of_arrays_and_leaves_frames():
    X = gappy()
    found = small().set_output(transform="pandas").fit_transform(X)
    assert [*found] == ["x0", "x1"]
    np.testing.assert_array_equal(found, small().fit_transform(X))
    made = small().set_output(transform="pandas").fit(as_frame(X))
    pd.testing.assert_frame_equal(made.transform(as_frame(X)), small().fit_transform(as_frame(X)))
    with pytest.raises(AttributeError, match="a filled frame keeps its own columns"):
        made.get_feature_names_out()


def test_missing_steps_are_inserted_and_filled():
    X = np.nan_to_num(gappy(), nan=5.0)
    frame = as_frame(X, n=np.arange(60)).drop(index=[7, 8, 30])
    with pytest.raises(DataError, match="Pass fill_gaps=True"):
        small().fit(frame)
    found = small(fill_gaps=True).fit_transform(frame)
    assert (found["ds"] == as_frame(X)["ds"]).all() and found["note"].isna().sum() == 3
    assert (found.dtypes == frame.dtypes).all() and not found[["u", "v", "n"]].isna().any(axis=None)
    np.testing.assert_array_equal(found.drop(index=[7, 8, 30])[["u", "v", "n"]], frame[["u", "v", "n"]])


def test_several_series_and_polars():
    frame = pd.concat([as_frame(gappy(seed=k)).assign(unique_id=name) for k, name in enumerate("ba")])
    found = small().fit(frame).transform(frame)
    assert found.index.equals(frame.index) and not found.isna().any(axis=None)
    polars = pytest.importorskip("polars")
    given = polars.from_pandas(frame, nan_to_null=True)
    back = small().fit(given).transform(given)
    assert isinstance(back, polars.DataFrame) and back.schema == given.schema and back["u"].null_count() == 0
    np.testing.assert_array_equal(back["u"].to_numpy(), found["u"])


def test_intervals():
    X = gappy((400, 2))
    frame = as_frame(X)
    model = small(levels=[50, 90], max_steps=20).fit(frame)
    found = model.transform(frame)
    assert list(found) == [
        *frame,
        "u-lo-50",
        "u-hi-50",
        "u-lo-90",
        "u-hi-90",
        "v-lo-50",
        "v-hi-50",
        "v-lo-90",
        "v-hi-90",
    ]
    missing = frame["u"].isna()
    for name in ("u-lo-50", "u-hi-90"):
        np.testing.assert_array_equal(found.loc[~missing, name], frame.loc[~missing, "u"])
    rows = found[missing]
    assert (rows["u-lo-90"] <= rows["u-lo-50"]).all() and (rows["u-lo-50"] < rows["u"]).all()
    assert (rows["u"] < rows["u-hi-50"]).all() and (rows["u-hi-50"] <= rows["u-hi-90"]).all()
    low, high = model.fit(X).intervals(X)[90]
    np.testing.assert_array_equal(low[:, 0], found["u-lo-90"])
    assert high.shape == X.shape and np.isfinite(high).all()


@pytest.mark.slow
def test_intervals_hold_as_often_as_they_say():
    rng = np.random.default_rng(0)
    truth = np.sin(np.arange(3000)[:, None] / 4) + 0.1 * rng.normal(size=(3000, 2))
    hidden = rng.random(truth.shape) < 0.2
    X = np.where(hidden, np.nan, truth)
    model = Imputer("DLinear", max_steps=200, levels=[80], pattern="point").fit(X)
    low, high = model.intervals(X)[80]
    assert 0.75 < ((low <= truth) & (truth <= high))[hidden].mean() < 0.87
    assert np.abs(model.transform(X) - truth)[hidden].mean() < 0.3


def test_a_wave_is_filled_better_than_by_its_mean():
    truth = np.sin(np.arange(300)[:, None] / 3 + np.arange(2))
    X = truth.copy()
    X[::5, 0], X[3::7, 1] = np.nan, np.nan
    found = Imputer(context=24, pattern="point").fit(X)
    missing = np.isnan(X)
    assert np.square(found.transform(X) - truth)[missing].mean() < 0.1 * truth.var()
    assert -0.1 < found.score(X) < 0


def test_a_channel_that_is_missing_altogether_later_is_filled():
    """Near its training mean, in no endless loop; one that never had a value is refused."""
    X = np.nan_to_num(gappy(), nan=0.0)
    model = small().fit(X)
    X[:, 1] = np.nan
    filled = model.transform(X)[:, 1]
    assert np.isfinite(filled).all() and np.abs(filled).max() < 3e3
    with pytest.raises(DataError, match="channel '1' has no value at all; leave it out, or give values"):
        small().fit(X)


def test_saved_and_loaded(tmp_path):
    frame = as_frame(gappy())
    model = small(levels=[80]).fit(frame, time_col="ds")
    model.save(tmp_path)
    twin = Imputer.load(tmp_path)
    pd.testing.assert_frame_equal(twin.transform(frame), model.transform(frame))
    assert twin.context_ == 8 and repr(twin) == repr(model)


def test_a_fit_depends_on_the_seed_alone():
    X = gappy()
    a, b, c = (small(seed=seed).fit_transform(X) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_constant_and_short_series():
    X = [np.full((12, 1), 7.0), np.array([[7.0]]), np.full((3, 1), np.nan)]
    X[0][4] = np.nan
    found = small().fit_transform(X)
    assert [x.shape for x in found] == [(12, 1), (1, 1), (3, 1)]
    np.testing.assert_allclose(np.concatenate(found), 7.0, atol=1.5)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda X: small().transform(X), NotFittedError, "this Imputer is not fitted; call fit() or load()"),
        (
            lambda X: small().fit(X).transform(X[:, :1]),
            DataError,
            "X has 1 features, but Imputer is expecting 2 features",
        ),
        (lambda X: small().fit(X[:, 0]), DataError, "X has shape (60,). Reshape your data to (T, C) or (n, T, C)"),
        (lambda X: small().fit(X).transform(X * 1e40), DataError, "X holds a value in step"),
        (lambda X: small().fit(X).score(X * np.nan), DataError, "none of 0 observed values was hidden for the score"),
        (lambda X: small().fit(X).intervals(X), ConfigError, "intervals need levels; use Imputer(levels=[80])"),
        (lambda X: small(levels=[80]).fit(X[:8]), ConfigError, "levels = [80] are calibrated on held-out windows"),
        (lambda X: small(levels=[80], val_size=0), ConfigError, "levels = [80] are calibrated on held-out rows"),
        (lambda X: small(levels=[0.8]), ConfigError, "a level is a percentage between 1 and 100, got 0.8"),
        (lambda X: small(rate=1.0), ConfigError, "rate should be above 0 and below 1, got 1.0; use for example 0.25"),
        (lambda X: small(context=1), ConfigError, "context must be >= 2, got 1"),
        (lambda X: small(pattern="rows").fit(X), ConfigError, "pattern = 'rows' is not known; use one of"),
        (lambda X: small().fit(as_frame(X), time_col="time"), DataError, "column 'time' not found"),
        (
            lambda X: small().fit(as_frame(X)).transform(as_frame(X).drop(columns="v")),
            DataError,
            "channel 'v' not found; columns are ['ds', 'u', 'note']",
        ),
    ],
)
def test_what_cannot_be(run, error, message):
    with pytest.raises(error) as raised:
        run(gappy())
    assert message in str(raised.value)


def test_distances_to_the_nearest_observed_value():
    seen = np.array([[0, 1, 0, 0, 0, 0, 1, 0]], bool).T
    assert distances(seen).ravel().tolist() == [1, 0, 1, 2, 2, 1, 0, 1]
    assert distances(np.zeros((3, 1), bool)).ravel().tolist() == [3, 3, 3]


def test_windows_and_what_is_held_out():
    assert [default_context(np.array([n])) for n in (5, 24, 60, 200, 5000)] == [5, 24, 24, 50, 96]
    train, held = split(np.array([100, 20]), 10, 0.2, 0)
    assert [tuple(s) for s in train] == [(0, 0, 80), (1, 0, 20)] and [tuple(s) for s in held] == [(0, 80, 100)]
    train, held = split(np.full(10, 12), 12, 0.2, 0)
    assert len(held) == 2 and sorted(s.series for s in [*train, *held]) == list(range(10))
    assert split(np.array([12]), 12, 0.2, 0)[1] == []
