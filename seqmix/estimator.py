"""Base of estimators with the conventions of scikit-learn, without importing it (a second)."""

import inspect
from typing import Any, TypeVar

from seqmix.errors import ConfigError

E = TypeVar("E", bound="Estimator")


class Estimator:
    """Estimator: options are the arguments of the constructor, stored unchanged; fitted attributes end in ``_``."""

    @classmethod
    def _names(cls) -> list[str]:
        return list(inspect.signature(cls).parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The options and their values; ``deep`` is there for scikit-learn, no option has options of its own."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self: E, **params: Any) -> E:
        """Set options by name, and return the estimator, which is then unfitted.

        Raises:
            ConfigError: if there is no such option, or it cannot have the value.
        """
        for name in params:
            if name not in self._names():
                raise ConfigError(f"{type(self).__name__} has no option {name!r}; it has {', '.join(self._names())}")
        # the constructor checks the values
        type(self)(**{**self.get_params(), **params})
        self._forget()
        vars(self).update(params)
        return self

    def _forget(self) -> None:
        """Delete what was fitted."""
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)

    def clone(self: E) -> E:
        """An unfitted estimator with the same options."""
        return type(self)(**self.get_params())

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        given = [
            repr(value) if parameters[name].default is inspect.Parameter.empty else f"{name}={value!r}"
            for name, value in self.get_params().items()
            if repr(value) != repr(parameters[name].default)
        ]
        return f"{type(self).__name__}({', '.join(given)})"
