"""The portfolio of model selection, cheap models first, so that a result is there at any time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from seqmix import models
from seqmix.forecasting.auto.damped import damped
from seqmix.forecasting.auto.parts import LocalModel
from seqmix.forecasting.auto.simple import drift, seasonal_naive
from seqmix.forecasting.auto.stats import stats_models
from seqmix.forecasting.auto.theta import theta
from seqmix.forecasting.factory import Choice, choices

BASE = "SeasonalNaive"
_LOCAL: dict[str, LocalModel] = {BASE: seasonal_naive, "Drift": drift, "Theta": theta, "Damped": damped}
_FIRST = (BASE, "Drift", "Theta", "Damped", "ZeroShot", "Ridge")
_LAST = ("DLinear",)
# a mixer learns something in this many seconds
_MIXER, _LONG = "DenseMLP", 300.0
# models of an optional package come before trained ones
_STATS = ("AutoCES", "AutoETS")
# prior weight of a model; others have 1. A model that learns nothing from the series does as well on the next rows as
# in a backtest
_PRIOR = {BASE: 0.1, "Drift": 0.1, "ZeroShot": 2.0}


class Candidate(NamedTuple):
    """A model to try."""

    name: str  # what the leaderboard calls it
    local: LocalModel | None  # the function, or None for a model of seqmix
    model: Any  # name, class or partial of a model of seqmix
    cls: type[models.ForecastModel]  # which knows facts
    prior: float  # its weight before anything was seen, relative to others

    @property
    def bare(self) -> bool:
        """Whether it uses no covariates."""
        return self.cls.covariates == "refused"

    @property
    def trained(self) -> bool:
        """Whether it is trained by gradient steps, for as long as the budget allows."""
        return self.local is None and not self.cls.pretrained and not self.cls.closed_form


def candidates(members: Sequence[str | Callable[..., Any]] | None, seconds: float) -> list[Candidate]:
    """The models to try, the seasonal naive forecast first, those that are trained last.

    Args:
        members: names of models, mixers and local models (``Drift``, ``Theta``, ``Damped``), classes or partials.
            Default: the portfolio.
        seconds: the time budget; the portfolio has a mixer if it is long.

    Raises:
        ConfigError: if a name is unknown.
    """
    local = {**_LOCAL, **stats_models()}
    default = [*_FIRST, *(name for name in _STATS if name in local), *_LAST, *([_MIXER] if seconds >= _LONG else [])]
    given = default if members is None else list(members)
    found = [_candidate(each, local) for each in ([] if BASE in given else [BASE]) + given]
    # trained models get the time that the others leave
    found.sort(key=lambda each: each.trained)
    names = [each.name for each in found]
    # the second of a name has 1 after it, as in a list of models
    return [
        each._replace(name=each.name + (str(names[:k].count(each.name)) if each.name in names[:k] else ""))
        for k, each in enumerate(found)
    ]


def _candidate(model: Any, local: Mapping[str, LocalModel]) -> Candidate:
    if isinstance(model, str) and model in local:
        return Candidate(model, local[model], model, models.ForecastModel, _PRIOR.get(model, 1.0))
    choice: Choice = choices(model, None)[0]
    return Candidate(choice.name, None, model, choice.cls, _PRIOR.get(choice.name, 1.0))
