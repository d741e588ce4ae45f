"""The classification task: cross-entropy, and accuracy that is exact over all examples."""

import torch
from torch import Tensor

from seqmix.models import TokenClassifierFactory
from seqmix.tasks._accuracy import label_sums
from seqmix.tasks._labels import Batch, LabelTask
from seqmix.tasks._optim import AdamW, Optim, default_optim
from seqmix.tasks.score import Table
from seqmix.tasks.task import blank_tokens, require_facts

_OPTIM = default_optim(AdamW, lr=1e-3, weight_decay=0.01, warmup=0.1)


class Classification(LabelTask):
    """Classification of sequences, or of pairs of sequences.

    A batch is ``{"tokens": (B, L), "labels": (B,)}``, int64, with ``"mask": (B, L)`` bool, True = keep, where sequences
    are padded; pairs come as ``(B, 2, L)``. Validation and test accuracy and loss are sums over every example divided
    by their count, never means of batch means. The best checkpoint is that of the highest validation accuracy.

    Args:
        model: model class, ``functools.partial`` or config entry, called with the facts of the data.
        vocab_size: number of tokens; linked from the datamodule.
        n_classes: number of classes; linked from the datamodule.
        max_len: longest sequence; linked from the datamodule.
        pairs: an example is two sequences; linked from the datamodule.
        optim: optimizer and learning-rate schedule. Default: AdamW, with the settings of this task.

    Raises:
        ConfigError: if options are out of range, or the data does not know its classes.
    """

    metrics = ("accuracy", "loss")
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
        super().__init__(label_smoothing=label_smoothing, optim=optim, patience=patience)
        self.save_hyperparameters(logger=False)
        self.forget_code()
        require_facts(self, vocab_size=vocab_size, n_classes=n_classes)
        self.max_len, self.pairs = max_len, pairs
        self.model = model(vocab_size, n_classes, max_len, pairs)
        # correct predictions, negative log-likelihood, examples, those of each class: sums over one pass of a loader
        self.sums = torch.zeros(3 + n_classes, dtype=torch.float64)

    def forward(self, batch: Batch) -> Tensor:
        return self.model(batch["tokens"], batch.get("mask"))

    def example(self) -> dict[str, Batch]:
        """A sequence of zeros of the maximum length."""
        return {"batch": {"tokens": blank_tokens(self, self.max_len, pairs=self.pairs)}}

    def test_counts(self) -> Tensor:
        return self.sums[3:]

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """True ``labels`` and the most likely class ``predicted``, each ``(B,)``."""
        return {"labels": batch["labels"], "predicted": self(batch).argmax(-1)}

    def add_batch(self, batch: Batch) -> None:
        """Add correct predictions, negative log-likelihood and examples of one batch."""
        self.sums += label_sums(self(batch), batch["labels"])

    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """Accuracy, and negative log-likelihood in nats."""
        right, loss, count = self.sums[:3].tolist()
        return {"accuracy": right / count, "loss": loss / count}, count
