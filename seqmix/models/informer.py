"""Informer: ProbSparse attention along time, and layers that halve the number of tokens."""

from functools import partial
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import check_at_least
from seqmix.mixers import ProbSparse, zero_masked
from seqmix.models.block import Block, ChannelMLP
from seqmix.models.embed import ValueEmbedding
from seqmix.models.norm import MaskedBatchNorm
from seqmix.models.series_encoder import SeriesEncoder, register_encoder


@register_encoder(paper="arXiv:2012.07436", d_model=8, n_layers=2, n_heads=2, factor=1)
class Informer(SeriesEncoder):
    """The encoder of Informer: ProbSparse attention along time, each layer but the last halving the number of tokens.

    Shapes: ``(B, L, C) -> (B, N, D)``, N = L / 2^(n_layers - 1) rounded up. Cost: O(L D (factor log L + D expand)).

    Args:
        d_model: width of a token D.
        n_layers: number of layers.
        n_heads: heads of the attention.
        expand: inner width of the feed-forward layers over D.
        factor: attending queries and sampled keys over ceil(ln L), see ``ProbSparse``.
        distil: halve the number of tokens between layers; False keeps N = L, as thuml/Time-Series-Library does in
            reconstruction and classification.
        activation: class of the nonlinearity of the feed-forward layers.
        dropout: dropout probability on embeddings, attention weights, and the output of each layer.

    Raises:
        ConfigError: if ``d_model`` is not a multiple of ``n_heads``, or a size is out of range.

    Source: Zhou et al., 2021, arXiv:2012.07436, sec. 3.2; parity with zhouhaoyi/Informer2020. Differs from the original
    code in: what ``ProbSparse`` lists; no calendar features; no bias of the embedding; masked steps take no part in the
    statistics of the batch. Its copy in thuml/Time-Series-Library pads each halving by two more steps.
    """

    axis = "time"

    def __init__(
        self,
        n_channels: int,
        length: int,
        *,
        d_model: int = 128,
        n_layers: int = 2,
        n_heads: int = 8,
        expand: float = 4,
        factor: int = 5,
        distil: bool = True,
        activation: type[nn.Module] = nn.GELU,
        dropout: float = 0.1,
    ):
        super().__init__(n_channels, length, d_model)
        check_at_least(1, n_layers=n_layers)
        lengths = [-(-length // 2**i) if distil else length for i in range(n_layers)]
        self.n_tokens = lengths[-1]
        self.embed = ValueEmbedding(d_model, n_channels, length, dropout=dropout)
        self.blocks = nn.ModuleList(
            Block(
                d_model,
                tokens,
                mixer=partial(ProbSparse, n_heads=n_heads, factor=factor, dropout=dropout),
                channel_mixer=partial(ChannelMLP, expand=expand, activation=activation, dropout=dropout),
                dropout=dropout,
                post_norm=True,
            )
            for tokens in lengths
        )
        self.halvings = nn.ModuleList(Halving(d_model) for _ in lengths[1:] if distil)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = zero_masked(self.embed(x), mask)
        for block, halving in zip_longest(self.blocks, self.halvings):
            x = block(x, mask)
            if halving is not None:
                x, mask = halving(x, mask)
        return zero_masked(self.norm(x), mask)

    def kept(self, mask: Tensor) -> Tensor:
        """Tokens that hold a kept time step ``(B, N)`` bool, of ``mask: (B, L)``."""
        for _ in self.halvings:
            mask = _any(mask)
        return mask


class Halving(nn.Module):
    """Half as many tokens: convolution over three, circular, batch normalization, ELU, and the maximum of every two.

    Shapes: ``(B, L, D), (B, L) -> (B, N, D), (B, N)``, N = L / 2 rounded up. Cost: O(L D^2).

    Args:
        d_model: width D.

    Source: Zhou et al., 2021, arXiv:2012.07436, eq. 5. Differs from the original code in: masks.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.conv = nn.Conv1d(d_model, d_model, 3, padding=1, padding_mode="circular")
        self.norm = MaskedBatchNorm(d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Shorten ``x: (B, L, D)``; a token is kept by the new mask if one of those it is made of was."""
        x = self.conv(zero_masked(x, mask).transpose(1, 2)).transpose(1, 2)
        x = F.elu(self.norm(x, mask))
        if mask is None:
            return _maximum(x), None
        kept = _any(mask)
        return zero_masked(_maximum(x.masked_fill(~mask.unsqueeze(-1), -torch.inf)), kept), kept


def _any(mask: Tensor) -> Tensor:
    """Whether one of three neighbors is kept, at every second of ``mask: (B, L)``."""
    return _maximum(mask.unsqueeze(-1).float()).squeeze(-1) > 0  # (B, N)


def _maximum(x: Tensor) -> Tensor:
    """Maximum of three neighbors at every second of ``x: (B, L, D)``."""
    return F.max_pool1d(x.transpose(1, 2), 3, stride=2, padding=1).transpose(1, 2)
