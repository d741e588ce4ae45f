"""Models of tokens: an embedding, a backbone, and a softmax at every position; step by step where mixers are causal."""

from typing import Any, Literal, Protocol

from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.mixers import MixerFactory
from seqmix.models.backbone import Backbone
from seqmix.models.block import ChannelMLP, places
from seqmix.models.dropout import Dropout

# position of the next token, and the states of the blocks
State = tuple[int, list[Any]]


class TokenModel(nn.Module):
    """Scores of tokens at every position; of the next one, if all mixers are causal, also one step at a time.

    Shapes: ``(B, L) -> (B, L, vocab_size)``. Cost: that of the backbone, and O(L D vocab_size); ``step`` costs that of
    the mixers' steps, the same at every position where their states do not grow.

    Args:
        vocab_size: number of tokens.
        max_len: longest sequence, for ``positions`` and for mixers that store something per position.
        mixer: makes the sequence mixer of every block: a class, a ``functools.partial``, an entry of a config.
        layers: sequence mixers of successive blocks, repeated from the start; replaces ``mixer``.
        channel_mixer: makes the channel mixer of every block; None leaves blocks with one residual.
        d_model: width D.
        n_layers: number of blocks.
        norm: ``layer`` or ``rms``, in the backbone.
        post_norm: normalize after each residual sum, which makes the gate of ``LongVQ`` that of its source.
        positions: learn an embedding for each of ``max_len`` positions; for mixers blind to order.
        tied: score tokens with their embeddings instead of a matrix of its own.
        dropout: probability, on the embeddings and on the output of each mixer.

    Raises:
        ConfigError: if ``positions`` are asked for without ``max_len``.

    Source: Gu and Dao, 2023, arXiv:2312.00752, app. E.2, at its size with ``channel_mixer=None`` and ``norm="rms"``.
    Differs from the original code in: any mixer; output projections start as their mixers say.
    """

    def __init__(
        self,
        vocab_size: int,
        max_len: int | None = None,
        *,
        mixer: MixerFactory,
        layers: list[MixerFactory] | None = None,
        channel_mixer: MixerFactory | None = ChannelMLP,
        d_model: int = 128,
        n_layers: int = 4,
        norm: Literal["layer", "rms"] = "layer",
        post_norm: bool = False,
        positions: bool = False,
        tied: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        if positions and max_len is None:
            raise ConfigError("max_len is needed: positions = True stores one embedding per position; set max_len=512")
        self.embed = nn.Embedding(vocab_size, d_model)
        self.place = nn.Embedding(max_len, d_model) if positions and max_len is not None else None
        self.drop = Dropout(dropout)
        self.backbone = Backbone(
            d_model,
            n_layers,
            max_len=max_len,
            mixer=mixer,
            layers=layers,
            channel_mixer=channel_mixer,
            norm=norm,
            dropout=dropout,
            post_norm=post_norm,
            final_norm=not post_norm,
        )
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        for table in (self.embed, self.place, self.head):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)
        if tied:
            self.head.weight = self.embed.weight

    @property
    def label(self) -> str:
        """The mixers."""
        return "+".join(self.backbone.mixer_names)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, cu_seqlens: Tensor | None = None) -> Tensor:
        """Score tokens at every position.

        Args:
            tokens: tokens ``(B, L)``.
            mask: positions to keep ``(B, L)`` bool.
            cu_seqlens: bounds ``(S + 1,)`` of texts packed into one row, B = 1, without a mask; nothing crosses them.
        """
        return self.head(self.encode(tokens, mask, cu_seqlens=cu_seqlens))

    def encode(self, tokens: Tensor, mask: Tensor | None = None, *, cu_seqlens: Tensor | None = None) -> Tensor:
        """Features that ``head`` scores, ``(B, L) -> (B, L, D)``; arguments as those of ``forward``."""
        x = self.embed(tokens)
        if self.place is not None:
            x = x + self.place(places(tokens.shape[1], cu_seqlens, tokens.device))
        return self.backbone(self.drop(x), mask, cu_seqlens=cu_seqlens)

    def init_state(self, batch_size: int) -> State:
        """The state before the first token: its position, and the states of the blocks."""
        return 0, self.backbone.init_state(batch_size)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token of each sequence, ``(B,)``, and score the next, ``(B, vocab_size)``."""
        position, states = state
        x = self.embed(tokens)
        if self.place is not None:
            x = x + self.place.weight[position]
        x, states = self.backbone.step(x, states)
        return self.head(x), (position + 1, states)


class TokenModelFactory(Protocol):
    """Whatever makes a model of tokens from the facts of the data."""

    def __call__(self, vocab_size: int, max_len: int | None = None) -> TokenModel:
        """Make it."""
        ...
