"""From the name of a model or mixer, a mixer class, or a factory, to a factory of forecasting models."""

import difflib
from functools import partial
from typing import Any

from seqmix.errors import ConfigError
from seqmix.mixers import Mixer, MixerFactory, list_mixers, mixer_facts
from seqmix.models.forecast_model import ForecastModelFactory, list_models, model_facts
from seqmix.models.forecasters import MixerForecaster


def forecast_factory(model: str | MixerFactory | ForecastModelFactory) -> ForecastModelFactory:
    """Factory of forecasting models; a mixer is that of ``MixerForecaster``.

    Args:
        model: name of a registered model or mixer, a class of either, or a ``functools.partial`` of one.

    Raises:
        ConfigError: if no model or mixer has this name.
    """
    factory: Any = _registered(model) if isinstance(model, str) else model
    cls = class_of(factory)
    if isinstance(cls, type) and issubclass(cls, Mixer):
        return partial(MixerForecaster, mixer=factory)
    return factory


def class_of(factory: Any) -> Any:
    """The class, or function, under layers of ``functools.partial``."""
    while isinstance(factory, partial):
        factory = factory.func
    return factory


def _registered(name: str) -> Any:
    if name in list_models():
        return model_facts(name)[0]
    if name in list_mixers():
        return mixer_facts(name).cls
    known = [*list_models(), *list_mixers()]
    near = difflib.get_close_matches(name.lower(), {k.lower(): k for k in known}, 1)
    hint = next((f"did you mean {k!r}? " for k in known if near and k.lower() == near[0]), "")
    raise ConfigError(f"no model or mixer {name!r}; {hint}there are {', '.join(list_models())}, and every mixer")
