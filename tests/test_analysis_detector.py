"""The AnomalyDetector: one score per row, a threshold of training rows, missing values, several series, errors."""

import numpy as np
import pandas as pd
import pytest

from seqmix import AnomalyDetector
from seqmix.errors import ConfigError, DataError, NotFittedError


def small(model="SubPCA", **options):
    return AnomalyDetector(model, **{"season": 10, **options})


def wave(rows=300, seed=0, anomaly=None):
    """Two channels of one period; the values of a few rows are another's."""
    rng = np.random.default_rng(seed)
    X = np.sin(np.arange(rows)[:, None] / 10 * 2 * np.pi + np.arange(2)) + 0.05 * rng.normal(size=(rows, 2))
    if anomaly is not None:
        X[anomaly, 1] = 1.5
    return X


def as_frame(X, **columns):
    days = pd.date_range("2026-01-01", periods=len(X), freq="h")
    return pd.DataFrame({"ds": days, "u": X[:, 0], "v": X[:, 1], "note": "kept", **columns})


@pytest.mark.parametrize("model", ["DetectorMean", "SubPCA", "Ridge"])
def test_an_anomaly_scores_highest_and_the_ends_do_not(model):
    detector = small(model).fit(wave(400))
    X = wave(300, 1, slice(150, 158))
    scores = detector.score_samples(X)
    assert scores.shape == (300,) and np.isfinite(scores).all()
    assert 145 <= scores.argmax() <= 165
    assert max(scores[:20].max(), scores[-20:].max()) < scores[150:158].max() / 2
    flags = detector.predict(X)
    assert set(flags) <= {0, 1} and flags[150:158].any() and (flags == (scores > detector.threshold_)).all()
    np.testing.assert_allclose(detector.decision_function(X), scores - detector.threshold_)
    assert detector.score(X, np.arange(300) // 8 == 19) > 0.3


def test_a_spike_is_labeled_and_the_rows_around_it_are_not():
    rng = np.random.default_rng(0)
    X = np.sin(np.arange(2000) * 2 * np.pi / 50) + 0.1 * rng.normal(size=2000)
    detector = AnomalyDetector().fit(X[:1000, None])
    X[1500] += 0.8
    flags = detector.predict(X[1000:, None])
    assert flags[500] and flags[400:600].sum() <= 5 and flags.sum() < 20
    # one among the training rows, which labels them: one of the ten of the expected share
    X[500] += 0.8
    flags = AnomalyDetector().fit_predict(X[:1000, None])
    assert flags[500] and flags.sum() == 10 and flags[400:600].sum() <= 7


def test_the_expected_share_is_labeled_among_more_channels_than_windows():
    """Every channel has a largest error, and only one of these is an anomaly."""
    X = np.random.default_rng(0).normal(size=(120, 60))
    X[70, 5] += 12
    flags = AnomalyDetector(contamination=0.02).fit_predict(X)
    assert flags[70] and 1 <= flags.sum() <= 3


@pytest.mark.parametrize("model", ["DLinear", "Pool", "PatchTST"])
def test_models_that_are_trained(tmp_path, model):
    small_options = {"Pool": {"d_model": 8, "n_layers": 1, "patch_len": 4}, "PatchTST": {"d_model": 8, "n_layers": 1}}
    detector = AnomalyDetector(model, max_steps=3, model_kwargs=small_options.get(model)).fit(wave(120))
    X = wave(100, 1, slice(50, 54))
    X[20] = np.nan
    scores = detector.score_samples(X)
    assert scores.shape == (100,) and np.isfinite(scores).all() and 40 < scores.argmax() < 64
    detector.save(tmp_path)
    np.testing.assert_array_equal(AnomalyDetector.load(tmp_path).score_samples(X), scores)


def test_every_form_has_one_score_per_row():
    X = wave()
    scores = small().fit(X).score_samples(X)
    np.testing.assert_array_equal(small(channels_first=True).fit(X.T).score_samples(X.T), scores)
    parts = [X[:100], X[100:]]
    listed = small().fit(parts).score_samples(parts)
    assert [len(x) for x in listed] == [100, 200]
    stacked = small().fit(np.stack([X[:150], X[150:]])).score_samples(np.stack([X[:150], X[150:]]))
    assert stacked.shape == (2, 150)
    frame = as_frame(X).sample(frac=1, random_state=0)
    found = small().fit(frame)
    series = found.score_samples(frame)
    pd.testing.assert_index_equal(series.index, frame.index)
    np.testing.assert_array_equal(series.sort_index(), scores)
    assert series.name == "score" and found.predict(frame).name == "anomaly"
    pd.testing.assert_index_equal(found.training_scores_.index, frame.index)
    assert found.fit_predict(frame).sum() == found.predict(frame).sum()
    polars = pytest.importorskip("polars")
    given = polars.from_pandas(as_frame(X))
    np.testing.assert_array_equal(small().fit(given).score_samples(given), scores)


def test_the_threshold_is_of_the_training_rows():
    X = wave()
    detector = small(quantile=0.9).fit(X)
    assert np.mean(detector.training_scores_ > detector.threshold_) == pytest.approx(0.1)
    assert 0.05 < detector.predict(X).mean() < 0.15
    threshold = detector.threshold_
    detector.score_samples(wave(anomaly=slice(100, 200)))
    assert detector.threshold_ == threshold == small(contamination=0.1).fit(X).threshold_


def test_missing_values_count_in_no_score():
    X = wave()
    X[50:53, 0], X[100:104] = np.nan, np.nan
    detector = small().fit(X)
    scores = detector.score_samples(X)
    assert np.isfinite(scores).all() and not detector.predict(X)[100:104].any()
    # a channel without values has no part, and is said
    X[:, 1] = np.nan
    found = small().fit(X)
    assert found.notes_ == ["channel '1' of X has no value, and no part in scores"]
    assert np.isfinite(found.score_samples(X)).all()


def test_a_frame_with_missing_steps():
    frame = as_frame(wave()).drop(index=[20, 21])
    found = small(fill_gaps=True).fit(frame).score_samples(frame)
    assert len(found) == 298 and found.notna().all()


def test_constant_series_and_padding_channels_do_not_dilute():
    X = wave(300, 1, slice(150, 158))
    padded = np.concatenate([X, np.zeros((300, 8))], 1)
    train = np.concatenate([wave(400), np.zeros((400, 8))], 1)
    a, b = small().fit(wave(400)).score_samples(X), small().fit(train).score_samples(padded)
    np.testing.assert_allclose(a, b, rtol=1e-9)
    flat = small().fit(np.full((60, 1), 7.0))
    scores = flat.score_samples(np.r_[np.full((30, 1), 7.0), [[8.0]], np.full((30, 1), 7.0)])
    assert np.isfinite(scores).all() and scores[30] == scores.max() > flat.threshold_


def test_each_series_has_its_detector():
    frame = pd.concat([as_frame(wave(seed=k) * 10**k).assign(unique_id=name) for k, name in enumerate("ba")])
    found = small().fit(frame)
    one = frame[frame["unique_id"] == "a"]
    np.testing.assert_array_equal(found.score_samples(one), found.score_samples(frame)[300:])
    with pytest.raises(DataError, match="no detector was fitted to series 'c', there are those of b, a; fit on its"):
        found.score_samples(one.assign(unique_id="c"))


def test_saved_and_loaded(tmp_path):
    frame = pd.concat([as_frame(wave(seed=k)).assign(unique_id=k) for k in range(2)])
    found = small("DetectorMean", quantile=0.95).fit(frame)
    found.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"anomaly_detector.json", "weights.safetensors"}
    twin = AnomalyDetector.load(tmp_path)
    pd.testing.assert_series_equal(twin.score_samples(frame), found.score_samples(frame))
    assert twin.threshold_ == found.threshold_ and repr(twin) == repr(found)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda X: small().predict(X), NotFittedError, "this AnomalyDetector is not fitted; call fit() or load()"),
        (lambda X: small().fit(X).predict(X[:, :1]), DataError, "X has 1 features, but AnomalyDetector is expecting 2"),
        (
            lambda X: small().fit(X[:1]),
            DataError,
            "X has 1 sample(s), and a detector learns from 2 time steps at least",
        ),
        (lambda X: small().fit(X * np.nan), DataError, "X has no value at all; leave it out, or give values"),
        (lambda X: small().fit(X).predict(X[:5]), DataError, "X: none of 5 rows can be scored: SubPCA looks at"),
        (
            lambda X: small().fit(np.where(np.arange(300)[:, None] % 2, X, np.nan)),
            DataError,
            "X: none of its 300 rows can be scored: SubPCA looks at windows of up to 21 rows, and too few of them have",
        ),
        (
            lambda X: small("DLinear").fit([X, X[:2]]),
            DataError,
            "series 1 has 2 rows, and windows of a trained detector have 75 here; leave the series out",
        ),
        (
            lambda X: small("DLinear", max_steps=1).fit(X).predict(X[:5]),
            DataError,
            "X: none of 5 rows can be scored: DLinear looks at windows of up to 75 rows",
        ),
        (lambda X: small().fit(X).plot(X, labels=[1]), DataError, "labels has 1 values, X has 300 rows; give one each"),
        (lambda X: small().fit(X).score(X, np.zeros(5)), DataError, "y has 5 labels, X has 300 rows; give one label"),
        (
            lambda X: small().fit(X).score(X, np.arange(300)),
            ValueError,
            "give 1 for anomalous rows and 0 for the others",
        ),
        (
            lambda X: small(quantile=1),
            ConfigError,
            "quantile should be above 0 and below 1, got 1; use for example 0.99",
        ),
        (lambda X: small(contamination=0), ConfigError, "contamination should be above 0 and below 1, got 0"),
        (lambda X: small(contamination=0.1, quantile=0.9), ConfigError, "are one option; give one"),
        (lambda X: small("SubPcA").fit(X), ConfigError, "SubPcA"),
        (lambda X: small(model_kwargs={"depth": 3}).fit(X), ConfigError, "SubPCA cannot be built: "),
    ],
)
def test_what_cannot_be(run, error, message):
    with pytest.raises(error) as raised:
        run(wave())
    assert message in str(raised.value)


def test_the_rows_of_the_fit_are_labeled_by_their_own_scores():
    """A threshold for new rows may be above all rows that the detector knows, here beside a channel without a level."""
    rng = np.random.default_rng(0)
    X = np.stack(
        [np.sin(np.arange(600) * 2 * np.pi / 24) + 0.1 * rng.standard_normal(600), rng.standard_normal(600)], 1
    )
    X[:, 1] = X[:, 1].cumsum()
    X[500, 0] = 5
    flags = AnomalyDetector().fit_predict(X)
    assert flags.sum() == 6 and flags[500] == 1
    found = AnomalyDetector(contamination=0.05)
    assert found.fit_predict(X).sum() == 30 and (found.predict(X) == found.fit_predict(X)).all()
