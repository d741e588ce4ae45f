"""Factories of models with the options that a user gave."""

from collections.abc import Callable, Mapping
from typing import Any

from seqmix.errors import ConfigError
from seqmix.models import class_of


def with_options(factory: Callable[..., Any], options: Mapping[str, Any] | None) -> Callable[..., Any]:
    """A factory with ``model_kwargs``, which are refused by name where it does not take them."""
    if not options:
        return factory

    def make(*facts: Any) -> Any:
        try:
            return factory(*facts, **options)
        except TypeError as e:
            raise ConfigError(f"{class_of(factory).__name__} cannot be built: {e}; see model_kwargs") from e

    return make
