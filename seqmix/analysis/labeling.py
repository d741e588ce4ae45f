"""Fitting and running the classification task behind the Classifier."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix.analysis.data import InMemory, check_range
from seqmix.analysis.series import Collection
from seqmix.data.loader import WindowLoader
from seqmix.data.series.labeled import LabeledSeries, Preparation, hold_out, joined
from seqmix.forecasting.training import building, optimize
from seqmix.models import class_of, classifier_factory
from seqmix.tasks import AdamW, SeriesClassification

if TYPE_CHECKING:
    from seqmix.analysis.classifier import Classifier

# series that are classified at a time
_EVAL_BATCH = 256


@dataclass(frozen=True)
class FittedClassifier:
    """A trained task, and how series are prepared for it."""

    task: SeriesClassification
    preparation: Preparation

    def scores(self, series: Collection) -> np.ndarray:
        """Scores of the classes before the softmax, ``(n, n_classes)``, in float64."""
        served = _prepared(self.preparation, series, np.zeros(len(series.values), np.int64))
        self.task.eval()
        with torch.inference_mode():
            found = [self.task(batch) for batch in WindowLoader(served, _EVAL_BATCH)]
        return torch.cat(found).double().numpy()

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Itself as plain values and tensors."""
        tensors = {name: torch.from_numpy(getattr(self.preparation, name)) for name in ("mean", "std")}
        return {}, {**tensors, **{f"task.{name}": x.contiguous() for name, x in self.task.state_dict().items()}}


def fit_classifier(
    of: "Classifier", series: Collection, codes: np.ndarray
) -> tuple[FittedClassifier, pd.DataFrame, list[str]]:
    """Train a model on labeled series; what was learned, a row for each validation, and notes.

    Args:
        of: the options.
        series: the series.
        codes: number of the class of each.
    """
    several = np.bincount(codes).max() > 1
    held = hold_out(codes, of.val_size if several else 0.0, of.seed)
    learned = [x for x, out in zip(series.values, held, strict=True) if not out]
    preparation = Preparation.learn(learned, of.normalize)
    whole = _prepared(preparation, series, codes)
    splits: dict[Any, LabeledSeries] = {
        name: whole.take(torch.from_numpy(np.flatnonzero(at)))
        for name, at in (("train", ~held), ("val", held))
        if at.any()
    }
    data = InMemory(splits, of.batch_size, eval_batch_size=_EVAL_BATCH, seed=of.seed)
    task = _make_task(of)
    history = optimize(task.label, task, data, of._training(), of.seed, validate=bool(held.any()))
    notes = [] if held.any() else ["no series is held out: training goes on to max_steps"]
    missing = sum(int(np.isnan(x).sum()) for x in series.values)
    notes += [f"{missing:,} missing values are interpolated"] if missing else []
    return FittedClassifier(task.eval(), preparation), history, notes


def unpack_classifier(of: "Classifier", tensors: Mapping[str, Tensor]) -> FittedClassifier:
    """What ``pack`` gave, as it was."""
    task = _make_task(of)
    task.load_state_dict({name[5:]: x for name, x in tensors.items() if name.startswith("task.")})
    return FittedClassifier(
        task.eval(), Preparation(of.normalize, *(tensors[name].numpy() for name in ("mean", "std")))
    )


def _prepared(preparation: Preparation, series: Collection, codes: np.ndarray) -> LabeledSeries:
    values = preparation(series.values)
    for x, name in zip(values, series.names, strict=True):
        check_range(x, name)
    return LabeledSeries(*joined(values), torch.from_numpy(codes))


def _make_task(of: "Classifier") -> SeriesClassification:
    factory = partial(classifier_factory(of.model), **(of.model_kwargs or {}))
    with building(class_of(factory).__name__, of.seed):
        return SeriesClassification(
            factory, of.n_channels_, len(of.classes_), of.max_len_, optim=AdamW(lr=of.lr), patience=of.patience
        )
