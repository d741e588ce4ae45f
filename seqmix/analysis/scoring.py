"""Fitting and running the models behind the AnomalyDetector."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqmix import models
from seqmix.analysis.data import InMemory, check_range, learn_scaling
from seqmix.analysis.filling import default_context, split
from seqmix.analysis.series import Collection
from seqmix.analysis.windows import SpanWindows
from seqmix.errors import DataError
from seqmix.forecasting.optimizing import optimize
from seqmix.forecasting.training import Training, building
from seqmix.models import (
    Detector,
    DetectorFactory,
    ForecastErrors,
    ForecastModel,
    class_of,
    forecast_factory,
    series_of,
)
from seqmix.series import Series
from seqmix.tasks import AdamW, AnomalyDetection


@dataclass(frozen=True)
class Plan:
    """Options of a detector and its training.

    Args:
        model: name, class or ``functools.partial``.
        options: options of the model.
        season: length of the season. Default: inferred from the training rows.
        val_size: share that is held out.
        seed: seed of weights, order and dropout.
        training: training options of a model that has no closed form.
    """

    model: Any
    options: Mapping[str, Any]
    season: int | None
    val_size: float
    seed: int
    training: Training


@dataclass(frozen=True)
class FittedDetectors:
    """A detector for each series.

    Args:
        detectors: the detectors.
        ids: names of the series as text, or their positions.
        task: the trained task that all detectors share. Default: they are in closed form.
    """

    detectors: list[Detector]
    ids: list[str]
    task: AnomalyDetection | None = None

    def both_scores(self, series: Collection) -> list[Tensor]:
        """Scores of windows and of rows, the arguments of ``ranked``, ``(2, T_i)`` per series.

        Raises:
            DataError: for a series without a detector, or with too few rows.
        """
        found = []
        for i, (x, name) in enumerate(zip(series.values, series.names, strict=True)):
            detector, given = self._of(series, i), rows(x, name)
            try:
                found.append(detector.both_scores(*given))
            except DataError as e:
                raise DataError(f"{name}: {e}") from e
        return found

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Pack the fitted state as plain values and tensors."""
        tensors = {
            f"{i}.{name}": x.contiguous()
            for i, each in enumerate(self.detectors)
            for name, x in each.state_dict().items()
        }
        window = None if self.task is None else self.task.window
        if self.task is not None:
            tensors |= {f"task.{name}": x.contiguous() for name, x in self.task.state_dict().items()}
        series = [asdict(each.series) for each in self.detectors]
        return {"ids": self.ids, "series": series, "window": window}, tensors

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


def fit_detector(plan: Plan, series: Collection, *, inner: bool) -> tuple[FittedDetectors, list[np.ndarray], list[str]]:
    """Fit a model to normal series; returns the fitted state, the scores of their rows ``(T_i,)``, and notes.

    Args:
        plan: how it is made.
        series: the series.
        inner: the threshold is for the training rows themselves; see ``Detector.fit``.

    Raises:
        DataError: if a series is too short, or has no value.
    """
    given = [rows(x, name) for x, name in zip(series.values, series.names, strict=True)]
    notes = []
    for (x, mask), name in zip(given, series.names, strict=True):
        if len(x) < 2:
            raise DataError(f"{name} has 1 sample(s), and a detector learns from 2 time steps at least; give more rows")
        if not mask.any():
            raise DataError(f"{name} has no value at all; leave it out, or give values")
        absent = ~mask.any(0)
        if absent.any():
            channel = series.channels[int(absent.nonzero()[0])]
            notes.append(f"channel {channel!r} of {name} has no value, and no part in scores")
    factory, task = detector_factory(plan.model, plan.options), None
    if _needs_steps(plan, factory, series_of(*given[0], window=plan.season)):
        task, more = _trained(plan, series)
        notes += more
    detectors, scores = [], []
    for (x, mask), name in zip(given, series.names, strict=True):
        facts = series_of(x, mask, window=plan.season)
        detectors.append(_made(plan, factory, facts) if task is None else task.detector())
        scores.append(detectors[-1].fit(x, mask, inner=inner).numpy())
        if detectors[-1].largest.isnan().all():
            raise DataError(
                f"{name}: none of its {len(x)} rows can be scored: {detectors[-1].label} looks at windows of up to "
                f"{facts.context + facts.horizon} rows, and too few of them have values; give more, or a shorter season"
            )
    return FittedDetectors(detectors, [str(i) for i in series.ids], task), scores, notes


def unpack_detector(
    plan: Plan, n_channels: int, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> FittedDetectors:
    """Rebuild detectors from the result of ``pack``."""

    def part(start: str) -> dict[str, Tensor]:
        return {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}

    factory, task, detectors = detector_factory(plan.model, plan.options), None, []
    if facts["window"] is not None:
        task = _make_task(plan, n_channels, facts["window"])
        task.load_state_dict(part("task."))
        task.eval()
    for i, known in enumerate(facts["series"]):
        detectors.append(_made(plan, factory, Series(**known)) if task is None else task.detector())
        detectors[-1].load_state_dict(part(f"{i}."))
    return FittedDetectors(detectors, facts["ids"], task)


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


def _needs_steps(plan: Plan, factory: DetectorFactory, series: Series) -> bool:
    """Whether the model behind a factory of forecast errors is trained in gradient steps."""
    model = factory.keywords["model"] if isinstance(factory, partial) and factory.func is ForecastErrors else None
    if model is None:
        return False
    with building(class_of(model).__name__, plan.seed):
        built = model(series)
    return any(p.requires_grad for p in built.parameters()) and not (built.closed_form or built.pretrained)


def _trained(plan: Plan, series: Collection) -> tuple[AnomalyDetection, list[str]]:
    """A task trained on windows of all series, each channel in units of its series; and notes."""
    window = default_context(series.lengths)
    short = series.lengths < window
    if short.any():
        i = int(short.argmax())
        raise DataError(
            f"{series.names[i]} has {series.lengths[i]} rows, and windows of a trained detector have {window} here; "
            "leave the series out, or use a model in closed form, for example SubPCA"
        )
    train, held = split(series.lengths, window, plan.val_size, plan.seed)
    values = [learn_scaling([x]).apply([x], [name])[0] for x, name in zip(series.values, series.names, strict=True)]
    splits: dict[Any, Any] = {"train": SpanWindows(values, train, window, stride=1)}
    splits |= {"val": SpanWindows(values, held, window, stride=max(1, window // 4))} if held else {}
    data = InMemory(splits, plan.training.batch_size, eval_batch_size=256, seed=plan.seed)
    task = _make_task(plan, len(series.channels), window)
    optimize(task.label, task, data, plan.training, plan.seed, validate=bool(held))
    return task.eval(), [] if held else ["no window is held out: training goes on to max_steps"]


def _make_task(plan: Plan, n_channels: int, window: int) -> AnomalyDetection:
    factory = forecast_factory(plan.model, plan.options)
    cls = class_of(factory)
    # a linear model can copy a window
    linear = isinstance(cls, type) and issubclass(cls, ForecastModel) and cls.linear
    with building(cls.__name__, plan.seed):
        return AnomalyDetection(
            factory,
            Series(n_channels, window, window),
            score="forecast" if linear else "reconstruction",
            optim=AdamW(lr=plan.training.learning_rate),
            patience=plan.training.patience,
        )


def _made(plan: Plan, factory: DetectorFactory, series: Series) -> Detector:
    with building(class_of(factory).__name__, plan.seed):
        return factory(series)
