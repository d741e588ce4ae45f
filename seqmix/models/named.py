"""From the name of a model, encoder or mixer, a class of these, or a factory, to a factory of forecasting models."""

import difflib
from collections.abc import Mapping
from functools import partial
from typing import Any

from seqmix.errors import ConfigError
from seqmix.mixers import Mixer, MixerFactory, list_mixers, mixer_facts
from seqmix.models.encoder_forecaster import EncoderForecaster
from seqmix.models.forecast_model import ForecastModelFactory, class_of, list_models, model_facts
from seqmix.models.forecasters import MixerForecaster
from seqmix.models.series_encoder import SeriesEncoder, SeriesEncoderFactory, encoder_facts, list_encoders


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
    factory: Any = _registered(model) if isinstance(model, str) else model
    options = options or {}
    cls = class_of(factory)
    if isinstance(cls, type) and issubclass(cls, Mixer):
        return partial(MixerForecaster, mixer=factory, **options)
    if isinstance(cls, type) and issubclass(cls, SeriesEncoder):
        return partial(EncoderForecaster, encoder=partial(factory, **options) if options else factory)
    return partial(factory, **options) if options else factory


def _registered(name: str) -> Any:
    if name in list_models():
        return model_facts(name)[0]
    if name in list_encoders():
        return encoder_facts(name)[0]
    if name in list_mixers():
        return mixer_facts(name).cls
    named = [*list_models(), *list_encoders()]
    known = [*named, *list_mixers()]
    near = difflib.get_close_matches(name.lower(), {k.lower(): k for k in known}, 1)
    hint = next((f"did you mean {k!r}? " for k in known if near and k.lower() == near[0]), "")
    raise ConfigError(f"no model, encoder or mixer {name!r}; {hint}there are {', '.join(named)}, and every mixer")
