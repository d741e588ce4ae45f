"""The contract of forecasting models."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from seqmix.errors import ConfigError
from seqmix.models import ForecastModel, ForecastModelFactory
from seqmix.series import Series
from seqmix.testing._probes import (
    check_batch,
    check_dtypes,
    check_gradients,
    check_signature,
    check_state_dict,
    normal,
    probe,
)
from seqmix.testing.closeness import assert_close_ratio

_SERIES = Series(n_channels=3, context=21, horizon=5)


def check_model(factory: ForecastModelFactory, *, series: Series = _SERIES) -> None:
    """Run the whole contract of forecasting models on models of ``factory``.

    Args:
        factory: a model class, or anything called as ``factory(series)``.
        series: facts of the data to test with; covariates are tested beside them.

    Raises:
        AssertionError: at the first broken promise, with the remedy.
    """
    cls = type(_build(factory, series))
    name, own = cls.__name__, len(cls.quantiles)
    check_signature(cls, ("series",))
    _check_shapes(name, factory, series, own or 3)
    check_gradients(name, _build(factory, replace(series, n_outputs=own or 2)), _window(series, 2))
    check_batch(name, _build(factory, series), _window(series, 3))
    check_dtypes(name, partial(factory, series), _window(series, 2))
    check_state_dict(name, partial(factory, series), _window(series, 2))
    _check_covariates(name, factory, series)


def _check_shapes(name: str, factory: ForecastModelFactory, series: Series, many: int) -> None:
    for batch, channels, outputs in ((1, 1, 1), (2, series.n_channels, many)):
        facts = replace(series, n_channels=channels, n_outputs=outputs)
        y = _build(factory, facts)(_window(facts, batch))
        want = (batch, series.horizon, channels, *((outputs,) if outputs > 1 else ()))
        if y.shape != want:
            raise AssertionError(
                f"shapes: {name} makes {tuple(y.shape)} of {batch} windows with n_outputs = {outputs}, not {want}; "
                "return (B, horizon, C), with a last axis of n_outputs where it is over 1"
            )


def _check_covariates(name: str, factory: ForecastModelFactory, series: Series) -> None:
    facts = replace(series, n_future=2, n_static=2, n_past=2)
    if _build(factory, series).covariates == "refused":
        try:
            factory(facts)
        except ConfigError:
            return
        raise AssertionError(f"covariates: {name} takes what it does not use; call super().__init__(series)")
    model, x = _build(factory, facts), _window(series, 2)
    given = {
        "future": normal(2, series.context + series.horizon, 2, seed=2),
        "static": normal(2, series.n_channels, 2, seed=3),
        "past": normal(2, series.context, 2, seed=4),
    }
    y = model(x, **given)
    for kind, value in given.items():
        z = model(x, **{**given, kind: value + torch.tensor([0.0, 1.0], dtype=value.dtype).view(2, 1, 1)})
        if torch.equal(z[1], y[1]):
            raise AssertionError(f"covariates: {name} ignores {kind}; use it, or set covariates = 'refused'")
        assert_close_ratio(f"covariates: {name} gives {kind} of a window to another one", z[0], y[0], 1e-9)


def _build(factory: ForecastModelFactory, series: Series) -> ForecastModel:
    return probe(partial(factory, series))


def _window(series: Series, batch: int) -> Tensor:
    return normal(batch, series.context, series.n_channels)
