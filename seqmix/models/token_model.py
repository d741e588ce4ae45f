"""Token models: an embedding, a backbone, and a softmax at every position."""

import sys
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers import MixerFactory
from seqmix.models.backbone import Backbone
from seqmix.models.block import ChannelMLP, Norm
from seqmix.models.dropout import Dropout
from seqmix.models.positions import look_up, places

#: how many tokens each text has read ``(B,)``, and the states of the blocks
State = tuple[Tensor, list[Any]]


class TokenModel(nn.Module):
    """Token model: scores of tokens at every position, and step by step if all mixers are causal.

    Shapes: ``(B, L) -> (B, L, vocab_size)``. Cost: that of the backbone, and O(L D vocab_size); ``step`` costs that of
    the mixers' steps, the same at every position where their states do not grow.

    Args:
        vocab_size: number of tokens.
        max_len: longest sequence, for ``positions`` and for mixers that store something per position.
        mixer: class, ``functools.partial`` or config entry of the sequence mixer of every block.
        layers: sequence mixers of successive blocks, repeated from the start; replaces ``mixer``.
        channel_mixer: factory of the channel mixer of every block. None: blocks with one residual.
        d_model: width D.
        n_layers: number of blocks.
        norm: ``layer``, ``rms``, or ``none`` for mixers with a norm of their own, in the backbone.
        channel_norm: norm of the channel mixers and of the last features. Default: ``norm``.
        post_norm: normalize after each residual sum, which makes the gate of ``LongVQ`` that of its source.
        positions: learn an embedding for each of ``max_len`` positions; for mixers that ignore order.
        tied: use the token embeddings as output matrix.
        dropout: dropout probability on the embeddings and on the output of each mixer.
        checkpointing: recompute blocks in the backward pass: less memory, more time.

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
        norm: Norm = "layer",
        channel_norm: Norm | None = None,
        post_norm: bool = False,
        positions: bool = False,
        tied: bool = True,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ):
        super().__init__()
        if positions and max_len is None:
            raise ConfigError("max_len is needed: positions = True stores one embedding per position; set max_len=512")
        check_at_least(1, vocab_size=vocab_size, max_len=max_len, d_model=d_model)
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
            channel_norm=channel_norm,
            dropout=dropout,
            post_norm=post_norm,
            final_norm=not post_norm,
            checkpointing=checkpointing,
        )
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.tied = tied
        self._draw_tables()

    @property
    def label(self) -> str:
        """The mixers."""
        return "+".join(self.backbone.mixer_names)

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        state: State | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, State]:
        """Score tokens at every position.

        Args:
            tokens: tokens ``(B, L)``.
            mask: positions to keep ``(B, L)`` bool.
            cu_seqlens: bounds ``(S + 1,)`` of texts packed into one row, B = 1, without a mask; nothing crosses them.
            state: the state to go on from. Default: that before the first token.
            return_state: return ``(scores, state)`` with the state after the last token. It needs causal mixers;
                ``detach_state`` cuts the gradient, for truncated back-propagation.

        Raises:
            TypeError: if a state is given or asked for and a mixer sees later positions.
            ValueError: if a text is longer than the positions that the model has learned.
        """
        x, after = self._read(tokens, mask, cu_seqlens, state, return_state)
        scores = self.head(x)
        return (scores, after) if return_state else scores

    def encode(self, tokens: Tensor, mask: Tensor | None = None, *, cu_seqlens: Tensor | None = None) -> Tensor:
        """Features that ``head`` scores, ``(B, L) -> (B, L, D)``; arguments as those of ``forward``."""
        return self._read(tokens, mask, cu_seqlens, None, False)[0]

    def prefill(
        self, tokens: Tensor, mask: Tensor | None = None, *, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Read prompts at once and score the token after each, ``(B, L) -> (B, vocab_size)``, for ``step`` to go on.

        Args:
            tokens: tokens ``(B, L)``.
            mask: positions to keep ``(B, L)`` bool; padding may stand on either side.
            state: the state to go on from. Default: that before the first token.
        """
        x, after = self._read(tokens, mask, None, state, True)
        last = x[:, -1] if mask is None else x[torch.arange(x.shape[0], device=x.device), _last_kept(mask)]
        return self.head(last), after

    def reset_parameters(self) -> None:
        """Initialize all parameters again, in place, as after ``to_empty``."""
        # inner modules first: a mixer may initialize some of them in its own way
        for module in reversed([*self.modules()][1:]):
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        self._draw_tables()

    def _draw_tables(self) -> None:
        for table in (self.embed, self.place, self.head):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)
        # again after `to_empty`, which parts them
        if self.tied:
            self.head.weight = self.embed.weight

    def init_state(self, batch_size: int) -> State:
        """The state before the first token: how many each text has read, and the states of the blocks."""
        read = torch.zeros(batch_size, dtype=torch.long, device=self.embed.weight.device)
        return read, self.backbone.init_state(batch_size)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token of each sequence, ``(B,)``, and score the next, ``(B, vocab_size)``."""
        read, states = state
        x = self.embed(tokens)
        if self.place is not None:
            x = x + look_up(self.place, read, sys.maxsize)
        x, states = self.backbone.step(x, states)
        return self.head(x), (read + 1, states)

    def _read(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        cu_seqlens: Tensor | None,
        state: State | None,
        return_state: bool,
    ) -> tuple[Tensor, Any]:
        """Features ``(B, L, D)``, and the state after them if it is asked for."""
        if tokens.ndim != 2:
            raise ValueError(
                f"tokens should be (B, L), got {tuple(tokens.shape)}; add an axis with tokens.unsqueeze(0)"
            )
        x = self.embed(tokens)
        read, states = (None, None) if state is None else state
        if self.place is not None:
            place, longest = places(tokens, mask, cu_seqlens), tokens.shape[1]
            if read is not None:
                before = read.unsqueeze(1) if cu_seqlens is None else read.repeat_interleave(cu_seqlens.diff())
                place, longest = place + before, sys.maxsize
            x = x + look_up(self.place, place, longest)
        x = self.drop(x)
        if state is None and not return_state:
            return self.backbone(x, mask, cu_seqlens=cu_seqlens), None
        x, states = self.backbone(x, mask, cu_seqlens=cu_seqlens, state=states, return_state=True)
        if mask is not None:
            count = mask.sum(1)
        elif cu_seqlens is not None:
            count = cu_seqlens.diff()
        else:
            count = torch.full_like(tokens[:, 0], tokens.shape[1])
        return x, (count if read is None else read + count, states)


def _last_kept(mask: Tensor) -> Tensor:
    """Index of the last kept position of each row of ``mask: (B, L)``."""
    return mask.shape[1] - 1 - mask.flip(1).byte().argmax(1)


class TokenModelFactory(Protocol):
    """Factory of token models, called with the facts of the data."""

    def __call__(self, vocab_size: int, max_len: int | None = None) -> TokenModel:
        """Build the model."""
        ...
