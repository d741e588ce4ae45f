"""MixerClassifier: a classifier of series with any mixer."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import ConfigError, check_at_least, check_choice
from seqmix.mixers import Mamba, MixerFactory
from seqmix.models.backbone import Backbone
from seqmix.models.block import ChannelMLP, Norm
from seqmix.models.dropout import Dropout
from seqmix.models.pooling import How, Pooling
from seqmix.models.positions import look_up, places
from seqmix.models.series_classifier import SeriesClassifier, register_classifier
from seqmix.models.token_classifier import sinusoids


@register_classifier(paper="arXiv:2210.13452", d_model=8, n_layers=1)
class MixerClassifier(SeriesClassifier):
    """Classifier of series with any mixer: a convolution into tokens, a backbone, pooling, a linear head.

    The convolution reads all channels of ``patch_len`` time steps around every ``patch_stride`` steps; with a stride of
    8 a series of 16,000 steps is 2,000 tokens. A token is kept where any of its steps is.

    Shapes: ``(B, L, C) -> (B, n_classes)``. Cost: that of the backbone on L / patch_stride tokens.

    Args:
        mixer: class, ``functools.partial`` or config entry of the sequence mixer of every block.
        layers: sequence mixers of successive blocks, repeated from the start; replaces ``mixer``.
        channel_mixer: factory of the channel mixer of every block. None: blocks with one residual.
        d_model: width of a token.
        n_layers: number of blocks.
        patch_len: time steps that a token reads. Default: ``patch_stride``.
        patch_stride: time steps between tokens.
        positions: vectors added to the tokens: ``none``, ``learned``, or ``sinusoidal``; attention needs them.
        pool: pooling of the tokens: ``mean``, ``max``, ``last``, or ``attention``, a mean with learned
            weights.
        norm: ``layer``, ``rms``, or ``none`` for mixers with a norm of their own, in the backbone.
        channel_norm: norm of the channel mixers and of the last features. Default: ``norm``.
        dropout: dropout probability on the tokens, on the output of each mixer, and in the head.
        drop_path: probability of stochastic depth in the last block, growing linearly from 0 in the first.
        checkpointing: recompute blocks in the backward pass: less memory, more time.

    Raises:
        ConfigError: if an option is out of range or not known.

    Source: the backbone of Yu et al., 2022, arXiv:2210.13452, on series. Differs from the original code in: there is
    none.
    """

    axis = "time"

    def __init__(
        self,
        n_channels: int,
        n_classes: int,
        max_len: int,
        *,
        mixer: MixerFactory = Mamba,
        layers: list[MixerFactory] | None = None,
        channel_mixer: MixerFactory | None = ChannelMLP,
        d_model: int = 64,
        n_layers: int = 2,
        patch_len: int | None = None,
        patch_stride: int = 1,
        positions: Literal["none", "learned", "sinusoidal"] = "none",
        pool: How = "mean",
        norm: Norm = "layer",
        channel_norm: Norm | None = None,
        dropout: float = 0.1,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ):
        super().__init__(n_channels, n_classes, max_len)
        check_choice("positions", positions, ("none", "learned", "sinusoidal"))
        self.embed = SeriesEmbedding(n_channels, d_model, patch_len=patch_len, patch_stride=patch_stride)
        n_tokens = self.embed.n_tokens(max_len)
        self.place = None
        if positions == "sinusoidal":
            self.place = nn.Embedding.from_pretrained(sinusoids(n_tokens, d_model))
        elif positions == "learned":
            self.place = nn.Embedding.from_pretrained(0.02 * torch.randn(n_tokens, d_model), freeze=False)
        self.drop = Dropout(dropout)
        self.backbone = Backbone(
            d_model,
            n_layers,
            max_len=n_tokens,
            mixer=mixer,
            layers=layers,
            channel_mixer=channel_mixer,
            norm=norm,
            channel_norm=channel_norm,
            dropout=dropout,
            drop_path=drop_path,
            checkpointing=checkpointing,
        )
        self.pool = Pooling(d_model, pool)
        self.head = nn.Sequential(Dropout(dropout), nn.Linear(d_model, n_classes))

    @property
    def label(self) -> str:
        """The mixers."""
        return "+".join(self.backbone.mixer_names)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x, mask = self.embed(x, mask)
        if self.place is not None:
            x = x + look_up(self.place, places(x[..., 0], mask), x.shape[1])
        return self.head(self.pool(self.backbone(self.drop(x), mask), mask))


class SeriesEmbedding(nn.Module):
    """Tokens of a multivariate series: one convolution over all its channels.

    Token i reads ``patch_len`` steps around the steps ``i patch_stride ... (i + 1) patch_stride - 1``, zeros beyond
    the ends, so that there are ceil(L / patch_stride) tokens.

    Shapes: ``(B, L, C) -> (B, N, D)``, and the mask ``(B, L) -> (B, N)``. Cost: O(N C D patch_len).

    Args:
        n_channels: number of channels C.
        d_model: width of a token D.
        patch_len: time steps that a token reads. Default: ``patch_stride``.
        patch_stride: time steps between tokens.

    Raises:
        ConfigError: if ``patch_stride`` is below 1, or ``patch_len`` below ``patch_stride``.
    """

    def __init__(self, n_channels: int, d_model: int, *, patch_len: int | None = None, patch_stride: int = 1):
        super().__init__()
        patch_len = patch_stride if patch_len is None else patch_len
        check_at_least(1, d_model=d_model, patch_stride=patch_stride)
        if patch_len < patch_stride:
            raise ConfigError(
                f"patch_len = {patch_len} is below patch_stride = {patch_stride}: steps between would be lost; "
                f"use patch_len={patch_stride} or more"
            )
        self.patch_len, self.patch_stride = patch_len, patch_stride
        self.conv = nn.Conv1d(n_channels, d_model, patch_len, patch_stride)

    def n_tokens(self, length: int) -> int:
        """Number of tokens of a series of ``length`` time steps."""
        return -(-length // self.patch_stride)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Embed ``x: (B, L, C)``, which is zero where ``mask: (B, L)`` is False; return the mask of the tokens too."""
        missing = self.n_tokens(x.shape[1]) * self.patch_stride - x.shape[1]
        beside = self.patch_len - self.patch_stride
        ends = (beside // 2, beside - beside // 2 + missing)
        tokens = self.conv(F.pad(x.transpose(1, 2), ends)).transpose(1, 2)  # (B, N, D)
        if mask is not None:
            mask = F.pad(mask, (0, missing)).unflatten(1, (-1, self.patch_stride)).any(2)
        return tokens, mask
