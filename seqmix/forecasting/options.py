"""Validation of the options of the Forecaster, before a frame is read."""

import math
import numbers
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from seqmix.errors import ConfigError, check_choice
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.resampling import AGGREGATES

_CHOICES = {
    "normalize": ("auto", "season", "window", "last", "none"),
    "scaler": ("auto", "season", "standard", "none"),
    "mode": ("auto", "global", "multivariate"),
    "missing": ("mask", "error", "ffill"),
    "short": ("pad", "drop", "error"),
}
# smallest value of each whole number, and whether None stands for a default
_WHOLE = {
    "horizon": (1, False),
    "context_length": (1, True),
    "season": (1, True),
    "max_steps": (0, True),
    "batch_size": (1, True),
    "early_stopping": (1, True),
    "seed": (0, False),
}
#: the automatic choice, by name
AUTO = "auto"
# default budget in seconds
_BUDGET = 60.0
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def resolved(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as plain numbers, lists of names and tuples of levels.

    Raises:
        ConfigError: for a value that an option cannot have.
    """
    for name, words in _CHOICES.items():
        check_choice(name, options[name], words)
    if options["nonnegative"] != "auto":
        check_flag("nonnegative", options["nonnegative"], "'auto', True or False")
    for name in ("conformal", "calendar", "fill_gaps", "verbose"):
        check_flag(name, options[name], "True or False")
    fill, word = options["fill_value"], options["aggregate"]
    if fill is not None and (
        isinstance(fill, bool) or not isinstance(fill, numbers.Real) or not math.isfinite(float(fill))
    ):
        raise ConfigError(f"fill_value should be a number, got {fill!r}; use for example 0.0")
    if fill is not None and not options["fill_gaps"]:
        raise ConfigError(f"fill_value = {fill:g} is for inserted time steps; pass fill_gaps=True as well")
    if word is not None:
        check_choice("aggregate", word, AGGREGATES)
        if options["freq"] is None:
            raise ConfigError(f"aggregate = {word!r} needs a frequency; pass for example freq='W'")
    if not (isinstance(options["loss"], str) or callable(options["loss"])):
        raise ConfigError(f"loss = {options['loss']!r} is not a loss; use a name such as 'mae', or a factory")
    if options["freq"] is not None and not isinstance(options["freq"], str | numbers.Integral):
        raise ConfigError(f"freq should be an alias of pandas or a whole number, got {options['freq']!r}; use 'D' or 1")
    for name in ("model_kwargs", "trainer_kwargs"):
        if options[name] is not None and not isinstance(options[name], Mapping):
            raise ConfigError(f"{name} = {options[name]!r} is not a dictionary; use option names and values")
    model = options["model"]
    if options["learning_rate"] is not None:
        check_positive("learning_rate", options["learning_rate"], "5e-3")
    check_device(options["device"])
    models: list[Any] = list(model) if isinstance(model, list | tuple) else [model]
    if not models or not all(each and (callable(each) or isinstance(each, str)) for each in models):
        raise ConfigError(f"model = {model!r} is not a model; use a name, a class, a partial, or a list of them")
    return {
        **options,
        **{name: whole(name, options[name], *rule) for name, rule in _WHOLE.items()},
        **{name: names(name, options[name]) for name in ("past_covariates", "future_covariates", "static_covariates")},
        "levels": levels(options["levels"]),
        "budget": _budget(options["budget"], model),
    }


def _budget(given: Any, model: Any) -> float:
    """The time budget of ``auto`` in seconds."""
    if given is None:
        return _BUDGET
    if model != AUTO:
        raise ConfigError(f"budget = {given!r} is the time of model='auto'; limit max_steps, or leave it out")
    return seconds("budget", given)


def seconds(name: str, given: Any) -> float:
    """A time in seconds: a number, or text such as ``1min``.

    Raises:
        ConfigError: if it is not a time, or not above 0.
    """
    try:
        number = isinstance(given, numbers.Real) or str(given).replace(".", "", 1).isdigit()
        found = float(given) if number else pd.Timedelta(given).total_seconds()
    except (ValueError, TypeError):
        found = math.nan
    if isinstance(given, bool) or not 0 < found < math.inf:
        raise ConfigError(f"{name} = {given!r} is not a time; use seconds, or for example '1min'")
    return found


def reading(
    given: Mapping[str, Any],
    id_col: str | None = None,
    time_col: str | None = None,
    target_col: str | None = None,
    weight_col: str | None = None,
) -> Reading:
    """Reading options for frames with these columns; columns without a name have the default one."""
    same = {name: given[name] for name in ("freq", "fill_gaps", "fill_value", "aggregate", "missing")}
    columns = {kind: given[f"{kind}_covariates"] for kind in ("past", "future", "static")}
    return Reading(id_col or "unique_id", time_col or "ds", target_col or "y", weight_col, **same, **columns)


def whole(name: str, value: Any, least: int, optional: bool) -> Any:
    """A whole number from ``least`` up, or None where that stands for a default."""
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ConfigError(
            f"{name} = {value!r} is not a whole number; use for example {least or 1}{', or None' * optional}"
        )
    if value < least:
        raise ConfigError(f"{name} must be >= {least}, got {value}; use {least} or more")
    return int(value)


def names(option: str, given: Any) -> list[str]:
    """Names of columns: one alone, or any collection of them."""
    found = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [given]
    wrong = [name for name in found if not isinstance(name, str)]
    if wrong:
        raise ConfigError(f"{option} should be names of columns, got {wrong[0]!r}; use for example ['price']")
    twice = [name for i, name in enumerate(found) if name in found[:i]]
    if twice:
        raise ConfigError(f"{option} names {twice[0]!r} twice; name each column once")
    return [str(name) for name in found]


def levels(given: Any) -> tuple[float, ...]:
    """Coverage in percent: one number alone, or any collection of them; None is none."""
    found = _numbers("levels", given, "[80, 95]")
    for level in found:
        if not 1 < level < 100:
            raise ConfigError(f"a level is a percentage between 1 and 100, got {level:g}; use for example 90")
    return found


def quantiles(given: Any) -> tuple[float, ...]:
    """Levels between 0 and 1: one number alone, or any collection of them; None is none."""
    found = _numbers("quantiles", given, "[0.1, 0.9]")
    for q in found:
        if not 0 < q < 1:
            raise ConfigError(f"quantiles are levels between 0 and 1, got {q:g}; use for example [0.1, 0.9]")
    return found


def _numbers(option: str, given: Any, example: str) -> tuple[float, ...]:
    if given is None:
        return ()
    given = given.tolist() if isinstance(given, np.ndarray) else given
    values: Any = [given] if isinstance(given, str) or not isinstance(given, Iterable) else given
    found: list[float] = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ConfigError(f"{option} should be numbers, got {value!r}; use for example {example}")
        # keep 80 an integer in names of columns and messages
        number = float(value)
        found.append(int(number) if number.is_integer() else number)
    return tuple(dict.fromkeys(found))


def check_positive(name: str, value: Any, example: str) -> None:
    """Raise ``ConfigError`` unless an option is a positive number."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 < float(value) < math.inf:
        raise ConfigError(f"{name} must be a positive number, got {value!r}; use for example {example}")


def check_share(name: str, value: Any, example: str) -> None:
    """Raise ``ConfigError`` unless an option is above 0 and below 1."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 < float(value) < 1:
        raise ConfigError(f"{name} should be above 0 and below 1, got {value!r}; use for example {example}")


def check_device(device: Any) -> None:
    """Raise ``ConfigError`` unless ``device`` is the name of one."""
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        raise ConfigError(f"device = {device!r} is not known; use auto, cpu, cuda, cuda:<number> or mps")


def check_flag(name: str, value: Any, words: str) -> None:
    """Raise ``ConfigError`` unless an option is True or False; ``words`` names the accepted values."""
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{name} = {value!r} is not a flag; use {words}")
