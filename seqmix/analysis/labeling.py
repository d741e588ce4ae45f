"""Fitting and running the classification task behind the Classifier."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix.analysis.data import InMemory, LabeledSeries, Scaling, learn_scaling
from seqmix.analysis.models import with_options
from seqmix.analysis.series import Collection
from seqmix.data.loader import WindowLoader
from seqmix.forecasting.training import optimize, seeded
from seqmix.models import classifier_factory
from seqmix.tasks import AdamW, SeriesClassification

if TYPE_CHECKING:
    from seqmix.analysis.classifier import Classifier

# series that are classified at a time
_EVAL_BATCH = 256


class FittedClassifier(NamedTuple):
    """A trained task, and how series are scaled for it."""

    task: SeriesClassification
    scaling: Scaling
    padded: bool  # series of the fit had different lengths

    def scores(self, series: Collection) -> np.ndarray:
        """Scores of the classes before the softmax, ``(n, n_classes)``, in float64."""
        values = self.scaling.apply(series.values, series.names)
        served = LabeledSeries(values, np.zeros(len(values), np.int64), padded=self.padded)
        self.task.eval()
        with torch.inference_mode():
            found = [self.task(batch) for batch in WindowLoader(served, _EVAL_BATCH)]
        return torch.cat(found).double().numpy()

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Itself as plain values and tensors."""
        scaling = {f"scaling.{name}": torch.from_numpy(x) for name, x in self.scaling._asdict().items()}
        weights = {f"task.{name}": x.contiguous() for name, x in self.task.state_dict().items()}
        return {"padded": self.padded}, {**scaling, **weights}


def fit_classifier(
    of: "Classifier", series: Collection, codes: np.ndarray
) -> tuple[FittedClassifier, pd.DataFrame, list[str]]:
    """Train a model on labeled series; what was learned, a row for each validation, and notes.

    Args:
        of: the options.
        series: the series.
        codes: number of the class of each.
    """
    held = _held_out(codes, of.val_size, of.seed)
    scaling = learn_scaling([x for x, out in zip(series.values, held, strict=True) if not out])
    values = scaling.apply(series.values, series.names)
    padded = len(set(map(len, values))) > 1
    splits: dict[Any, Any] = {
        name: LabeledSeries([values[i] for i in np.flatnonzero(at)], codes[at], padded=padded)
        for name, at in (("train", ~held), ("val", held))
        if at.any()
    }
    data = InMemory(splits, of.batch_size, eval_batch_size=_EVAL_BATCH, seed=of.seed)
    task = _make_task(of)
    history = optimize(type(task.model).__name__, task, data, of._training(), of.seed, validate=bool(held.any()))
    notes = [] if held.any() else ["no series is held out: training goes on to max_steps"]
    return FittedClassifier(task.eval(), scaling, padded), history, notes


def unpack_classifier(of: "Classifier", facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FittedClassifier:
    """What ``pack`` gave, as it was."""
    scaling = Scaling(*(tensors[f"scaling.{name}"].numpy() for name in Scaling._fields))
    task = _make_task(of)
    task.load_state_dict({name[5:]: x for name, x in tensors.items() if name.startswith("task.")})
    return FittedClassifier(task.eval(), scaling, facts["padded"])


def _make_task(of: "Classifier") -> SeriesClassification:
    factory = with_options(classifier_factory(of.model), of.model_kwargs)
    with seeded(of.seed):
        return SeriesClassification(
            factory, of.n_channels_, len(of.classes_), of.lengths_[1], optim=AdamW(lr=of.lr), patience=of.patience
        )


def _held_out(codes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which series are held out, ``(n,)``: a share of each class, never all of it."""
    held, rng = np.zeros(len(codes), bool), np.random.default_rng(seed)
    for code in np.unique(codes):
        members = rng.permutation(np.flatnonzero(codes == code))
        held[members[: min(round(share * len(members)), len(members) - 1)]] = True
    return held
