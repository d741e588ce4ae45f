"""The series classification task."""

from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from seqmix.errors import ConfigError, check_choice
from seqmix.models import SeriesClassifier, SeriesClassifierFactory
from seqmix.tasks._accuracy import confusion_metrics, confusion_sums
from seqmix.tasks._closed_form import batches_of
from seqmix.tasks._labels import Batch, LabelTask
from seqmix.tasks._optim import AdamW, Optim, default_optim
from seqmix.tasks.score import Table
from seqmix.tasks.task import require_facts

_OPTIM = default_optim(AdamW, lr=1e-3, weight_decay=0.01, warmup=0.1)


class SeriesClassification(LabelTask):
    """Classification of multivariate series.

    A batch is ``{"x": (B, L, C), "labels": (B,)}``, with ``"mask": (B, L)`` bool, True = keep, where lengths differ.
    Accuracy, balanced accuracy (the mean recall of the classes), macro F1 and loss are exact over all series, whatever
    the batch size. The best checkpoint is that of the highest validation accuracy, of equal ones that of the lowest
    loss.

    Args:
        model: model class, ``functools.partial`` or config entry, called with the facts of the data.
        n_channels: number of channels; linked from the datamodule.
        n_classes: number of classes; linked from the datamodule.
        max_len: longest series; linked from the datamodule.
        class_weights: ``balanced`` weighs a class in the loss of training by n / (n_classes n_k), n_k its training
            series; ``none`` weighs all series alike.
        optim: optimizer and learning-rate schedule. Default: AdamW, with the settings of this task.

    Raises:
        ConfigError: if options are out of range, or the data does not know its facts.
    """

    metrics = ("accuracy", "balanced_accuracy", "macro_f1", "loss")
    counted = "series"
    facts = ("n_channels", "n_classes", "max_len")
    extent = "{n_channels} channels, {n_classes} classes, length {max_len:,}"
    table = Table("classification", ("max_len",), "length")

    model: SeriesClassifier

    def __init__(
        self,
        model: SeriesClassifierFactory,
        n_channels: int,
        n_classes: int,
        max_len: int,
        *,
        class_weights: Literal["none", "balanced"] = "none",
        label_smoothing: float = 0.0,
        optim: Optim = _OPTIM,
        patience: int | None = None,
    ):
        super().__init__(label_smoothing=label_smoothing, optim=optim, patience=patience)
        self.save_hyperparameters(logger=False)
        self.forget_code()
        require_facts(self, n_channels=n_channels, n_classes=n_classes, max_len=max_len)
        check_choice("class_weights", class_weights, ("none", "balanced"))
        self.balanced = class_weights == "balanced"
        self.n_channels, self.n_classes, self.max_len = n_channels, n_classes, max_len
        self.model = model(n_channels, n_classes, max_len)
        if self.model.closed_form and (self.balanced or label_smoothing):
            raise ConfigError(
                f"{self.label} is fitted in closed form and has no loss: class_weights = {class_weights!r} and "
                f"label_smoothing = {label_smoothing} cannot be used; leave them out, or use MambaSL"
            )
        # negative log-likelihood, series of each true class by predicted class: sums over one pass of a loader
        self.sums = torch.zeros(1 + n_classes**2, dtype=torch.float64)

    def on_fit_start(self) -> None:
        """Weigh the classes; fit a model that has a closed form, which takes no gradient steps."""
        if self.balanced:
            data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
            counts = data.label_counts("train").to(self.device, torch.float32)
            self.class_weights = counts.sum() / (self.n_classes * counts)
        if self.model.closed_form:
            self.model.fit_closed_form(batches_of(self.trainer, None, self.device)[0])
            self.trainer.fit_loop.max_epochs = 0

    def forward(self, batch: Batch) -> Tensor:
        return self.model(batch["x"].to(self.dtype), batch.get("mask"))

    def example(self) -> dict[str, Batch]:
        """The longest series of zeros."""
        return {"batch": {"x": torch.zeros(1, self.max_len, self.n_channels)}}

    def add_batch(self, batch: Batch) -> None:
        """Add negative log-likelihood and confusion counts of one batch."""
        self.sums += confusion_sums(self(batch), batch["labels"])

    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """Accuracy, balanced accuracy, macro F1, and negative log-likelihood in nats."""
        counts = self._counts
        count = float(counts.sum())
        return {**confusion_metrics(counts), "loss": float(self.sums[0]) / count}, count

    def test_counts(self) -> Tensor:
        """Series of each class in the last test, ``(n_classes,)``."""
        return self._counts.sum(1)

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """True ``labels`` ``(B,)`` and ``probabilities`` ``(B, n_classes)``."""
        return {"labels": batch["labels"], "probabilities": self(batch).float().softmax(-1)}

    def prediction_rows(self, batch: Batch, first: int, data: Any) -> pd.DataFrame:
        """Number, true class, predicted class and the probability of each class of every series."""
        names = pd.Index(data.class_names)
        p = batch["probabilities"].numpy()
        frame = pd.DataFrame({"series": range(first, first + len(p))})
        frame["label"], frame["predicted"] = names[batch["labels"].numpy()], names[p.argmax(1)]
        return pd.concat([frame, pd.DataFrame(p, columns=[f"p_{name}" for name in names])], axis=1)

    @property
    def _counts(self) -> Tensor:
        return self.sums[1:].view(self.n_classes, self.n_classes)
