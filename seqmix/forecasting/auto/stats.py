"""Models of the package ``statsforecast``, if installed, fitted to one series after another."""

import warnings
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from seqmix.forecasting.auto.parts import LocalModel

_NAMES = ("AutoCES", "AutoETS", "AutoTheta")
# values that the package needs to fit a model
_LEAST = 5


def stats_models() -> dict[str, LocalModel]:
    """The models by name; empty if the package is not installed (``pip install 'seqmix[stats]'``)."""
    return {name: partial(_forecasts, name) for name in _NAMES} if find_spec("statsforecast") else {}


def _forecasts(name: str, y: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """Forecasts of series that end together, NaN before the first value; NaN where the model fails."""
    models = import_module("statsforecast.models")
    found = np.full((len(y), horizon), np.nan)
    for i, row in enumerate(y):
        values = row[~np.isnan(row)]
        if len(values) < _LEAST:
            continue
        model = getattr(models, name)(season_length=season if len(values) >= 2 * season else 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found[i] = model.forecast(values, horizon)["mean"]
            # a series that one model cannot take is forecast by the others
            except Exception:
                continue
    return found
