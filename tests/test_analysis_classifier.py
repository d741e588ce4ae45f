"""The Classifier: forms of input, labels, errors before training, files, searches."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from seqmix import Classifier, Imputer
from seqmix.errors import ConfigError, DataError, NotFittedError

TINY = {"d_model": 8, "n_layers": 1}


def small(model="Pool", **options):
    return Classifier(model, **{"max_steps": 2, "model_kwargs": TINY if model == "Pool" else None, **options})


def waves(lengths=(9,) * 12):
    """Waves of two channels and two frequencies."""
    rng = np.random.default_rng(0)
    X = [np.sin(np.arange(T)[:, None] * (1 + i % 2) + rng.normal(size=2)) for i, T in enumerate(lengths)]
    return X, np.array(["slow", "fast"] * (len(lengths) // 2))


UNEQUAL = waves((9, 7, 8, 9, 6, 9, 8, 7))


def as_frame(X, y):
    parts = [
        pd.DataFrame(x, columns=["u", "v"]).assign(unique_id=f"s{i}", ds=range(len(x)), label=label)
        for i, (x, label) in enumerate(zip(X, y, strict=True))
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def fitted():
    X, y = waves()
    return small().fit(np.stack(X), y)


@pytest.fixture(scope="module")
def unequal():
    return small().fit(*UNEQUAL)


def test_every_form_gives_the_same():
    X, y = UNEQUAL
    want = small().fit(X, y).predict_proba(X)
    turned = small(channels_first=True).fit([x.T for x in X], y)
    np.testing.assert_array_equal(turned.predict_proba([x.T for x in X]), want)
    frame = as_frame(X, y)
    named = small().fit(frame)
    found = named.predict_proba(frame.sample(frac=1, random_state=0).sort_values("unique_id", kind="stable"))
    assert list(found.columns) == ["fast", "slow"] and list(found.index) == [f"s{i}" for i in range(len(X))]
    np.testing.assert_array_equal(found, want)
    renamed = frame.rename(columns={"unique_id": "id", "ds": "t", "label": "kind"})
    kind = small().fit(renamed, id_col="id", time_col="t", label_col="kind").predict(renamed)
    assert kind.name == "kind" and (kind == named.predict(frame)).all()
    by_id = pd.Series(y, [f"s{i}" for i in range(len(X))])[::-1]
    np.testing.assert_array_equal(small().fit(frame.drop(columns="label"), by_id).predict_proba(frame), want)


def test_lists_of_unequal_lengths_in_every_verb(unequal):
    X, y = UNEQUAL
    p = unequal.predict_proba(X)
    assert (
        p.shape == (8, 2) and np.allclose(p.sum(1), 1) and (unequal.classes_[p.argmax(1)] == unequal.predict(X)).all()
    )
    assert unequal.score(X, y) == np.mean(unequal.predict(X) == y)
    # a series is classified alone as among others
    np.testing.assert_allclose(unequal.predict_proba(X[1:2]), p[1:2], rtol=1e-5)
    assert unequal.lengths_ == (6, 9) and unequal.max_len_ == 11
    unequal.predict([np.zeros((11, 2)), np.zeros((1, 2))])


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "a"],
        [7, 3],
        np.array([7, 3], dtype=object),
        [True, False],
        [1.0, 0.0],
        pd.Categorical(["b", "a"]),
        pd.array([7, 3], dtype="Int64"),
    ],
)
def test_labels_of_any_type(labels):
    X, _ = waves()
    at = np.arange(12) % 2
    y = np.asarray(labels)[at]
    # pandas' own types as they are
    found = small().fit(np.stack(X), labels.take(at) if hasattr(labels, "take") else y)
    assert (found.classes_ == np.unique(y)).all()
    # numbers in an array of objects are numbers
    assert (found.classes_.dtype == object) == (y.dtype == object and isinstance(y[0], str))
    assert set(found.predict(np.stack(X))) <= set(y)


def test_one_example_of_each_class_is_trained_on():
    X, y = waves()
    found = small().fit(np.stack(X[:2]), y[:2])
    assert found.notes_ == ["no series is held out: training goes on to max_steps"]


def test_a_fit_depends_on_the_seed_alone(fitted):
    X, y = waves()
    state = torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    torch.rand(3)
    again = small().fit(np.stack(X), y)
    np.testing.assert_array_equal(again.predict_proba(np.stack(X)), fitted.predict_proba(np.stack(X)))
    other = small(seed=1).fit(np.stack(X), y)
    assert (other.predict_proba(np.stack(X)) != again.predict_proba(np.stack(X))).any()
    torch.random.set_rng_state(state)
    small().fit(np.stack(X), y)
    assert torch.equal(torch.random.get_rng_state(), state) and (np.random.get_state()[1] == numpy_state).all()


def test_missing_values_are_interpolated():
    X, y = waves()
    gaps = np.stack(X)
    gaps[0, 3:5, 1] = np.nan
    found = small().fit(gaps, y)
    assert "2 missing values are interpolated" in found.notes_ and np.isfinite(found.predict_proba(gaps)).all()
    # channels that say nothing are used, and said
    gaps[:, :, 1] = np.nan
    assert "channel '1' has no value at all, and tells no class from another" in small().fit(gaps, y).notes_
    gaps[:, :, 1] = 3
    found = small().fit(gaps, y)
    assert found.notes_ == ["channel '1' has one value in all series, and tells no class from another"]


def test_a_class_that_was_not_seen_counts_as_wrong(unequal):
    X, _ = UNEQUAL
    assert unequal.score(X[:2], ["slow", "other"]) == np.mean(unequal.predict(X[:2]) == ["slow", "other"]) <= 0.5


def test_weights_of_a_frame_are_by_id():
    X, y = waves()
    frame = as_frame(X, y)
    found = small().fit(frame)
    wrong = found.predict(frame) != y
    weights = pd.Series(np.where(wrong, 3.0, 1.0), wrong.index).sample(frac=1, random_state=0)
    assert found.score(frame, sample_weight=weights) == (~wrong).sum() / weights.sum()


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda fc, X, y: small().fit(X, ["a"] * 12), DataError, "y has one class, 'a'; a Classifier needs series of"),
        (lambda fc, X, y: small().fit(X, y[:5]), DataError, "y has 5 labels, X has 12 series; give one label for each"),
        (
            lambda fc, X, y: small().fit(pd.DataFrame(X[:, :, 0]), y),
            DataError,
            "X has no columns 'unique_id' and 'ds'; if each of its rows is a series, use X.to_numpy()",
        ),
        (
            lambda fc, X, y: small().fit(
                (frame := as_frame(X, y).assign(unique_id=np.arange(108) // 9)).drop(columns="label"), frame["label"]
            ),
            DataError,
            "y has 108 labels, X has 12 series; give one label for each",
        ),
        (
            lambda fc, X, y: small().fit(
                (frame := as_frame(X, y)).drop(columns="label"), frame.groupby("unique_id")["label"].first()[1:]
            ),
            DataError,
            "the index of y names some ids of X, and not ",
        ),
        (lambda fc, X, y: small().fit(X), DataError, "Classifier requires y to be passed, but the target y is None"),
        (
            lambda fc, X, y: small().fit(as_frame(X, y), label_col="kind"),
            DataError,
            "the target y is None: it needs a label for each series; give column 'kind'",
        ),
        (lambda fc, X, y: small().fit(X, [None, *y[1:]]), DataError, "Input y contains NaN: label 0 is missing"),
        (lambda fc, X, y: small().fit(X, [np.inf, *[0.0] * 11]), DataError, "Input y contains infinity"),
        (
            lambda fc, X, y: small().fit(X, np.array([1, *y[1:]], object)),
            DataError,
            "y holds labels of different types: int, str",
        ),
        (lambda fc, X, y: small().fit(X, np.linspace(0, 1, 12)), ValueError, "Unknown label type: continuous"),
        (
            lambda fc, X, y: fc.predict(X[:, :, :1]),
            DataError,
            "X has 1 features, but Classifier is expecting 2 features",
        ),
        (
            lambda fc, X, y: fc.predict_proba(X.transpose(0, 2, 1)[:, :, :9]),
            DataError,
            "give the same ones, or pass channels_first=True",
        ),
        (
            lambda fc, X, y: fc.predict(X[:, :8]),
            DataError,
            "series 0 has 8 time steps, and Classifier takes 9; cut or resample it, or fit with max_len=...",
        ),
        (
            lambda fc, X, y: small().fit(*UNEQUAL).predict_proba([X[0], np.zeros((12, 2))]),
            DataError,
            "series 1 has 12 time steps, and Classifier takes at most 11; cut or resample it",
        ),
        (
            lambda fc, X, y: small().fit(X[:, :, 0], y).predict(X[:, :5, 0]),
            DataError,
            "X has 5 features, but Classifier is expecting 9 features as input: it was fitted on series of 9 time",
        ),
        (lambda fc, X, y: small(max_len=8).fit(X, y), DataError, "X has a series of 9 time steps, and max_len = 8"),
        (lambda fc, X, y: fc.predict(X * 1e30), DataError, "series 0 holds a value in step"),
        (lambda fc, X, y: fc.predict(X * np.nan), DataError, "series 0 has no value at all; leave it out, or give"),
        (lambda fc, X, y: small().fit(X * np.nan, y), DataError, "series 0 has no value at all; leave it out, or give"),
        (lambda fc, X, y: small().predict(X), NotFittedError, "this Classifier is not fitted; call fit() or load()"),
        (lambda fc, X, y: fc.predict("x.csv"), DataError, "'x.csv' is not a .ts file; read it with pandas"),
        (lambda fc, X, y: fc.predict("x.ts"), DataError, "x.ts"),
        (
            lambda fc, X, y: fc.score(X, y, sample_weight=[1, 2]),
            DataError,
            "sample_weight has shape (2,), X has 12 series; give one for each",
        ),
        (
            lambda fc, X, y: fc.score(X, y, sample_weight=[np.nan] * 12),
            DataError,
            "sample_weight should hold weights of 0 and more, not all of them 0, got nan; change it",
        ),
        (lambda fc, X, y: fc.score(X, y, sample_weight=[0] * 12), DataError, "not all of them 0, got 0.0; change it"),
        (lambda fc, X, y: small("Hidra").fit(X, y), ConfigError, "did you mean 'Hydra'?"),
        (
            lambda fc, X, y: small(model_kwargs={"depth": 3}).fit(X, y),
            ConfigError,
            "; see model_kwargs",
        ),
        (
            lambda fc, X, y: small(3),
            ConfigError,
            "model = 3 is not a model; use a name, a class or a partial",
        ),
        (
            lambda fc, X, y: small("MambaSL").fit(X, y).predict(X * 1e12),
            DataError,
            "times the spread of the training values, for which MambaSL has no finite scores; correct them",
        ),
        (lambda fc, X, y: small(lr=0), ConfigError, "lr must be a positive number, got 0; use for example 1e-3"),
        (lambda fc, X, y: small(max_steps=0), ConfigError, "max_steps must be >= 1, got 0"),
        (lambda fc, X, y: small(val_size=1), ConfigError, "val_size = 1.0 is not a fraction"),
        (lambda fc, X, y: small(device="tpu"), ConfigError, "device = 'tpu' is not known"),
        (lambda fc, X, y: small(normalize="all"), ConfigError, "normalize = 'all' is not known; use one of train"),
        (lambda fc, X, y: small().set_params(width=3), ConfigError, "Classifier has no option 'width'"),
    ],
)
def test_what_cannot_be(fitted, run, error, message):
    X, y = waves()
    with pytest.raises(error) as raised:
        run(fitted, np.stack(X), y)
    assert message in str(raised.value)


@pytest.fixture
def ts_file(tmp_path):
    X, y = UNEQUAL
    rows = [":".join([*(",".join(map(str, c)) for c in x.T), label]) for x, label in zip(X, y, strict=True)]
    head = ["@problemName waves", "@timeStamps false", "@univariate false", "@classLabel true slow fast", "@data"]
    path = tmp_path / "waves_TRAIN.ts"
    path.write_text("\n".join([*head, *rows]))
    return path


def test_ts_files(ts_file, unequal):
    X, _ = UNEQUAL
    found = small().fit(ts_file)
    np.testing.assert_allclose(found.predict_proba(str(ts_file)), unequal.predict_proba(X), rtol=1e-6)
    assert found.score(ts_file) == np.mean(found.predict(ts_file) == UNEQUAL[1])


@pytest.mark.parametrize("model", ["Pool", "DLinear"])
def test_saved_and_loaded(tmp_path, model):
    X, y = UNEQUAL if model == "Pool" else waves()
    found = small(model).fit(as_frame(X, y))
    want = found.predict_proba(as_frame(X, y))
    found.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"classifier.json", "weights.safetensors"}
    twin = Classifier.load(tmp_path, device="cpu")
    assert twin.get_params() == {**found.get_params(), "device": "cpu"} and repr(twin) == repr(
        found.set_params(device="cpu")
    )
    pd.testing.assert_frame_equal(twin.predict_proba(as_frame(X, y)), want)
    with pytest.raises(DataError, match=r"no imputer\.json in"):
        Imputer.load(tmp_path)
    file = tmp_path / "classifier.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "format": 99}))
    with pytest.raises(DataError, match="has format 99"):
        Classifier.load(tmp_path)
    file.write_text(json.dumps({**facts, "facts": {**facts["facts"], "max_len": 1}}))
    with pytest.raises(DataError, match="was changed after it was saved"):
        Classifier.load(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"")
    file.write_text(json.dumps(facts))
    with pytest.raises(DataError, match=r"is not what classifier\.json was saved with"):
        Classifier.load(tmp_path)


def test_searches_and_pipelines():
    X, y = waves()
    gaps = np.stack(X)
    gaps[0, 3, 1] = np.nan
    chain = make_pipeline(Imputer("DLinear", max_steps=1), small())
    search = GridSearchCV(chain, {"classifier__lr": [1e-3, 1e-2]}, cv=2, error_score="raise").fit(gaps, y)
    assert set(search.best_params_) == {"classifier__lr"} and len(search.predict(gaps)) == 12
    assert len(cross_val_score(small(), UNEQUAL[0], UNEQUAL[1], cv=2, error_score="raise")) == 2
