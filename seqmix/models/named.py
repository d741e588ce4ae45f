"""Factories of forecasting models, imputers and classifiers from names, classes or factories."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from seqmix.errors import ConfigError
from seqmix.mixers import Mixer, MixerFactory, list_mixers, mixer_facts
from seqmix.models.encoder_classifier import EncoderClassifier
from seqmix.models.encoder_forecaster import EncoderForecaster
from seqmix.models.forecast_model import (
    ForecastModel,
    ForecastModelFactory,
    class_of,
    list_imputers,
    list_models,
    model_facts,
)
from seqmix.models.forecast_model_classifier import ForecastModelClassifier
from seqmix.models.forecasters import MixerForecaster
from seqmix.models.mixer_classifier import MixerClassifier
from seqmix.models.series_classifier import SeriesClassifierFactory, classifier_facts, list_classifiers
from seqmix.models.series_encoder import SeriesEncoder, SeriesEncoderFactory, encoder_facts, list_encoders

# functions that list the names of a kind, and that look one up
_Registry = tuple[Callable[[], list[str]], Callable[[str], Any]]
_ENCODERS: _Registry = (list_encoders, lambda name: encoder_facts(name)[0])
_MODELS: _Registry = (list_models, lambda name: model_facts(name)[0])
_IMPUTERS: _Registry = (list_imputers, lambda name: model_facts(name)[0])
_CLASSIFIERS: _Registry = (list_classifiers, lambda name: classifier_facts(name)[0])


def forecast_factory(
    model: str | MixerFactory | SeriesEncoderFactory | ForecastModelFactory, options: Mapping[str, Any] | None = None
) -> ForecastModelFactory:
    """Factory of forecasting models; a mixer is that of ``MixerForecaster``, an encoder that of ``EncoderForecaster``.

    Args:
        model: name of a registered model, encoder or mixer, a class of these, or a ``functools.partial`` of one.
        options: options of the model, those of ``MixerForecaster`` for a mixer, those of the encoder for an encoder.

    Raises:
        ConfigError: if no model, encoder or mixer has this name.
    """
    factory: Any = _registered(model, "model, encoder", _MODELS) if isinstance(model, str) else model
    options = options or {}
    if _makes(factory, Mixer):
        return partial(MixerForecaster, mixer=factory, **options)
    if _makes(factory, SeriesEncoder):
        return partial(EncoderForecaster, encoder=partial(factory, **options) if options else factory)
    return partial(factory, **options) if options else factory


def imputer_factory(
    model: str | MixerFactory | SeriesEncoderFactory | ForecastModelFactory, options: Mapping[str, Any] | None = None
) -> ForecastModelFactory:
    """``forecast_factory``, and the models that fill gaps and do not forecast, by their names too.

    Raises:
        ConfigError: if no imputer, model, encoder or mixer has this name.
    """
    if isinstance(model, str):
        model = _registered(model, "imputer, model, encoder", _IMPUTERS, _MODELS)
    return forecast_factory(model, options)


def classifier_factory(
    model: str | MixerFactory | SeriesEncoderFactory | ForecastModelFactory | SeriesClassifierFactory,
    options: Mapping[str, Any] | None = None,
) -> SeriesClassifierFactory:
    """Factory of classifiers of series; mixers, encoders and forecasting models are those of the classifier for them.

    Args:
        model: name of a registered classifier, forecasting model, encoder or mixer, a class of these, or a
            ``functools.partial`` of one.
        options: options of the model, those of ``MixerClassifier`` for a mixer.

    Raises:
        ConfigError: if none has this name.
    """
    factory: Any = model
    if isinstance(model, str):
        factory = _registered(model, "classifier, model, encoder", _CLASSIFIERS, _MODELS)
    options = options or {}
    if _makes(factory, Mixer):
        return partial(MixerClassifier, mixer=factory, **options)
    if _makes(factory, SeriesEncoder):
        return partial(EncoderClassifier, encoder=partial(factory, **options) if options else factory)
    if _makes(factory, ForecastModel):
        return partial(ForecastModelClassifier, model=partial(factory, **options) if options else factory)
    return partial(factory, **options) if options else factory


def _makes(factory: Any, kind: type) -> bool:
    cls = class_of(factory)
    return isinstance(cls, type) and issubclass(cls, kind)


def _registered(name: str, kinds: str, *registries: _Registry) -> Any:
    """Look ``name`` up in the given registries, then in those of encoders and mixers."""
    named = []
    for listed, facts in (*registries, _ENCODERS):
        if name in listed():
            return facts(name)
        named += listed()
    if name in list_mixers():
        return mixer_facts(name).cls
    known = [*named, *list_mixers()]
    near = difflib.get_close_matches(name.lower(), {k.lower(): k for k in known}, 1)
    hint = next((f"did you mean {k!r}? " for k in known if near and k.lower() == near[0]), "")
    raise ConfigError(f"no {kinds} or mixer {name!r}; {hint}there are {', '.join(named)}, and every mixer")
