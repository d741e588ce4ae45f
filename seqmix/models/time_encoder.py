"""Encoders whose tokens are time steps: TimeEncoder with any mixer, and the Transformer."""

from functools import partial

from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers import Attention, MixerFactory
from seqmix.models.backbone import Backbone
from seqmix.models.block import ChannelMLP, Norm
from seqmix.models.embed import ValueEmbedding
from seqmix.models.positions import Positions
from seqmix.models.series_encoder import SeriesEncoder, register_encoder


@register_encoder(paper="arXiv:1706.03762", d_model=8, n_layers=1)
class TimeEncoder(SeriesEncoder):
    """Encoder whose tokens are time steps, with all channels of a step in one token and any mixer along time.

    Shapes: ``(B, L, C) -> (B, L, D)``. Cost: that of the backbone on B sequences of L tokens.

    Args:
        mixer: factory of the sequence mixer of every block.
        layers: sequence mixers of successive blocks, cycled; replaces ``mixer``.
        channel_mixer: factory of the channel mixer of every block. None: blocks with one residual.
        d_model: width of a token D.
        n_layers: number of blocks.
        positions: vectors added to the tokens: ``none``, ``learned``, or ``sinusoidal``.
        norm: ``layer``, ``rms``, or ``none`` for mixers with a norm of their own, in the backbone.
        post_norm: normalize after each residual sum instead of before each mixer.
        dropout: dropout probability on the embeddings and on the output of each mixer.
        drop_path: probability of stochastic depth in the last block, growing linearly from 0 in the first.

    Raises:
        ConfigError: if an option is not known or a size is out of range.

    Source: the frame of the encoder of Informer, Zhou et al., 2021, arXiv:2012.07436, app. B. Differs from the original
    code in: any mixer; pre-norm by default; no calendar features.
    """

    axis = "time"

    def __init__(
        self,
        n_channels: int,
        length: int,
        *,
        mixer: MixerFactory = Attention,
        layers: list[MixerFactory] | None = None,
        channel_mixer: MixerFactory | None = ChannelMLP,
        d_model: int = 64,
        n_layers: int = 2,
        positions: Positions = "sinusoidal",
        norm: Norm = "layer",
        post_norm: bool = False,
        dropout: float = 0.1,
        drop_path: float = 0.0,
    ):
        super().__init__(n_channels, length, d_model)
        self.n_tokens = length
        self.embed = ValueEmbedding(d_model, n_channels, length, positions=positions, dropout=dropout)
        self.backbone = Backbone(
            d_model,
            n_layers,
            max_len=length,
            mixer=mixer,
            layers=layers,
            channel_mixer=channel_mixer,
            norm=norm,
            dropout=dropout,
            drop_path=drop_path,
            post_norm=post_norm,
        )

    @property
    def label(self) -> str:
        """Its mixers, beside the name."""
        return f"TimeEncoder ({'+'.join(self.backbone.mixer_names)})"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.backbone(self.embed(x), mask)


@register_encoder(paper="arXiv:1706.03762", d_model=8, n_layers=1, n_heads=2)
class Transformer(SeriesEncoder):
    """The encoder of the Transformer on time steps: softmax attention along time, post-norm.

    Shapes: ``(B, L, C) -> (B, L, D)``. Cost: O(L^2 D + L D^2 expand) per layer.

    Args:
        d_model: width of a token D.
        n_layers: number of layers.
        n_heads: heads of the attention.
        expand: inner width of the feed-forward layers over D.
        activation: class of their nonlinearity.
        dropout: dropout probability on embeddings, attention weights, and the output of each layer.

    Raises:
        ConfigError: if ``d_model`` is not a multiple of ``n_heads``, or a size is out of range.

    Source: Vaswani et al., 2017, arXiv:1706.03762, with the value embedding of Informer, arXiv:2012.07436, as in
    thuml/Time-Series-Library. Differs from the original code in: no calendar features; the head is that of the task,
    in forecasting a linear map along time and no decoder (``DecoderForecaster`` has one).
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
        activation: type[nn.Module] = nn.GELU,
        dropout: float = 0.1,
    ):
        super().__init__(n_channels, length, d_model)
        check_at_least(1, n_heads=n_heads)
        self.n_tokens = length
        self.frame = TimeEncoder(
            n_channels,
            length,
            mixer=partial(Attention, n_heads=n_heads, qkv_bias=True, bias=True, dropout=dropout),
            channel_mixer=partial(ChannelMLP, expand=expand, activation=activation, dropout=dropout),
            d_model=d_model,
            n_layers=n_layers,
            post_norm=True,
            dropout=dropout,
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.frame(x, mask)
