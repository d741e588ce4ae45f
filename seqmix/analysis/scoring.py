"""Fitting and running the models behind the AnomalyDetector."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqmix import models
from seqmix.analysis.data import check_range
from seqmix.analysis.series import Collection
from seqmix.errors import DataError
from seqmix.forecasting.training import Training, building
from seqmix.models import Detector, DetectorFactory, ForecastErrors, class_of, forecast_factory, series_of
from seqmix.series import Series


@dataclass(frozen=True)
class Plan:
    """What a detector is made and trained by.

    Args:
        model: name, class or ``functools.partial``.
        options: options of the model.
        season: length of the season. Default: found in the training rows.
        val_size: share that is held out.
        seed: seed of weights, order and dropout.
        training: how a model is trained that has no closed form.
    """

    model: Any
    options: Mapping[str, Any]
    season: int | None
    val_size: float
    seed: int
    training: Training


@dataclass(frozen=True)
class FittedDetectors:
    """A detector in closed form for each series.

    Args:
        detectors: the detectors.
        ids: what the series are called, as text; their places where they have no names.
    """

    detectors: list[Detector]
    ids: list[str]

    def scores(self, series: Collection) -> list[np.ndarray]:
        """Score of each row, ``(T_i,)`` per series.

        Raises:
            DataError: for a series without a detector.
        """
        return [
            self._of(series, i).score(*rows(x, name)).numpy()
            for i, (x, name) in enumerate(zip(series.values, series.names, strict=True))
        ]

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Itself as plain values and tensors."""
        tensors = {
            f"{i}.{name}": x.contiguous()
            for i, each in enumerate(self.detectors)
            for name, x in each.state_dict().items()
        }
        return {"ids": self.ids, "series": [asdict(each.series) for each in self.detectors]}, tensors

    def _of(self, series: Collection, i: int) -> Detector:
        if len(self.detectors) == 1 and len(series.values) == 1:
            return self.detectors[0]
        name = str(series.ids[i])
        if name not in self.ids:
            known = f"{', '.join(self.ids[:5])}{', ...' * (len(self.ids) > 5)}"
            raise DataError(
                f"no detector was fitted to {series.names[i]}, there are those of {known}; fit on its rows as well"
            )
        return self.detectors[self.ids.index(name)]


def fit_detector(plan: Plan, series: Collection) -> tuple[FittedDetectors, list[np.ndarray], list[str]]:
    """Fit a model to normal series; what was learned, the scores of their rows ``(T_i,)``, and notes.

    Raises:
        DataError: if a series is too short, or has no value.
    """
    factory = detector_factory(plan.model, plan.options)
    detectors, scores, notes = [], [], []
    for values, name in zip(series.values, series.names, strict=True):
        x, mask = rows(values, name)
        if len(x) < 2:
            raise DataError(f"{name} has 1 sample(s), and a detector learns from 2 time steps at least; give more rows")
        if not mask.any():
            raise DataError(f"{name} has no value at all; leave it out, or give values")
        absent = ~mask.any(0)
        if absent.any():
            channel = series.channels[int(absent.nonzero()[0])]
            notes.append(f"channel {channel!r} of {name} has no value, and no part in scores")
        facts = series_of(x, mask, window=plan.season)
        detectors.append(_made(plan, factory, facts))
        scores.append(detectors[-1].fit(x, mask).numpy())
    return FittedDetectors(detectors, [str(i) for i in series.ids]), scores, notes


def unpack_detector(plan: Plan, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FittedDetectors:
    """What ``pack`` gave, as it was."""
    factory, detectors = detector_factory(plan.model, plan.options), []
    for i, known in enumerate(facts["series"]):
        detector = _made(plan, factory, Series(**known))
        start = f"{i}."
        detector.load_state_dict({n.removeprefix(start): x for n, x in tensors.items() if n.startswith(start)})
        detectors.append(detector)
    return FittedDetectors(detectors, facts["ids"])


def detector_factory(model: Any, options: Mapping[str, Any]) -> DetectorFactory:
    """Factory of detectors: itself, or that of the errors of a forecasting model.

    Args:
        model: name of a detector, forecasting model or mixer, a class of one, or a ``functools.partial``.
        options: options of the model.

    Raises:
        ConfigError: if none has this name.
    """
    named: Any = getattr(models, model, None) if isinstance(model, str) else model
    cls = class_of(named)
    if isinstance(cls, type) and issubclass(cls, Detector):
        return partial(named, **options)
    return partial(ForecastErrors, model=forecast_factory(model, options))


def rows(values: np.ndarray, name: str) -> tuple[Tensor, Tensor]:
    """Rows ``(T, C)``, 0 where missing, and the mask of those that were observed."""
    check_range(values, name)
    mask = ~np.isnan(values)
    return torch.from_numpy(np.where(mask, values, 0.0)), torch.from_numpy(mask)


def _made(plan: Plan, factory: DetectorFactory, series: Series) -> Detector:
    with building(class_of(factory).__name__, plan.seed):
        return factory(series)
