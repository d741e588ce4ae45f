"""Base of classification tasks: cross-entropy, and the most frequent class as the baseline."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.models import SeriesClassifier, TokenClassifier
from seqmix.tasks._baselines import majority
from seqmix.tasks._optim import Optim
from seqmix.tasks.score import Score
from seqmix.tasks.task import Task

Batch = dict[str, Tensor]


class LabelTask(Task, ABC):
    """A task with one label for each example, cross-entropy as its loss, and the most frequent class as its baseline.

    Args:
        label_smoothing: share of the target that is spread over all classes in training.
        optim: optimizer and learning-rate schedule.

    Raises:
        ConfigError: if ``label_smoothing`` is not a share.
    """

    better = "higher"
    #: weight of each class in the loss of training ``(n_classes,)``; None: all are 1
    class_weights: Tensor | None = None
    model: SeriesClassifier | TokenClassifier

    def __init__(self, *, label_smoothing: float, optim: Optim, patience: int | None):
        super().__init__(optim=optim, patience=patience)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing is a share, 0 <= label_smoothing < 1, got {label_smoothing}; use 0.1")
        self.label_smoothing = label_smoothing

    @property
    def label(self) -> str:
        return self.model.label

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Score every class of every example of a batch, ``(B, n_classes)``."""

    @abstractmethod
    def test_counts(self) -> Tensor:
        """Examples of each class in the last test, ``(n_classes,)``."""

    def loss_of(self, batch: Batch) -> Tensor:
        """Cross-entropy of one batch."""
        scores = self(batch).float()
        return F.cross_entropy(scores, batch["labels"], self.class_weights, label_smoothing=self.label_smoothing)

    def baselines(self, data: Any, chosen: Sequence[Any] | None, seed: int) -> list[Score]:
        """The most frequent class."""
        return [majority(data.label_counts("train"), self.test_counts())]
