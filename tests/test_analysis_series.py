"""Reading of series for the estimators: every form, and every input that cannot be used, by name and remedy."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array

from seqmix.analysis.series import Columns, read_series
from seqmix.errors import ConfigError, DataError

X = np.arange(24.0).reshape(3, 4, 2)
FRAME = pd.DataFrame(
    {
        "unique_id": np.repeat(["b", "a"], [4, 3]),
        "ds": [*range(4), *range(3)],
        "u": np.arange(7.0),
        "v": np.arange(7) * 2,
        "place": "x",
        "label": np.repeat(["hot", "cold"], [4, 3]),
    }
)
COLUMNS = Columns(label_col="label")


def read(given, columns=COLUMNS, *, flat="table", channels_first=False):
    return read_series(given, columns, flat=flat, channels_first=channels_first)


@pytest.mark.parametrize(
    ("given", "options", "shapes"),
    [
        (X, {}, [(4, 2)] * 3),
        (X.astype(np.float32), {"channels_first": True}, [(2, 4)] * 3),
        (X[0], {}, [(4, 2)]),
        (X[0], {"channels_first": True}, [(2, 4)]),
        (X[0].astype(int), {"flat": "series"}, [(2, 1)] * 4),
        ([X[0], X[1, :3]], {}, [(4, 2), (3, 2)]),
        ([X[0].T, X[1, :3].T], {"channels_first": True}, [(4, 2), (3, 2)]),
        ([X[0, :, 0], X[1, :3, 0]], {}, [(4, 1), (3, 1)]),
        ([[1, 2, 3], [1, 2]], {"flat": "series"}, [(3, 1), (2, 1)]),
        (X[0].tolist(), {}, [(4, 2)]),
        (torch.from_numpy(X), {}, [(4, 2)] * 3),
        (np.array([[1.0, None], [2.0, 3.0]], object), {}, [(2, 2)]),
        (FRAME, {}, [(4, 2), (3, 2)]),
    ],
)
def test_forms(given, options, shapes):
    found = read(given, **options)
    assert [x.shape for x in found.values] == shapes
    assert all(x.dtype == np.float64 for x in found.values)


def test_channels_first_is_the_same_series():
    first = read(X.transpose(0, 2, 1), channels_first=True)
    assert all((a == b).all() for a, b in zip(first.values, read(X).values, strict=True))


def test_a_frame_in_any_order():
    """Series come in the order of their first rows, and values go back to the rows they are of."""
    shuffled = FRAME.sample(frac=1, random_state=0)
    found = read(shuffled)
    assert list(found.ids) == list(dict.fromkeys(shuffled["unique_id"])) and found.channels == ("u", "v")
    assert found.ignored == ("place",)
    by_id = dict(zip(found.ids, found.values, strict=True))
    assert (by_id["b"] == FRAME.loc[:3, ["u", "v"]].to_numpy()).all()
    assert (by_id["a"] == FRAME.loc[4:, ["u", "v"]].to_numpy()).all()
    assert dict(zip(found.ids, found.labels, strict=True)) == {"b": "hot", "a": "cold"}
    back = found.per_step([x[:, 0] for x in found.values], "score")
    pd.testing.assert_series_equal(back, shuffled["u"], check_names=False)
    assert back.name == "score"


def test_inserted_steps_are_missing_values_of_no_row():
    found = read(FRAME.drop(index=[1, 2]), Columns(fill_gaps=True))
    assert found.rows[0].tolist() == [0, -1, -1, 1] and np.isnan(found.values[0][1:3]).all()
    assert found.per_step([x[:, 0] for x in found.values], "u").tolist() == [0, 3, 4, 5, 6]


def test_rows_in_order_need_no_times():
    found = read(FRAME.drop(columns="ds"), Columns(time_col=None, channels=("u",)))
    assert [x.ravel().tolist() for x in found.values] == [[0, 1, 2, 3], [4, 5, 6]]


def test_polars_frames():
    polars = pytest.importorskip("polars")
    found = read(polars.from_pandas(FRAME))
    assert found.channels == ("u", "v") and isinstance(found.per_step([x[:, 0] for x in found.values], "u"), np.ndarray)


def frame(**columns):
    return FRAME.assign(**columns)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (np.zeros(5), {}, "X has shape (5,). Reshape your data to (T, C) or (n, T, C)"),
        (np.zeros((1, 2, 3, 4)), {"channels_first": True}, "X has shape (1, 2, 3, 4). Reshape your data to (C, T) or"),
        (np.zeros(5), {"flat": "series"}, "Reshape your data to (n, T) or (n, T, C)"),
        (np.zeros((0, 3)), {}, "X has 0 sample(s) (shape=(0, 3)) while a minimum of 1 is required"),
        (np.zeros((3, 0, 2)), {}, "X has 0 feature(s) (shape=(3, 0, 2)) while a minimum of 1 is required"),
        ([], {}, "X has shape (0,). Reshape your data"),
        ([X[0], np.zeros((0, 2))], {}, "X[1] has no time steps; leave the series out"),
        ([X[0], X[0, :, :1]], {}, "X[1] has 1 channels, X[0] has 2; give all series the same ones, or pass"),
        ([X[0], X], {}, "X[1] has shape (3, 4, 2). Reshape your data to (T, C)"),
        ([[1, 2, 3], [1, 2]], {}, "the rows of X have different lengths; give a list of arrays, (T, C) each"),
        (np.array([["a", "b"]]), {}, "X should hold numbers, got <U1, first 'a'; use X.astype(float)"),
        (np.array([["a", 1.0]], object), {}, "X should hold numbers, got object, first 'a'"),
        (np.array([[{}, 1.0]], object), {}, "X should hold numbers: float() argument must be a string or a real"),
        (np.array([["2026-01-01"]], "datetime64[D]"), {}, "X should hold numbers, got datetime64[D]"),
        (X[0] + 1j, {}, "Complex data not supported: X holds complex128; use two channels"),
        (csr_array(X[0]), {}, "X is a sparse matrix; use X.toarray()"),
        (None, {}, "X is of type NoneType; give an array, a list of arrays or a frame"),
        ((x for x in X), {}, "X is of type generator; give an array, a list of arrays or a frame: list() of a"),
        (np.where(X == 5, np.inf, X), {}, "X holds infinity, first at (0, 2, 1); make it a number, or NaN for missing"),
        ([X[0], -np.inf * np.ones((2, 2))], {}, "X[1] holds infinity, first at (0, 0)"),
        (X * 1e200, {}, "X holds values above 1e+150; divide them by a power of ten"),
        (FRAME["u"], {}, "X is a Series; make a frame or an array of it: X.reset_index()"),
        ("train.csv", {}, "X is the path 'train.csv'; read it with pandas.read_csv, and give the frame"),
        (FRAME[:0], {}, "frame has 0 rows; give at least one row for each series"),
        (FRAME.drop(columns="ds"), {}, "column 'ds' not found"),
        (FRAME.drop(columns=["u", "v"]), {}, "no column of numbers beside ['unique_id', 'ds', 'label']"),
        (FRAME, {"columns": Columns(channels=("u", "w"))}, "channel 'w' not found; columns are ['unique_id', 'ds'"),
        (FRAME.rename(columns={"u": 7}), {}, "the name of column 7 is not text; use df.columns = df.columns.astype"),
        (FRAME, {"columns": Columns(channels=("ds", "u"))}, "column 'ds' is id, time or label, and no channel"),
        (FRAME, {"columns": Columns(channels=("place",))}, "column 'place' should hold numbers, got"),
        (frame(u=[1, 2, "3", 4, 5, 6, 7]), {}, "column 'u' should hold numbers, got object, first '3'"),
        (frame(u=FRAME["u"].replace(2, np.inf)), {}, "1 infinite value in 'u' (id 'b', 2)"),
        (pd.concat([FRAME, FRAME["u"]], axis=1), {}, "column 'u' is there 2 times; rename or drop one of them"),
        (FRAME.drop(index=1), {}, "1 of 2 series has gaps at freq 1: 'b' 1 missing (1). Pass fill_gaps=True"),
        (
            FRAME.drop(index=1)[lambda df: df["unique_id"] == "b"].drop(columns="unique_id"),
            {},
            "1 of 1 series has gaps at freq 1: 'X' 1 missing (1). Pass fill_gaps=True",
        ),
        (frame(ds=[0, 1, 1, 2, 0, 1, 2]), {}, "1 duplicate time stamp, first: id 'b' at 1"),
        (frame(label=[*"xxxyzzz"]), {}, "column 'label' has more than one label for id 'b': ['x', 'y']"),
        (frame(label=[None] * 4 + ["y"] * 3), {}, "column 'label' has no label for id 'b'; give each series one label"),
    ],
)
def test_what_cannot_be_read(given, options, message):
    with pytest.raises((DataError, ConfigError, TypeError)) as error:
        read(given, **options)
    assert message in str(error.value)
