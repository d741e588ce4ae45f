"""The classification task: cross-entropy, and accuracy that is exact over all examples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.models import TokenClassifierFactory
from seqmix.tasks._accuracy import label_sums
from seqmix.tasks._baselines import majority
from seqmix.tasks._optim import AdamW, Optim, default_optim
from seqmix.tasks.score import Score, Table
from seqmix.tasks.task import Task, blank_tokens, require_facts

Batch = dict[str, Tensor]

_OPTIM = default_optim(AdamW, lr=1e-3, weight_decay=0.01, warmup=0.1)


class Classification(Task):
    """Classification of sequences, or of pairs of sequences.

    A batch is ``{"tokens": (B, L), "labels": (B,)}``, int64, with ``"mask": (B, L)`` bool, True = keep, where sequences
    are padded; pairs come as ``(B, 2, L)``. Validation and test accuracy and loss are sums over every example divided
    by their count, never means of batch means. The best checkpoint is that of the highest validation accuracy.

    Args:
        model: what makes the model from the facts of the data: a class, a ``functools.partial``, an entry of a config.
        vocab_size: number of tokens; linked from the datamodule.
        n_classes: number of classes; linked from the datamodule.
        max_len: longest sequence; linked from the datamodule.
        pairs: an example is two sequences; linked from the datamodule.
        label_smoothing: share of the target that training spreads over all classes.
        optim: optimizer and learning-rate schedule. Default: AdamW, with the settings of this task.
        patience: validations without a better first metric before training stops. Default: train to the end.

    Raises:
        ConfigError: if options are out of range, or the data does not know its classes.
    """

    metrics = ("accuracy", "loss")
    better = "higher"
    counted = "examples"
    facts = ("n_classes", "max_len")
    extent = "{n_classes} classes, length {max_len:,}"
    table = Table("lra", ("max_len",), "length")

    def __init__(
        self,
        model: TokenClassifierFactory,
        vocab_size: int,
        n_classes: int,
        max_len: int | None = None,
        pairs: bool = False,
        *,
        label_smoothing: float = 0.0,
        optim: Optim = _OPTIM,
        patience: int | None = None,
    ):
        super().__init__(optim=optim, patience=patience)
        self.save_hyperparameters(logger=False)
        self.forget_code()
        require_facts(self, vocab_size=vocab_size, n_classes=n_classes)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing is a share, 0 <= label_smoothing < 1, got {label_smoothing}; use 0.1")
        self.label_smoothing, self.max_len, self.pairs = label_smoothing, max_len, pairs
        self.model = model(vocab_size, n_classes, max_len, pairs)
        # right answers, negative log-likelihood, examples, those of each class: sums over one pass of a loader
        self.sums = torch.zeros(3 + n_classes, dtype=torch.float64)

    @property
    def label(self) -> str:
        """What the model calls itself."""
        return self.model.label

    def forward(self, batch: Batch) -> Tensor:
        """Score every class of every example of a batch, ``(B, n_classes)``."""
        return self.model(batch["tokens"], batch.get("mask"))

    def example(self) -> dict[str, Batch]:
        """The longest sequence of zeros."""
        return {"batch": {"tokens": blank_tokens(self, self.max_len, pairs=self.pairs)}}

    def loss_of(self, batch: Batch) -> Tensor:
        """Cross-entropy of one batch."""
        return F.cross_entropy(self(batch).float(), batch["labels"], label_smoothing=self.label_smoothing)

    def baselines(self, data: Any, chosen: Sequence[Any] | None, seed: int) -> list[Score]:
        """The most frequent class."""
        return [majority(data.label_counts("train"), self.sums[3:])]

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Truth ``labels`` and the likeliest class ``predicted``, each ``(B,)``."""
        return {"labels": batch["labels"], "predicted": self(batch).argmax(-1)}

    def add_batch(self, batch: Batch) -> None:
        """Add right answers, negative log-likelihood and examples of one batch."""
        self.sums += label_sums(self(batch), batch["labels"])

    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """Accuracy, and negative log-likelihood in nats."""
        right, loss, count = self.sums[:3].tolist()
        return {"accuracy": right / count, "loss": loss / count}, count
