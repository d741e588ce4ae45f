"""AutoTune: the options that are best on rows that no trial has learned from."""

import errno
import math
from datetime import timedelta
from unittest.mock import Mock

import numpy as np
import pytest
from daily_panel import panel

from seqmix import AutoTune, Forecaster
from seqmix.errors import ConfigError, DataError, WriteError
from seqmix.forecasting import tuning
from seqmix.forecasting.auto import weights

pytest.importorskip("optuna", reason="needs optuna, of the extra scale")


@pytest.fixture
def scored(monkeypatch):
    """Options that were scored, by a stand-in whose error is least at a learning rate of .01."""
    seen = []

    def error(given, *_):
        seen.append(given)
        return abs(math.log10(given["learning_rate"] or 1e-3) + 2)

    monkeypatch.setattr(tuning, "_error", error)
    monkeypatch.setattr(Forecaster, "fit", lambda self, *_, **__: self)
    return seen


def _frame(n=2, length=80):
    return panel("ab"[:n], length)


def test_the_forecaster_of_the_best_trial_is_fitted_to_all_rows():
    frame = _frame()
    tuner = AutoTune(Forecaster("DLinear", horizon=4, max_steps=3, levels=[80]), trials=3).fit(frame)
    assert tuner.trials_.columns.tolist() == ["mase", "seconds", "learning_rate", "context_length", "normalize", "note"]
    assert len(tuner.trials_) == 3 and tuner.trials_["mase"].notna().all()
    best = tuner.trials_.loc[tuner.trials_["mase"].idxmin()]
    params = tuner.forecaster_.get_params()
    assert all(params[name] == best[name] for name in tuner.best_params_)
    forecast = tuner.forecaster_.predict()
    assert (forecast["DLinear-lo-80"] <= forecast["DLinear-hi-80"]).all()
    assert forecast["ds"].min() > frame["ds"].max()
    assert not hasattr(tuner.forecaster, "fitted_")


def test_no_trial_learns_from_the_rows_it_is_scored_on(monkeypatch):
    found, errors_of = [], weights.errors_of

    def kept(points, *rest):
        found.append(points)
        return errors_of(points, *rest)

    monkeypatch.setattr(weights, "errors_of", kept)
    frame = _frame()
    tuner = AutoTune(Forecaster("Ridge", horizon=4), trials=2, space={"normalize": ["window", "season"]})
    first = tuner.fit(frame).trials_
    spike = frame.copy()
    spike.loc[spike.groupby("unique_id").tail(1).index, "y"] += 3
    second = tuner.fit(spike).trials_
    for one, other in zip(found[:2], found[2:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert (second["mase"] > first["mase"] + 0.1).all()


def test_the_seed_decides_and_the_best_is_found(scored):
    frame = _frame(1)
    tuner = AutoTune(
        Forecaster("TSM2", horizon=4), trials=25, space={"learning_rate": "log:1e-5:1", "model.d_model": [4, 8]}
    )
    first = tuner.fit(frame)
    assert scored[0]["learning_rate"] is None and len(scored) == 25
    assert 5e-3 < first.best_params_["learning_rate"] < 2e-2
    assert first.forecaster_.model_kwargs == {"d_model": first.best_params_["model.d_model"]}
    again = tuner.clone().fit(frame).trials_
    assert again.drop(columns="seconds").equals(first.trials_.drop(columns="seconds"))
    # values that were tried are not tried again
    assert len(AutoTune(Forecaster("TSM2", 4), trials=20, space={"batch_size": [4, 8]}).fit(frame).trials_) == 3


def test_what_fails_is_noted_and_the_options_as_they_are_stay(monkeypatch, scored):
    frame = _frame(1)
    error = tuning._error

    def fail(given, *rest):
        if given["learning_rate"]:
            raise RuntimeError("out of\nmemory")
        return error(given, *rest)

    monkeypatch.setattr(tuning, "_error", fail)
    tuner = AutoTune(Forecaster("DLinear", horizon=4), trials=3).fit(frame)
    assert tuner.best_params_ == {} and tuner.trials_["note"].tolist()[1] == "failed: RuntimeError: out of memory"
    for cause, raised, message in (
        (ZeroDivisionError(), ConfigError, "no trial has a result, the first: failed: ZeroDivisionError"),
        # a full disk is not the fault of the values
        (OSError(errno.ENOSPC, "No space left on device"), WriteError, "the disk is full; make room"),
    ):
        monkeypatch.setattr(tuning, "_error", Mock(side_effect=cause))
        with pytest.raises(raised, match=message):
            tuner.fit(frame)


def test_a_budget_ends_the_search(monkeypatch):
    limits = []

    def fit(long, static, how, given, *_):
        limits.append(given["trainer_kwargs"]["max_time"])
        raise RuntimeError("too slow")

    monkeypatch.setattr("seqmix.forecasting.fitting.fit", fit)
    with pytest.raises(ConfigError, match="too slow"):
        AutoTune(Forecaster("DLinear", horizon=4), budget=1e-3).fit(_frame(1))
    assert limits == [timedelta(seconds=1)]


_OWN = ["learning_rate", "d_model", "n_layers"]


@pytest.mark.parametrize(
    ("model", "options", "searched"),
    [
        ("Ridge", {}, ["context_length", "normalize"]),
        ("DLinear", {"learning_rate": 1e-2, "context_length": 8, "normalize": "last"}, []),
        (
            "Hydra",
            {"model_kwargs": {"d_model": 32}, "context_length": 8},
            ["learning_rate", "normalize", "n_layers", "dropout"],
        ),
        ("PatchTST", {"normalize": "last", "context_length": 8}, [*_OWN, "dropout"]),
        ("ZeroShot", {}, ["learning_rate"]),
    ],
)
def test_the_space_is_what_is_left_open(model, options, searched, scored):
    tuner = AutoTune(Forecaster(model, horizon=4, **options), trials=1)
    if not searched:
        with pytest.raises(ConfigError, match="DLinear has nothing to search with these options"):
            tuner.fit(_frame(1))
        return
    columns = tuner.fit(_frame(1)).trials_.columns[2:-1]
    assert [name.removeprefix("model.") for name in columns] == searched


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            {"forecaster": "TSM2"},
            "forecaster should be a Forecaster, got 'TSM2'; use Forecaster\\('TSM2', horizon=24\\)",
        ),
        ({"forecaster": Forecaster("auto", 4)}, "AutoTune searches the options of one model, got 'auto'"),
        ({"trials": 0}, "trials must be >= 1, got 0"),
        ({"budget": "soon"}, "budget = 'soon' is not a time"),
        ({"space": {}}, "space should have options and values, got {}"),
        ({"space": {"lr": [1, 2]}}, "space: DLinear has no option 'lr' to search; it has context_length"),
        ({"space": {"model.d_model": [1, 2]}}, "no option 'model.d_model' to search; .* model.kernel_size"),
        ({"space": {"learning_rate": "log:0:1"}}, "a logarithmic scale begins above 0"),
        ({"space": {"batch_size": [0, 4]}}, "batch_size must be >= 1, got 0"),
    ],
)
def test_wrong_options_are_named(options, error):
    with pytest.raises(ConfigError, match=error):
        AutoTune(**{"forecaster": Forecaster("DLinear", 4), **options}).fit(_frame(1))


def test_short_series_cannot_be_searched():
    with pytest.raises(DataError, match="no series is long enough to hold out 4 rows, the longest has 6"):
        AutoTune(Forecaster("DLinear", 4)).fit(_frame(1, 6))
