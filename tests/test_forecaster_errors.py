"""The Forecaster: what cannot be is said, with the remedy, before anything is trained."""

import numpy as np
import pandas as pd
import pytest
from daily_panel import panel, small

from seqmix import Forecaster
from seqmix.errors import ConfigError, DataError, NotFittedError
from seqmix.models import list_encoders, list_models


@pytest.fixture(scope="module")
def fitted():
    return small().fit(panel())


@pytest.mark.parametrize(
    ("run", "kind", "message"),
    [
        (lambda fc: small().predict(), NotFittedError, "this Forecaster is not fitted; call fit() or load()"),
        (lambda fc: Forecaster("DLinear", 0), ConfigError, "horizon must be >= 1, got 0; use 1 or more"),
        (lambda fc: fc.make_future_dataframe(horizon=0), ConfigError, "horizon must be >= 1, got 0; use 1 or more"),
        (
            lambda fc: fc.predict(horizon="3"),
            ConfigError,
            "horizon = '3' is not a whole number; use for example 1, or None",
        ),
        (
            lambda fc: fc.cross_validation(panel(), n_windows="2"),
            ConfigError,
            "n_windows = '2' is not a whole number; use for example 1",
        ),
        (lambda fc: fc.cross_validation(panel(), refit=-1), ConfigError, "refit must be >= 0, got -1; use 0 or more"),
        (
            lambda fc: small(loss=None),
            ConfigError,
            "loss = None is not a loss; use a name such as 'mae', or a factory",
        ),
        (
            lambda fc: small(freq=1.5),
            ConfigError,
            "freq should be an alias of pandas or a whole number, got 1.5; use 'D' or 1",
        ),
        (
            lambda fc: small(trainer_kwargs={"max_time": "1h"}).fit(panel()),
            ConfigError,
            "trainer_kwargs = {'max_time': '1h'} do not make a Trainer (`Timer(duration='1h')` is not a valid "
            "duration. Expected a string in the format DD:HH:MM:SS); correct that one",
        ),
        (
            lambda fc: small(trainer_kwargs={"steps": 3}).fit(panel()),
            ConfigError,
            "trainer_kwargs: the Trainer of Lightning has no option 'steps'; leave it out",
        ),
        (
            lambda fc: small().fit(panel(), val_size=99),
            DataError,
            "val_size = 99 leaves no series rows to train on, the longest has 100; use fewer",
        ),
        (
            lambda fc: small().fit(panel().assign(y=lambda df: df["y"] * 1e300)),
            DataError,
            "values of 'a' are too large to be scaled; divide them by a power of ten",
        ),
        (lambda fc: Forecaster("DLinear", "7"), ConfigError, "horizon = '7' is not a whole number; use for example 1"),
        (lambda fc: Forecaster("DLinear", 7.0), ConfigError, "horizon = 7.0 is not a whole number; use for example 1"),
        (lambda fc: small(seed=None), ConfigError, "seed = None is not a whole number; use for example 1"),
        (lambda fc: small(season=0), ConfigError, "season must be >= 1, got 0; use 1 or more"),
        (lambda fc: small(batch_size=-1), ConfigError, "batch_size must be >= 1, got -1; use 1 or more"),
        (
            lambda fc: small(device="gpu"),
            ConfigError,
            "device = 'gpu' is not known; use auto, cpu, cuda, cuda:<number> or mps",
        ),
        (
            lambda fc: fc.clone().set_params(scaler="robust"),
            ConfigError,
            "scaler = 'robust' is not known; use one of auto, season, standard, none",
        ),
        (
            lambda fc: small(levels=["80"]),
            ConfigError,
            "levels should be numbers, got '80'; use for example [80, 95]",
        ),
        (
            lambda fc: small(levels=0.8),
            ConfigError,
            "a level is a percentage between 1 and 100, got 0.8; use for example 90",
        ),
        (
            lambda fc: small(past_covariates=[1]),
            ConfigError,
            "past_covariates should be names of columns, got 1; use for example ['price']",
        ),
        (
            lambda fc: small(""),
            ConfigError,
            "model = '' is not a model; use a name, a class, a partial, or a list of them",
        ),
        (
            lambda fc: small().fit(panel().rename(columns={"y": "DLinear"}), target_col="DLinear"),
            ConfigError,
            "column 'DLinear' has the name of a model, whose forecasts it would hold; rename it",
        ),
        (
            lambda fc: small(season=15).fit(panel()),
            ConfigError,
            "season = 15 is longer than context_length = 14; use context_length=15, or leave it out",
        ),
        (lambda fc: fc.predict(horizon=0), ConfigError, "horizon must be >= 1, got 0; use 1 or more"),
        (
            lambda fc: fc.predict(horizon=7, levels=[80]),
            ConfigError,
            "intervals are known up to the fitted horizon 6, got 7; fit with that horizon, or pass levels=[]",
        ),
        (
            lambda fc: small("dlinear").fit(panel()),
            ConfigError,
            "no model, encoder or mixer 'dlinear'; did you mean 'DLinear'? there are "
            + ", ".join([*list_models(), *list_encoders()])
            + ", and every mixer",
        ),
        (
            lambda fc: fc.set_params(horizn=3),
            ConfigError,
            "Forecaster has no option 'horizn'; it has " + ", ".join(Forecaster("DLinear", 1).get_params()),
        ),
        (
            lambda fc: small(short="error").fit(pd.concat([panel(), panel(("c",), 9)])),
            DataError,
            "1 of 3 series have fewer than context + horizon = 20 rows, first: 'c' (9); give longer series, a smaller "
            "context or horizon, or leave them out with short='drop'",
        ),
        (
            lambda fc: fc.cross_validation(panel(), n_windows=20),
            DataError,
            "2 of 2 series are too short for a test of 120 rows: [a (100), b (100)]; use fewer windows, or leave them "
            "out",
        ),
        (
            lambda fc: small(mode="multivariate").fit(pd.concat([panel(), panel(("c",), 90)])),
            DataError,
            "mode='multivariate' needs series with the same time stamps, 1 of 3 differ from 'a', first: 'c'; "
            "cut them to a common span, or use mode='global'",
        ),
        (
            lambda fc: small(calendar=True).fit(panel().assign(ds=np.tile(np.arange(100), 2))),
            ConfigError,
            "calendar=True needs dates less than a year apart, freq is 1; leave it out",
        ),
        (
            lambda fc: small(past_covariates=["y2"]).fit(panel().assign(y2=1.0)).predict(horizon=9),
            ConfigError,
            "past covariates [y2] are not known beyond the fitted horizon 6, got 9; fit with that horizon",
        ),
        (
            lambda fc: fc.fit(panel(), val_size=3),
            ConfigError,
            "val_size = 3 does not hold a horizon; use 'auto', 0, or at least 6",
        ),
        (
            lambda fc: fc.export("model.bin"),
            ConfigError,
            "path = 'model.bin' is not of a known kind; use the ending .pt2 (torch.export) or .onnx",
        ),
    ],
)
def test_what_cannot_be_is_said(fitted, run, kind, message):
    with pytest.raises(kind) as error:
        run(fitted.clone().fit(panel()) if "fc.fit" in message else fitted)
    assert str(error.value) == message


def test_a_device_that_is_not_there_is_refused_before_training():
    with pytest.raises(ConfigError) as error:
        small(device="cuda:99").fit(panel())
    assert str(error.value) == "device = 'cuda:99' is not on this machine; use device='auto' or 'cpu'"
