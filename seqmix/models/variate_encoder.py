"""Encoders whose tokens are variates: VariateEncoder with any mixer, iTransformer and S-Mamba."""

from functools import partial

from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers import Attention, Bidirectional, Mamba, MixerFactory
from seqmix.models.backbone import Backbone
from seqmix.models.block import ChannelMLP, Norm
from seqmix.models.dropout import Dropout
from seqmix.models.series_encoder import SeriesEncoder, register_encoder


@register_encoder(paper="arXiv:2310.06625", d_model=8, n_layers=1)
class VariateEncoder(SeriesEncoder):
    """Encoder whose tokens are variates, each a linear map of its window, with any mixer across them.

    Attention sees a set of variates. Scans and stored matrices depend on their order: keep the columns in one order.

    Shapes: ``(B, L, C) -> (B, C, D)``. Cost: O(C L D), and that of the backbone on B sequences of C tokens.

    Args:
        mixer: factory of the sequence mixer of every block.
        layers: sequence mixers of successive blocks, cycled; replaces ``mixer``.
        channel_mixer: factory of the mixer along the embedded time of every block. None: blocks with one residual.
        d_model: width of a token D.
        n_layers: number of blocks.
        norm: ``layer``, ``rms``, or ``none`` for mixers with a norm of their own, in the backbone.
        post_norm: normalize after each residual sum instead of before each mixer.
        dropout: dropout probability on the embeddings and on the output of each mixer.
        drop_path: probability of stochastic depth in the last block, growing linearly from 0 in the first.

    Raises:
        ConfigError: if ``norm`` is not known or a size is out of range.

    Source: the frame of iTransformer, Liu et al., 2024, arXiv:2310.06625. Differs from the original code in: any mixer;
    pre-norm by default; no calendar features as tokens.
    """

    axis = "variates"

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
        norm: Norm = "layer",
        post_norm: bool = False,
        dropout: float = 0.1,
        drop_path: float = 0.0,
    ):
        super().__init__(n_channels, length, d_model)
        self.n_tokens = n_channels
        self.embed = nn.Linear(length, d_model)
        self.drop = Dropout(dropout)
        self.backbone = Backbone(
            d_model,
            n_layers,
            max_len=n_channels,
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
        return f"VariateEncoder ({'+'.join(self.backbone.mixer_names)})"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode ``x: (B, L, C)``; all variates are kept, whatever ``mask`` says of the steps."""
        return self.backbone(self.drop(self.embed(x.transpose(1, 2))))


@register_encoder(paper="arXiv:2310.06625", d_model=8, n_layers=1, n_heads=2)
class iTransformer(SeriesEncoder):
    """iTransformer: attention across variates, and a feed-forward layer along the embedded time of each.

    Shapes: ``(B, L, C) -> (B, C, D)``. Cost: O(C L D + C^2 D + C D^2 expand) per layer.

    Args:
        d_model: width of a token D.
        n_layers: number of layers.
        n_heads: heads of the attention.
        expand: inner width of the feed-forward layers over D.
        activation: class of their nonlinearity.
        dropout: dropout probability on embeddings, attention weights, and the output of each layer.

    Raises:
        ConfigError: if ``d_model`` is not a multiple of ``n_heads``, or a size is out of range.

    Source: Liu et al., 2024, arXiv:2310.06625, as in thuml/Time-Series-Library. Differs from the original code in: no
    calendar features as tokens.
    """

    axis = "variates"

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
        self.n_tokens = n_channels
        self.frame = VariateEncoder(
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
        """Encode ``x: (B, L, C)``."""
        return self.frame(x, mask)


@register_encoder(paper="arXiv:2403.11144", d_model=8, n_layers=1, d_state=4)
class SMamba(SeriesEncoder):
    """S-Mamba: two Mamba blocks across variates, one from each end, and a feed-forward layer along the embedded time.

    Shapes: ``(B, L, C) -> (B, C, D)``. Cost: O(C L D + C D (D expand + d_state)) per layer.

    Args:
        d_model: width of a token D.
        n_layers: number of layers.
        d_state: state size of each scan.
        d_conv: variates seen by the short convolution of each scan.
        mamba_expand: inner width of each Mamba block over D.
        expand: inner width of the feed-forward layers over D.
        activation: class of their nonlinearity.
        dropout: dropout probability on embeddings and on the output of each layer.

    Raises:
        ConfigError: if a size is out of range.

    Source: Wang et al., 2024, arXiv:2403.11144, wzhwzhwzh0921/S-D-Mamba. Differs from the original code in: dropout on
    the output of the scans too; no calendar features as tokens; no modules that are never used.
    """

    axis = "variates"

    def __init__(
        self,
        n_channels: int,
        length: int,
        *,
        d_model: int = 128,
        n_layers: int = 2,
        d_state: int = 16,
        d_conv: int = 2,
        mamba_expand: int = 1,
        expand: float = 4,
        activation: type[nn.Module] = nn.GELU,
        dropout: float = 0.1,
    ):
        super().__init__(n_channels, length, d_model)
        self.n_tokens = n_channels
        scan = partial(Mamba, d_state=d_state, d_conv=d_conv, expand=mamba_expand)
        self.frame = VariateEncoder(
            n_channels,
            length,
            mixer=partial(Bidirectional, mixer=scan),
            channel_mixer=partial(ChannelMLP, expand=expand, activation=activation, dropout=dropout),
            d_model=d_model,
            n_layers=n_layers,
            post_norm=True,
            dropout=dropout,
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode ``x: (B, L, C)``."""
        return self.frame(x, mask)
