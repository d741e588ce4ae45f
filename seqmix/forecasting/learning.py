"""Fitting of given models, or of ``auto``."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from seqmix.errors import ConfigError, NotFittedError
from seqmix.forecasting import fitting
from seqmix.forecasting.auto import Ensemble, fit_auto
from seqmix.forecasting.fitted import Fitted
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.joined import Joined
from seqmix.forecasting.long import Long
from seqmix.forecasting.options import AUTO

AnyFitted = Fitted | Joined | Ensemble


def fit(
    long: Long,
    static: pd.DataFrame | None,
    reading: Reading,
    options: Mapping[str, Any],
    val_size: int | str | np.ndarray,
    stage: str,
) -> AnyFitted:
    """Fit the models of the options, or choose among them; the arguments are those of ``fitting.fit``."""
    learn = fit_auto if options["model"] == AUTO else fitting.fit
    return learn(long, static, reading, options, val_size, stage)


def as_they_are(df: Any, reading: Reading, options: Mapping[str, Any]) -> Fitted | Joined:
    """State for forecasts of pretrained models after the frame ``df``, without training.

    Raises:
        NotFittedError: if there is no frame, or something has to be learned.
    """
    if options["model"] == AUTO:
        raise NotFittedError("this Forecaster is not fitted; call fit() or load()")
    return fitting.as_they_are(df, reading, options)


def least_rows(options: Mapping[str, Any]) -> int:
    """Rows of a series that forecasts can be made from."""
    return options["horizon"] + 1 if options["model"] == AUTO else fitting.least_rows(options)


def fit_more(
    before: AnyFitted,
    long: Long,
    static: pd.DataFrame | None,
    options: Mapping[str, Any],
    max_steps: int,
    learning_rate: float | None,
) -> Fitted | Joined:
    """Train fitted models further; the arguments are those of ``fitting.fit_more``.

    Raises:
        ConfigError: for an ensemble, whose weights would be those of other models.
    """
    if isinstance(before, Ensemble):
        raise ConfigError("auto is not trained further: its weights are learned as a whole; call fit with all rows")
    return fitting.fit_more(before, long, static, options, max_steps, learning_rate)
