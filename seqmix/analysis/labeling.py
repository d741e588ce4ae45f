"""Fitting and running the classification task behind the Classifier."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix.analysis.data import InMemory, check_range
from seqmix.analysis.series import Collection
from seqmix.data.loader import WindowLoader
from seqmix.data.series.labeled import LabeledSeries, Normalize, Preparation, hold_out, joined
from seqmix.errors import DataError
from seqmix.forecasting.optimizing import optimize
from seqmix.forecasting.training import Training, building
from seqmix.models import class_of, classifier_factory
from seqmix.tasks import AdamW, SeriesClassification

# series per forward pass
_EVAL_BATCH = 256


@dataclass(frozen=True)
class Plan:
    """Options of a classifier and its training.

    Args:
        model: name, class or ``functools.partial``.
        options: options of the model.
        n_channels: number of channels.
        n_classes: number of classes.
        max_len: longest series.
        normalize: normalization of the series.
        val_size: share of the series of each class that is held out.
        seed: seed of weights, order, dropout and held-out series.
        training: training options of the model.
    """

    model: Any
    options: Mapping[str, Any]
    n_channels: int
    n_classes: int
    max_len: int
    normalize: Normalize
    val_size: float
    seed: int
    training: Training


@dataclass(frozen=True)
class FittedClassifier:
    """A fitted classifier: trained task, and preparation of the series."""

    task: SeriesClassification
    preparation: Preparation

    def scores(self, series: Collection) -> np.ndarray:
        """Scores of the classes before the softmax, ``(n, n_classes)``, in float64.

        Raises:
            DataError: if those of a series are not finite.
        """
        served = _prepared(self.preparation, series, np.zeros(len(series.values), np.int64))
        self.task.eval()
        with torch.inference_mode():
            found = [self.task(batch) for batch in WindowLoader(served, _EVAL_BATCH)]
        scores = torch.cat(found).double().numpy()
        wrong = ~np.isfinite(scores).all(1)
        if wrong.any():
            i = int(wrong.argmax())
            far = float(served.take(torch.tensor([i])).values.abs().max())
            raise DataError(
                f"{series.names[i]} holds values of up to {far:.0e} times the spread of the training values, for which "
                f"{self.task.label} has no finite scores; correct them, or make them missing (NaN)"
            )
        return scores

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Pack the fitted state as plain values and tensors."""
        tensors = {name: torch.from_numpy(getattr(self.preparation, name)) for name in ("mean", "std")}
        return {}, {**tensors, **{f"task.{name}": x.contiguous() for name, x in self.task.state_dict().items()}}


def fit_classifier(
    plan: Plan, series: Collection, codes: np.ndarray
) -> tuple[FittedClassifier, pd.DataFrame, list[str]]:
    """Train a model on labeled series; returns the fitted state, a row for each validation, and notes.

    Args:
        plan: how it is made.
        series: the series.
        codes: number of the class of each.
    """
    task = _make_task(plan)
    closed = task.model.closed_form
    several = np.bincount(codes).max() > 1
    held = hold_out(codes, plan.val_size if several and not closed else 0.0, plan.seed)
    learned = [x for x, out in zip(series.values, held, strict=True) if not out]
    preparation = Preparation.learn(learned, plan.normalize)
    whole = _prepared(preparation, series, codes)
    splits: dict[Any, LabeledSeries] = {
        name: whole.take(torch.from_numpy(np.flatnonzero(at)))
        for name, at in (("train", ~held), ("val", held))
        if at.any()
    }
    data = InMemory(splits, plan.training.batch_size, eval_batch_size=_EVAL_BATCH, seed=plan.seed)
    history = optimize(task.label, task, data, plan.training, plan.seed, validate=bool(held.any()))
    notes = [] if held.any() or closed else ["no series is held out: training goes on to max_steps"]
    missing = sum(int(np.isnan(x).sum()) for x in series.values)
    notes += [f"{missing:,} missing values are interpolated"] if missing else []
    return FittedClassifier(task.eval(), preparation), history, [*notes, *_idle(series)]


def unpack_classifier(plan: Plan, tensors: Mapping[str, Tensor]) -> FittedClassifier:
    """Rebuild a classifier from the result of ``pack``."""
    task = _make_task(plan)
    task.load_state_dict({name[5:]: x for name, x in tensors.items() if name.startswith("task.")})
    return FittedClassifier(
        task.eval(), Preparation(plan.normalize, *(tensors[name].numpy() for name in ("mean", "std")))
    )


def _idle(series: Collection) -> list[str]:
    """Notes about channels that say nothing of the classes."""
    rows = np.concatenate(series.values)
    seen = ~np.isnan(rows)
    lowest, highest = (np.where(seen, rows, limit) for limit in (np.inf, -np.inf))
    constant = lowest.min(0) == highest.max(0)
    return [
        f"channel {name!r} {what}, and tells no class from another"
        for name, any_seen, same in zip(series.channels, np.logical_or.reduce(seen), constant, strict=True)
        for what in (["has one value in all series"] if same else [] if any_seen else ["has no value at all"])
    ]


def _prepared(preparation: Preparation, series: Collection, codes: np.ndarray) -> LabeledSeries:
    for x, name in zip(series.values, series.names, strict=True):
        if np.isnan(x).all():
            raise DataError(f"{name} has no value at all; leave it out, or give values")
    values = preparation(series.values)
    for x, name in zip(values, series.names, strict=True):
        check_range(x, name)
    return LabeledSeries(*joined(values), torch.from_numpy(codes))


def _make_task(plan: Plan) -> SeriesClassification:
    factory = classifier_factory(plan.model, plan.options)
    with building(class_of(factory).__name__, plan.seed):
        return SeriesClassification(
            factory,
            plan.n_channels,
            plan.n_classes,
            plan.max_len,
            optim=AdamW(lr=plan.training.learning_rate),
            patience=plan.training.patience,
        )
