"""The token prediction task: any mixers between an embedding and a softmax.

The targets of a batch make it recall, next-token or masked-token prediction.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.mixers import MixerFactory
from seqmix.models import ChannelMLP, TokenModel
from seqmix.tasks._accuracy import score_sums
from seqmix.tasks._optim import AdamW, Optim, default_optim
from seqmix.tasks.score import Table
from seqmix.tasks.task import Task, blank_tokens, require_facts

Batch = dict[str, Tensor]

_OPTIM = default_optim(AdamW, lr=1e-3, weight_decay=0.1, warmup=0.1)

# target of positions without an answer
UNASKED = -100


class TokenPrediction(Task):
    """Prediction of tokens at the positions that have a target.

    A batch is ``{"tokens": (B, L), "targets": (B, L)}``, int64, with target -100 where nothing is asked, and
    ``"mask": (B, L)`` bool, True = keep, where sequences are padded. With the next token as target a stack of causal
    mixers is a causal language model; with the masked tokens any stack is a masked one. Validation and test loss and
    accuracy are sums over every asked position divided by their count, never means of batch means.

    Args:
        mixer: class, ``functools.partial`` or config entry of the sequence mixer of every block.
        vocab_size: number of tokens; linked from the datamodule.
        max_len: longest sequence; linked from the datamodule.
        layers: sequence mixers of successive blocks, repeated from the start; replaces ``mixer``.
        d_model: width D.
        n_layers: number of blocks.
        channel_mixer: factory of the channel mixer of every block. None: blocks with one residual.
        positions: learn an embedding for each of ``max_len`` positions.
        tied: use the token embeddings as output matrix.
        dropout: dropout probability on the embeddings and on the output of each mixer.

    Raises:
        ConfigError: if options contradict each other or are out of range.
    """

    metrics = ("loss", "accuracy")
    counted = "answers"
    facts = ("vocab_size", "max_len")
    extent = "{vocab_size:,} tokens, length {max_len:,}"
    causal = True
    table = Table("tokens", ("max_len",), "length")

    def __init__(
        self,
        mixer: MixerFactory,
        vocab_size: int,
        max_len: int | None = None,
        *,
        layers: list[MixerFactory] | None = None,
        d_model: int = 64,
        n_layers: int = 2,
        channel_mixer: MixerFactory | None = ChannelMLP,
        positions: bool = True,
        tied: bool = True,
        dropout: float = 0.0,
        optim: Optim = _OPTIM,
        patience: int | None = None,
    ):
        super().__init__(optim=optim, patience=patience)
        self.save_hyperparameters(logger=False)
        self.forget_code()
        require_facts(self, vocab_size=vocab_size)
        self.max_len = max_len
        self.model = TokenModel(
            vocab_size,
            max_len,
            mixer=mixer,
            layers=layers,
            channel_mixer=channel_mixer,
            d_model=d_model,
            n_layers=n_layers,
            positions=positions,
            tied=tied,
            dropout=dropout,
        )
        # correct predictions, negative log-likelihood, answers: sums over one pass of a loader
        self.sums = torch.zeros(3, dtype=torch.float64)

    @property
    def label(self) -> str:
        """The mixers."""
        return self.model.label

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score every token at every position, ``(B, L) -> (B, L, vocab_size)``; ``mask: (B, L)`` bool, True = keep."""
        return self.model(tokens, mask)

    def example(self) -> dict[str, Tensor]:
        """The longest text of zeros."""
        return {"tokens": blank_tokens(self, self.max_len)}

    def loss_of(self, batch: Batch) -> Tensor:
        """Cross-entropy over the asked positions of one batch."""
        scores, answers = self._answer(batch)
        # a batch may have no masked token
        return F.cross_entropy(scores, answers, reduction="sum") / max(1, len(answers))

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Truth ``targets`` and the most likely token ``predicted``, each ``(B, L)``."""
        return {"targets": batch["targets"], "predicted": self(batch["tokens"], batch.get("mask")).argmax(-1)}

    def add_batch(self, batch: Batch) -> None:
        """Add correct predictions, negative log-likelihood and answers of one batch."""
        self.sums += score_sums(*self._answer(batch))

    def _answer(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores ``(K, vocab_size)`` and answers ``(K,)`` of the K asked positions; no other position is scored."""
        asked = batch["targets"] != UNASKED
        x = self.model.encode(batch["tokens"], batch.get("mask"))
        return self.model.head(x[asked]).float(), batch["targets"][asked]

    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """Negative log-likelihood in nats, and accuracy."""
        right, loss, count = self.sums.tolist()
        if count == 0:
            raise ConfigError(f"the {stage} batches ask nothing: every target is {UNASKED}; check the datamodule")
        return {"loss": loss / count, "accuracy": right / count}, count
