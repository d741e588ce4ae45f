"""Classifiers of token sequences or pairs: embedding, backbone with any mixers, pooling, a small head."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least, check_choice
from seqmix.mixers import MixerFactory
from seqmix.models.backbone import Backbone
from seqmix.models.block import ChannelMLP, Norm
from seqmix.models.dropout import Dropout
from seqmix.models.pooling import Pooling
from seqmix.models.positions import look_up, places


class TokenClassifier(nn.Module, ABC):
    """Base of classifiers of token sequences: ``(B, L) -> (B, n_classes)``, ``(B, 2, L)`` for pairs.

    Members are built as ``Model(vocab_size, n_classes, max_len, pairs, *, options)``; the arguments before the star are
    facts of the data and not part of a config.
    """

    #: scores may see all of a sequence, whatever the mixers do
    causal: ClassVar[bool] = False

    @property
    @abstractmethod
    def label(self) -> str:
        """Name of the model in results."""

    @abstractmethod
    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score the classes of ``tokens``; ``mask`` of the same shape, bool, True = keep."""


class TokenClassifierFactory(Protocol):
    """Factory of classifiers of token sequences, called with the facts of the data."""

    def __call__(
        self, vocab_size: int, n_classes: int, max_len: int | None = None, pairs: bool = False
    ) -> TokenClassifier:
        """Build the model."""
        ...


class SequenceClassifier(TokenClassifier):
    """Classifier of token sequences with any mixer and a pooled head, as in Long Range Arena.

    For pairs both sequences pass through the same layers, and the head sees ``[a, b, a * b, a - b]``. Padding has no
    part in anything: positions are counted, and means taken, over kept tokens.

    Shapes: ``(B, L) -> (B, n_classes)``, or ``(B, 2, L) -> (B, n_classes)``. Cost: that of the backbone.

    Args:
        vocab_size: number of tokens.
        n_classes: number of classes.
        max_len: longest sequence.
        pairs: an example is two sequences.
        mixer: class, ``functools.partial`` or config entry of the sequence mixer of every block.
        layers: sequence mixers of successive blocks, repeated from the start; replaces ``mixer``.
        channel_mixer: factory of the channel mixer of every block. None: blocks with one residual.
        d_model: width D.
        n_layers: number of blocks.
        embed: ``token``, a learned vector for each; or ``scalar``, a linear map of the number that a token is.
        scalar_mean: subtracted from numbers scaled to 0 to 1; 0.5 for Pathfinder and 0.48 for images, in Mega.
        scalar_std: divisor after that; 0.5 and 0.24.
        positions: vectors added to the tokens: ``none``, ``learned``, or ``sinusoidal``. Attention with
            ``rotary: true`` and mixers that know the order by themselves need none.
        pool: what the head sees: ``mean`` of all kept positions, ``cls``, a learned one put before the first, or
            ``last``, the last kept one.
        norm: ``layer``, ``rms``, or ``none`` for mixers with a norm of their own, in the backbone.
        channel_norm: norm of the channel mixers and of the last features. Default: ``norm``.
        post_norm: normalize after each residual sum instead of before each mixer.
        dropout: dropout probability on the embeddings, on the output of each mixer, and in the head.
        head_activation: class of the nonlinearity between the two layers of the head, which is 2 D wide inside.
        checkpointing: recompute blocks in the backward pass: less memory, more time.

    Raises:
        ConfigError: if an option is not known, if ``max_len`` is missing, or for ``pool="cls"`` before causal mixers.

    Source: Tay et al., 2020, arXiv:2011.04006, sec. 2 and app. A; the head and the pairs as in the code of PoNet,
    arXiv:2110.02442. Differs from the original code in: lengths never count padding, which PoNet's
    code averages over; any mixer.
    """

    def __init__(
        self,
        vocab_size: int,
        n_classes: int,
        max_len: int | None = None,
        pairs: bool = False,
        *,
        mixer: MixerFactory,
        layers: list[MixerFactory] | None = None,
        channel_mixer: MixerFactory | None = ChannelMLP,
        d_model: int = 64,
        n_layers: int = 2,
        embed: Literal["token", "scalar"] = "token",
        scalar_mean: float = 0.5,
        scalar_std: float = 0.5,
        positions: Literal["none", "learned", "sinusoidal"] = "learned",
        pool: Literal["mean", "cls", "last"] = "mean",
        norm: Norm = "layer",
        channel_norm: Norm | None = None,
        post_norm: bool = False,
        dropout: float = 0.0,
        head_activation: Callable[[], nn.Module] = nn.GELU,
        checkpointing: bool = False,
    ):
        super().__init__()
        check_choice("embed", embed, ("token", "scalar"))
        check_choice("positions", positions, ("none", "learned", "sinusoidal"))
        check_choice("pool", pool, ("mean", "cls", "last"))
        if positions != "none" and max_len is None:
            raise ConfigError(f"max_len is needed: positions = {positions!r} keeps one vector per position; set it")
        check_at_least(1, vocab_size=vocab_size, n_classes=n_classes, max_len=max_len, d_model=d_model)
        self.pairs = pairs
        self.pool = None if pool == "cls" else Pooling(d_model, pool)
        scalar = _Scalar(vocab_size, d_model, scalar_mean, scalar_std)
        self.embed = scalar if embed == "scalar" else nn.Embedding(vocab_size, d_model)
        self.place = None
        if positions != "none" and max_len is not None:
            table = sinusoids(max_len, d_model)
            self.place = nn.Embedding.from_pretrained(table, freeze=positions == "sinusoidal")
        self.first = nn.Parameter(torch.randn(d_model) * 0.02) if pool == "cls" else None
        self.drop = Dropout(dropout)
        self.backbone = Backbone(
            d_model,
            n_layers,
            max_len=max_len if max_len is None or self.first is None else max_len + 1,
            mixer=mixer,
            layers=layers,
            channel_mixer=channel_mixer,
            norm=norm,
            channel_norm=channel_norm,
            dropout=dropout,
            post_norm=post_norm,
            # after a norm in the last block another one would only scale
            final_norm=not post_norm,
            checkpointing=checkpointing,
        )
        self.head = nn.Sequential(
            nn.Linear(d_model * (4 if pairs else 1), 2 * d_model),
            head_activation(),
            Dropout(dropout),
            nn.Linear(2 * d_model, n_classes),
        )
        for table in (self.embed, self.place if positions == "learned" else None):
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=0.02)
        if pool == "cls" and any(mixer.causal for mixer in self.backbone.mixers):
            raise ConfigError(
                f"pool = 'cls' reads the first position, which sees no other one in a causal mixer ({self.label}); "
                "use pool = 'last'"
            )

    @property
    def label(self) -> str:
        """The mixers."""
        return "+".join(self.backbone.mixer_names)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score the classes of ``tokens: (B, L)``, or ``(B, 2, L)`` for pairs; ``mask`` alike, bool, True = keep."""
        if not self.pairs:
            return self.head(self.encode(tokens, mask))
        both = None if mask is None else rearrange(mask, "b two l -> (b two) l")
        x = self.encode(rearrange(tokens, "b two l -> (b two) l"), both)
        a, b = rearrange(x, "(b two) d -> two b d", two=2)
        return self.head(torch.cat([a, b, a * b, a - b], -1))

    def encode(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """One vector for each sequence, ``(B, L) -> (B, D)``; zero where nothing is kept and there is no ``cls``."""
        x = self.embed(tokens)  # (B, L, D)
        if self.place is not None:
            x = x + look_up(self.place, places(tokens, mask), tokens.shape[1])
        if self.first is not None:
            x = torch.cat([self.first.expand(len(x), 1, -1), x], 1)
            mask = None if mask is None else nn.functional.pad(mask, (1, 0), value=True)
        x = self.backbone(self.drop(x), mask)
        return x[:, 0] if self.pool is None else self.pool(x, mask)


class _Scalar(nn.Module):
    def __init__(self, vocab_size: int, d_model: int, mean: float, std: float):
        super().__init__()
        self.top, self.mean, self.std = vocab_size - 1, mean, std
        self.proj = nn.Linear(1, d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        x = (tokens / self.top - self.mean) / self.std
        return self.proj(x.unsqueeze(-1).to(self.proj.weight))


def sinusoids(length: int, d_model: int) -> Tensor:
    """Sines, then cosines, of positions at wave lengths from 2 pi to 20,000 pi; ``(length, d_model)``.

    Source: Vaswani et al., 2017, arXiv:1706.03762, sec. 3.5. Differs from the original code in: nothing.
    """
    half = -(-d_model // 2)
    rate = torch.exp(-math.log(10000) * torch.arange(half) / max(1, half - 1))
    angle = torch.arange(length).unsqueeze(1) * rate  # (length, D / 2)
    return torch.cat([angle.sin(), angle.cos()], 1)[:, :d_model]
