"""Construction of untrained predictors from a name, a mixer, a class or a ``functools.partial``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import isabstract
from typing import Any, NamedTuple

from seqmix import models
from seqmix.errors import ConfigError
from seqmix.forecasting.plan import Plan
from seqmix.forecasting.training import building
from seqmix.models import class_of, forecast_factory
from seqmix.series import Series
from seqmix.tasks.predictor import WindowPredictor


class Choice(NamedTuple):
    """A model to fit."""

    name: str  # in results
    factory: Callable[..., Any]
    cls: type[models.ForecastModel]  # which knows facts; the base class for a function, which says nothing
    baseline: bool  # it uses no covariates, beside a model that does: it gets the data without them

    @property
    def mixes_channels(self) -> bool:
        """Whether aligned series are better forecast together."""
        return self.cls.channels_meet(self.factory.keywords if isinstance(self.factory, partial) else {})


def choices(model: Any, options: Mapping[str, Any] | None) -> list[Choice]:
    """List the models to fit; names that occur again get a suffix 1, 2, ...

    Args:
        model: name of a model, encoder or mixer, a class, a ``functools.partial``, or a list of them.
        options: options of the model, where there is one.

    Raises:
        ConfigError: if there is no model, encoder or mixer of this name, or ``options`` are given for a list.
    """
    given = list(model) if isinstance(model, list | tuple) else [model]
    if options and len(given) > 1:
        raise ConfigError("model_kwargs go with one model, got a list; put functools.partial(Model, ...) in the list")
    names = [each if isinstance(each, str) else class_of(each).__name__ for each in given]
    names = [name + (str(names[:i].count(name)) if name in names[:i] else "") for i, name in enumerate(names)]
    found = [_choice(name, each, dict(options or {})) for name, each in zip(names, given, strict=True)]
    used = [each.cls.covariates == "used" for each in found]
    return [each._replace(baseline=any(used) and not uses) for each, uses in zip(found, used, strict=True)]


def check_covariates(found: Sequence[Choice], columns: Sequence[str]) -> None:
    """Raise ``ConfigError`` if covariates are declared that a model cannot use; a function is asked when it builds."""
    able = ", ".join(models.covariate_models())
    for each in found:
        if columns and each.cls.covariates == "refused" and not (each.baseline or isabstract(each.cls)):
            raise ConfigError(
                f"{each.name} uses no covariates, got {', '.join(columns)}; use {able}, or leave them out"
            )


def own_plan(choice: Choice, plan: Plan) -> Plan:
    """The plan of one model: a pretrained one has context and quantiles of its own, and scales windows itself."""
    cls = choice.cls
    if not cls.pretrained:
        return plan
    found = replace(plan, context=cls.context or plan.context, normalize="none", loss="quantile", native=cls.quantiles)
    found.check_native(choice.name, plan.levels, ())
    return found


def make_predictor(choice: Choice, plan: Plan, series: Series) -> WindowPredictor:
    """An untrained predictor, whose weights depend on the seed of the plan alone.

    Args:
        choice: the model.
        plan: its plan.
        series: sizes of the windows.

    Raises:
        ConfigError: if the model does not take its options.
    """
    series = replace(series, season=min(plan.season, plan.context))
    loss: Any = plan.loss if isinstance(plan.loss, str) else "mse"
    with building(choice.name, plan.seed):
        return WindowPredictor(
            choice.factory,
            series.without_covariates() if choice.baseline else series,
            loss=loss,
            loss_module=None if isinstance(plan.loss, str) else plan.loss,
            quantiles=plan.quantiles,
            normalize=plan.normalize,
        )


def _choice(name: str, model: Any, options: dict[str, Any]) -> Choice:
    factory = forecast_factory(model, options)
    cls = class_of(factory)
    known = isinstance(cls, type) and issubclass(cls, models.ForecastModel)
    return Choice(name, factory, cls if known else models.ForecastModel, baseline=False)
