"""Fine-tuning of encoders for classification and regression of sentences and pairs."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.mixers import zero_masked
from seqmix.models import BidirectionalEncoder, EncoderFactory
from seqmix.models.dropout import Dropout
from seqmix.tasks._optim import AdamW, Optim, default_optim
from seqmix.tasks._processes import gathered
from seqmix.tasks.checkpoint import read_checkpoint
from seqmix.tasks.language import make_encoder
from seqmix.tasks.score import Score, Table
from seqmix.tasks.task import Task, blank_tokens, require_facts

Batch = dict[str, Tensor]

_OPTIM = default_optim(AdamW, lr=5e-5, weight_decay=5e-6, warmup=0.06)


class _SentenceTask(Task, ABC):
    """Base of the tasks of sentences: an encoder, a linear head, and the predictions of one pass.

    The head sees the summary of the encoder's ``pooler``, or without one the mean of the kept positions. The best
    checkpoint is that of the highest validation value of the first metric.

    Args:
        encoder: config entry of the encoder as in pre-training, called with the number of tokens.
        vocab_size: number of tokens; linked from the datamodule.
        n_classes: number of classes, 1 for a score; linked from the datamodule.
        max_len: longest example; linked from the datamodule.
        init_from: checkpoint of ``MaskedLM`` or of another fine-tuning, whose encoder is the initial one. null: random
            weights.
        dropout: dropout probability on the input of the head.

    Raises:
        ConfigError: if options are out of range, or the data is of the other kind.
    """

    better = "higher"
    counted = "examples"
    facts = ("n_classes", "max_len")
    extent = "{n_classes} classes, length {max_len:,}"

    def __init__(
        self,
        encoder: EncoderFactory,
        vocab_size: int,
        n_classes: int,
        max_len: int | None = None,
        *,
        init_from: str | None = None,
        dropout: float = 0.1,
        optim: Optim = _OPTIM,
        patience: int | None = None,
    ):
        super().__init__(optim=optim, patience=patience)
        self.save_hyperparameters(logger=False)
        self.forget_code()
        require_facts(self, vocab_size=vocab_size, n_classes=n_classes)
        self.check_kind(n_classes)
        bert = make_encoder(encoder, vocab_size, max_len)
        D = bert.embeddings["word_embeddings"].get_parameter("weight").shape[1]
        self.model = nn.ModuleDict({"bert": bert, "drop": Dropout(dropout), "head": nn.Linear(D, n_classes)})
        nn.init.normal_(self.model.get_parameter("head.weight"), std=0.02)
        nn.init.zeros_(self.model.get_parameter("head.bias"))
        self.init_from, self.max_len = init_from, max_len
        self.sums = torch.zeros(0)
        self.seen: list[tuple[Tensor, Tensor]] = []

    @abstractmethod
    def check_kind(self, n_classes: int) -> None:
        """Raise ``ConfigError`` if the data has scores and the task wants classes, or the other way round."""

    @abstractmethod
    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of scores ``(B, n_classes)``."""

    @abstractmethod
    def measure(self, scores: Tensor, labels: Tensor) -> dict[str, float]:
        """The metrics of all examples: scores ``(n, n_classes)``, labels ``(n,)``."""

    @property
    def bert(self) -> BidirectionalEncoder:
        """The encoder."""
        return cast(BidirectionalEncoder, self.model["bert"])

    @property
    def label(self) -> str:
        """The mixers."""
        return "+".join(self.bert.mixer_names)

    def setup(self, stage: str) -> None:
        """Start training with the weights of ``init_from``; a resumed run has its own."""
        if stage == "fit" and self.init_from is not None and self.trainer.ckpt_path is None:
            load_encoder(self.bert, self.init_from)

    def forward(self, batch: Batch) -> Tensor:
        """Score every class of every example of a batch, ``(B, n_classes)``."""
        mask = batch["mask"]
        x = self.bert(batch["tokens"], mask, batch["types"], special=batch["special"])
        if self.bert.pooler is None:
            x = zero_masked(x, mask).sum(1) / mask.sum(1, keepdim=True)
        else:
            x = self.bert.pool(x, mask)
        return self.model["head"](self.model["drop"](x))

    def example(self) -> dict[str, Batch]:
        """The longest text of zeros."""
        tokens = blank_tokens(self, self.max_len)
        mask = torch.ones_like(tokens).bool()
        return {"batch": {"tokens": tokens, "mask": mask, "types": tokens, "special": ~mask}}

    def loss_of(self, batch: Batch) -> Tensor:
        return self.loss(self(batch).float(), batch["labels"])

    def baselines(self, data: Any, chosen: Sequence[Any] | None, seed: int) -> list[Score]:
        """A linear model on counts of words, scored on the examples of the last test."""
        # brings scikit-learn, which no other task needs
        from seqmix.tasks._bag_of_words import bag_of_words

        started = time.perf_counter()
        n, classes = self.score().count, data.n_classes > 1
        labels, predicted, size = bag_of_words(data.examples("train"), data.examples("test")[:n], classes)
        metrics = class_metrics(labels, predicted, data.n_classes) if classes else score_metrics(labels, predicted)
        return [Score("BagOfWords", metrics, n, size, time.perf_counter() - started)]

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Truth ``labels`` and ``scores``."""
        return {"labels": batch["labels"], "scores": self(batch)}

    def add_batch(self, batch: Batch) -> None:
        """Keep scores and labels of one batch: no metric here is a mean."""
        self.seen.append((self(batch).float().cpu(), batch["labels"].cpu()))

    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """Return the metrics of all examples."""
        seen = [pair for part in gathered(self._trainer, self.seen) for pair in part]
        scores, labels = (torch.cat(part) for part in zip(*seen, strict=True))
        self.seen.clear()
        return self.measure(scores, labels), len(labels)


class SentenceClassification(_SentenceTask):
    """Classification of sentences or pairs by an encoder that was pre-trained as a masked language model.

    F1 is of class 1, of three classes their mean. Options and errors are those of all tasks of sentences.
    """

    metrics = ("accuracy", "f1", "matthews")
    table = Table("glue", ("max_len",), "length")

    def check_kind(self, n_classes: int) -> None:
        """Raise ``ConfigError`` if the data has scores."""
        if n_classes < 2:
            raise ConfigError("the data has scores, not classes; use the task SentenceRegression")

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(scores, labels)

    def measure(self, scores: Tensor, labels: Tensor) -> dict[str, float]:
        """Accuracy, F1 and Matthews correlation."""
        return class_metrics(labels, scores.argmax(-1), scores.shape[1])


class SentenceRegression(_SentenceTask):
    """Regression of the score of sentences or pairs by an encoder that was pre-trained as a masked language model.

    Trained with the squared error. Options and errors are those of all tasks of sentences.
    """

    metrics = ("spearman", "pearson")
    table = Table("similarity", ("max_len",), "length")
    extent = "scores, length {max_len:,}"

    def check_kind(self, n_classes: int) -> None:
        """Raise ``ConfigError`` if the data has classes."""
        if n_classes != 1:
            raise ConfigError(f"the data has {n_classes} classes, not scores; use the task SentenceClassification")

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Squared error."""
        return F.mse_loss(scores.squeeze(-1), labels)

    def measure(self, scores: Tensor, labels: Tensor) -> dict[str, float]:
        """Spearman and Pearson correlation."""
        return score_metrics(labels, scores.squeeze(-1))


def class_metrics(labels: Tensor, predicted: Tensor, n_classes: int) -> dict[str, float]:
    """Accuracy, F1 and Matthews correlation of predicted classes, the last 0 where there is one class only."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    truth, guess = labels.numpy(), predicted.numpy()
    average = "binary" if n_classes == 2 else "macro"
    return {
        "accuracy": float(accuracy_score(truth, guess)),
        # the type stubs know the choice by name only
        "f1": float(f1_score(truth, guess, average=average, zero_division=0.0)),  # pyright: ignore[reportArgumentType]
        "matthews": float(matthews_corrcoef(truth, guess)) if {*truth} != {*guess} or len({*truth}) > 1 else 0.0,
    }


def score_metrics(labels: Tensor, predicted: Tensor) -> dict[str, float]:
    """Spearman and Pearson correlation of predicted scores, 0 where all predictions are the same."""
    if len(predicted) < 2 or (predicted == predicted[0]).all() or (labels == labels[0]).all():
        return {"spearman": 0.0, "pearson": 0.0}
    truth, guess = labels.double().numpy(), predicted.double().numpy()
    spearman, pearson = spearmanr(truth, guess), pearsonr(truth, guess)
    # the type stubs declare tuples
    return {"spearman": float(spearman.statistic), "pearson": float(pearson.statistic)}  # pyright: ignore


def load_encoder(encoder: nn.Module, path: str) -> None:
    """Load the encoder of a checkpoint; a pooler that it lacks keeps its weights.

    Raises:
        ConfigError: if it is not a checkpoint, or of an encoder of other sizes.
    """
    try:
        state = read_checkpoint(Path(path))["state_dict"]
    except ConfigError as error:
        raise ConfigError(f"init_from = {path!r} cannot be read ({error}); give a checkpoint of MaskedLM") from error
    prefix = "model.bert."
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    own = encoder.state_dict()
    for name in sorted(own.keys() | found.keys()):
        ours, theirs = (tuple(d[name].shape) if name in d else "absent" for d in (own, found))
        if ours != theirs and not (name.startswith("pooler.") and "absent" in (ours, theirs)):
            raise ConfigError(
                f"init_from = {path!r} is of another encoder: {name} is {theirs} in it and {ours} here; "
                "use the same encoder, data.vocab_size and data.vocabulary"
            )
    encoder.load_state_dict(found, strict=False)
