"""Language modeling tasks: next-token and masked-token prediction, with metrics exact over all tokens."""

import math
import time
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.models import (
    BidirectionalEncoder,
    BidirectionalLM,
    Block,
    EncoderFactory,
    TokenModel,
    TokenModelFactory,
)
from seqmix.models.positions import places
from seqmix.tasks._accuracy import score_sums
from seqmix.tasks._optim import AdamW, Optim, default_optim
from seqmix.tasks._trigram import trigram_loss
from seqmix.tasks.score import Score, Table
from seqmix.tasks.task import Task, blank_tokens, require_facts

Batch = dict[str, Tensor]

_CAUSAL_OPTIM = default_optim(AdamW, lr=1e-3, weight_decay=0.1, warmup=0.05)
_MASKED_OPTIM = default_optim(AdamW, lr=5e-4, weight_decay=0.01, warmup=0.06)

# target of positions without an answer
UNASKED = -100


class CausalLM(Task):
    """Causal language modeling: prediction of every token of a text from the tokens before it.

    A batch is ``{"tokens": (B, L), "targets": (B, L), "bytes": (B,)}``, with target -100 where nothing is asked and
    ``bytes`` the size of the text in it; or, with ``"cu_seqlens": (B + 1,)``, B texts one after another in one row.
    Bits per byte are the negative log-likelihood of all tokens over ``ln 2`` and all bytes: they compare models of
    different tokens, which perplexity, per token, does not.

    Args:
        model: model class, ``functools.partial`` or config entry, called with the facts of the data.
        vocab_size: number of tokens; linked from the datamodule.
        max_len: longest sequence; linked from the datamodule.

    Raises:
        ConfigError: if a mixer is not causal, or options are out of range.
    """

    metrics = ("bits_per_byte", "perplexity")
    counted = "tokens"
    facts = ("vocab_size", "max_len")
    extent = "{vocab_size:,} tokens, length {max_len:,}"
    causal = True
    table = Table("language", ("max_len",), "length")

    def __init__(
        self,
        model: TokenModelFactory,
        vocab_size: int,
        max_len: int | None = None,
        *,
        optim: Optim = _CAUSAL_OPTIM,
        patience: int | None = None,
    ):
        super().__init__(optim=optim, patience=patience)
        self.save_hyperparameters(logger=False)
        self.forget_code()
        require_facts(self, vocab_size=vocab_size)
        self.model, self.max_len = model(vocab_size, max_len), max_len
        require_causal(self.model)
        # negative log-likelihood, bytes, tokens: sums over one pass of a loader
        self.sums = torch.zeros(3, dtype=torch.float64)

    @property
    def label(self) -> str:
        """The mixers."""
        return self.model.label

    def forward(self, tokens: Tensor) -> Tensor:
        """Score the next token at every position, ``(B, L) -> (B, L, vocab_size)``."""
        return self.model(tokens)

    def example(self) -> dict[str, Tensor]:
        """The longest text of zeros."""
        return {"tokens": blank_tokens(self, self.max_len)}

    def loss_of(self, batch: Batch) -> Tensor:
        """Cross-entropy over the tokens of one batch."""
        return F.cross_entropy(*self._answer(batch))

    def baselines(self, data: Any, chosen: Sequence[Any] | None, seed: int) -> list[Score]:
        """An interpolated trigram model, scored on the tokens of the last test."""
        started = time.perf_counter()
        train, test = data.documents("train"), data.documents("test")
        _, n_bytes, tokens = self.sums.tolist()
        loss, size = trigram_loss(
            train.tokens, test.tokens[: test.bounds[-1]], test.bounds, data.vocab_size, count=int(tokens)
        )
        metrics = language_scores(loss, n_bytes, tokens)
        return [Score("Trigram", metrics, int(tokens), size, time.perf_counter() - started)]

    def add_batch(self, batch: Batch) -> None:
        """Add negative log-likelihood, bytes and tokens of one batch."""
        scores, answers = self._answer(batch)
        loss = F.cross_entropy(scores, answers, reduction="sum").double()
        self.sums += torch.stack([loss, batch["bytes"].sum().double(), loss.new_tensor(len(answers))]).cpu()

    def _answer(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores ``(K, vocab_size)`` and answers ``(K,)`` of the K asked positions; no other position is scored."""
        if "targets" not in batch:
            raise ConfigError("CausalLM needs pieces with a next token; set data.objective: causal")
        asked = batch["targets"] != UNASKED
        # padding comes after the text, where no asked position sees it
        x = self.model.encode(batch["tokens"], cu_seqlens=batch.get("cu_seqlens"))
        return _wide(self.model.head(x[asked])), batch["targets"][asked]

    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """Bits per byte, and perplexity per token."""
        loss, n_bytes, tokens = self.sums.tolist()
        return language_scores(loss, n_bytes, tokens), tokens


class MaskedLM(Task):
    """Masked language modeling: prediction of hidden tokens, the pre-training of bidirectional encoders.

    A batch is ``{"tokens": (B, L), "mask": (B, L), "text": (B, L), "index": (B,), "mask_id": ()}``; or, with
    ``"cu_seqlens": (B + 1,)`` and without a mask, B texts one after another in one row. A share of the tokens of
    ``text`` is asked for: 80 % of them are replaced by the token ``mask_id``, 10 % by one drawn from all, and the rest
    stay. The choice depends only on ``mask_seed``, the epoch, the number of the piece and the position in it: a
    resumed run hides the same tokens, and so does validation with any batch size and packing.

    With ``sentence_order`` a batch is of pairs, with ``"types"``, ``"segments"``, ``"special"``, each ``(B, L)``, and
    ``"relation": (B,)``: in order, swapped, or with a second part from elsewhere. The cross-entropy of the relation,
    told from the summary of the encoder's pooler, is added to the loss of training; its mean and accuracy over all
    pairs are logged as ``order_loss`` and ``order_accuracy``.

    Args:
        encoder: config entry or ``functools.partial`` of the encoder, called with the number of tokens.
        vocab_size: number of tokens; linked from the datamodule.
        max_len: longest sequence; linked from the datamodule.
        gelu: GELU of the head: ``none`` is exact, ``tanh`` the approximation of FNet.
        mask_rate: share of the tokens that is predicted in training; 0.3 in Hydra and 0.15 in BERT.
        eval_mask_rate: the share in validation and test.
        mask_seed: seed of the hidden tokens.
        sentence_order: also learn the relation of two parts of a text; needs ``data.objective: pairs``.

    Raises:
        ConfigError: if options are out of range, the encoder is made for shorter texts, or it has no pooler and
            ``sentence_order`` needs one.

    Source: Devlin et al., 2018, arXiv:1810.04805, sec. 3.1; Hwang et al., 2024, arXiv:2407.09941, app. D.2; sentence
    order: Tan et al., 2021, arXiv:2110.02442, sec. 3.3. Differs from the original code in: what is hidden follows from
    numbers, not from the order of batches.
    """

    metrics = ("loss", "accuracy")
    counted = "answers"
    facts = ("vocab_size", "max_len")
    extent = "{vocab_size:,} tokens, length {max_len:,}"
    table = Table("masked", ("max_len",), "length")

    def __init__(
        self,
        encoder: EncoderFactory,
        vocab_size: int,
        max_len: int | None = None,
        *,
        gelu: Literal["none", "tanh"] = "none",
        mask_rate: float = 0.15,
        eval_mask_rate: float = 0.15,
        mask_seed: int = 0,
        sentence_order: bool = False,
        optim: Optim = _MASKED_OPTIM,
        patience: int | None = None,
    ):
        super().__init__(optim=optim, patience=patience)
        self.save_hyperparameters(logger=False)
        self.forget_code()
        require_facts(self, vocab_size=vocab_size)
        for name, rate in {"mask_rate": mask_rate, "eval_mask_rate": eval_mask_rate}.items():
            if not 0 < rate <= 1:
                raise ConfigError(f"{name} is a share of the tokens, 0 < {name} <= 1, got {rate}; use for example 0.15")
        self.mask_rate, self.eval_mask_rate, self.mask_seed = mask_rate, eval_mask_rate, mask_seed
        made = make_encoder(encoder, vocab_size, max_len)
        self.model = BidirectionalLM(made, n_relations=3 if sentence_order else 0, gelu=gelu)
        self.vocab_size, self.max_len, self.sentence_order = vocab_size, max_len, sentence_order
        # of tokens and relations: correct predictions, negative log-likelihood, count; sums over one pass of a loader
        self.sums = torch.zeros(2, 3, dtype=torch.float64)

    @property
    def label(self) -> str:
        """The mixers."""
        return "+".join(self.model.bert.mixer_names)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score every token at every position, ``(B, L) -> (B, L, vocab_size)``."""
        return self.model(tokens, mask)

    def example(self) -> dict[str, Tensor]:
        """The longest text of zeros."""
        return {"tokens": blank_tokens(self, self.max_len)}

    def loss_of(self, batch: Batch) -> Tensor:
        """Cross-entropy over the hidden tokens of one batch, and that of relations."""
        x, asked = self._encode(batch, self.mask_rate, self.current_epoch + 1)
        scores, answers = self._tokens(batch, x, asked)
        # a batch of short texts may have no masked token
        loss = F.cross_entropy(scores, answers, reduction="sum") / max(1, len(answers))
        return loss + F.cross_entropy(*self._relations(batch, x)) if self.sentence_order else loss

    def add_batch(self, batch: Batch) -> None:
        """Add correct predictions, negative log-likelihood and predicted tokens of one batch."""
        x, asked = self._encode(batch, self.eval_mask_rate, 0)
        self.sums[0] += score_sums(*self._tokens(batch, x, asked))
        if self.sentence_order:
            self.sums[1] += score_sums(*self._relations(batch, x))

    def hide(self, batch: Batch, rate: float, epoch: int) -> tuple[Tensor, Tensor]:
        """Tokens with some of them hidden, and which are asked for, each ``(B, L)``."""
        tokens, bounds = batch["tokens"], batch.get("cu_seqlens")
        number, place = batch["index"].unsqueeze(-1), places(tokens, cu_seqlens=bounds)
        if bounds is not None:
            number = batch["index"].repeat_interleave(bounds.diff()).unsqueeze(0)  # (1, L)
        asked = batch["text"] & (_uniform(self.mask_seed, epoch, 0, number, place) < rate)
        fate = _uniform(self.mask_seed, epoch, 1, number, place)
        drawn = (_uniform(self.mask_seed, epoch, 2, number, place) * self.vocab_size).long()
        hidden = torch.where(asked & (fate < 0.8), batch["mask_id"], tokens)
        return torch.where(asked & (fate >= 0.9), drawn, hidden), asked

    def _encode(self, batch: Batch, rate: float, epoch: int) -> tuple[Tensor, Tensor]:
        """Features ``(B, L, D)`` of a batch with some tokens hidden, and which are asked for ``(B, L)``."""
        if "mask_id" not in batch:
            raise ConfigError("MaskedLM hides tokens of whole pieces; set data.objective: masked")
        if self.sentence_order and "relation" not in batch:
            raise ConfigError("sentence_order = True needs pairs of sentences; set data.objective: pairs")
        tokens, asked = self.hide(batch, rate, epoch)
        beside = {name: batch.get(name) for name in ("cu_seqlens", "segments", "special")}
        return self.model.bert(tokens, batch.get("mask"), batch.get("types"), **beside), asked

    def _tokens(self, batch: Batch, x: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``(K, vocab_size)`` and answers ``(K,)`` of the K hidden positions; no other position is scored."""
        return _wide(self.model.cls["predictions"](x[asked])), batch["tokens"][asked]

    def _relations(self, batch: Batch, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``(B, 3)`` and answers ``(B,)`` of the relations of the pairs."""
        summary = self.model.bert.pool(x, batch["mask"])
        return _wide(self.model.cls["seq_relationship"](summary)), batch["relation"]

    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """Negative log-likelihood in nats and accuracy, and those of relations."""
        tokens, relations = self.sums.tolist()
        if tokens[2] == 0:
            raise ConfigError(f"no token of the {stage} text was hidden; raise model.eval_mask_rate, or use more text")
        found = {}
        for kind, (right, loss, count) in {"": tokens, "order_": relations}.items():
            if count:
                found |= {f"{kind}loss": loss / count, f"{kind}accuracy": right / count}
        return found, tokens[2]


def require_causal(model: TokenModel) -> None:
    """Raise ``ConfigError`` if a mixer of ``model`` sees later positions."""
    mixers = [mixer for block in model.backbone.blocks for mixer in cast(Block, block).mixers]
    seers = sorted({type(m).__name__ for m in mixers if not m.causal and not m.pointwise})
    if seers:
        raise ConfigError(
            f"a causal language model must not see the next token, {', '.join(seers)} does; use a causal mixer "
            "(Mamba, or another with causal: true), or the task MaskedLM"
        )


def language_scores(loss: float, n_bytes: float, tokens: float) -> dict[str, float]:
    """Bits per byte and perplexity per token of a text, from its negative log-likelihood in nats."""
    return {"bits_per_byte": loss / math.log(2) / n_bytes, "perplexity": math.exp(loss / tokens)}


def make_encoder(encoder: EncoderFactory, vocab_size: int, max_len: int | None) -> BidirectionalEncoder:
    """The encoder for ``vocab_size`` tokens; raises ``ConfigError`` if texts can be longer than its positions."""
    made = encoder(vocab_size)
    if made.max_len is not None and max_len is not None and made.max_len < max_len:
        raise ConfigError(f"texts have up to {max_len} tokens, the encoder max_len = {made.max_len}; raise that one")
    return made


def _wide(scores: Tensor) -> Tensor:
    # sums of exponentials need float32
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _uniform(seed: int, epoch: int, draw: int, number: Tensor, place: Tensor) -> Tensor:
    """Numbers in [0, 1) that follow from the number of a piece and the place in it alone, ``(B, L)``."""
    x = _scramble(_scramble(number + (seed << 32)) + place)
    x = _scramble(x + (epoch << 8) + draw)
    return (x & 0xFFFFFF).float() / (1 << 24)


def _scramble(x: Tensor) -> Tensor:
    """SplitMix64 (Steele et al., 2014): every bit of a number into every bit; products wrap around."""
    x = x - 7046029254386353131
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ (x >> 31 & 0x1FFFFFFFF)
