"""Encoders whose tokens are patches of one variate: PatchEncoder with any mixer, and PatchTST."""

from functools import partial

from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers import Attention, MixerFactory
from seqmix.models.backbone import Backbone
from seqmix.models.block import ChannelMLP, Norm
from seqmix.models.dropout import Dropout
from seqmix.models.embed import PatchEmbedding, patch_sizes
from seqmix.models.norm import MaskedBatchNorm
from seqmix.models.positions import Place, Positions
from seqmix.models.series_encoder import SeriesEncoder, register_encoder


@register_encoder(paper="arXiv:2211.14730", d_model=8, n_layers=1, patch_len=4)
class PatchEncoder(SeriesEncoder):
    """Encoder whose tokens are patches of one variate, with any mixer along them; variates share all weights.

    Shapes: ``(B, L, C) -> (B, C P, D)`` for P patches, those of the first variate first. Cost: that of the backbone on
    B C sequences of P tokens.

    Args:
        mixer: factory of the sequence mixer of every block.
        layers: sequence mixers of successive blocks, cycled; replaces ``mixer``.
        channel_mixer: factory of the channel mixer of every block. None: blocks with one residual.
        d_model: width of a token D.
        n_layers: number of blocks.
        patch_len: patch length, in time steps. Default: 16, or the window where that is shorter.
        patch_stride: time steps between the starts of patches. Default: half of the patch length.
        positions: vectors added to the tokens: ``none``, ``learned``, or ``sinusoidal``.
        norm: ``layer``, ``rms``, or ``none`` for mixers with a norm of their own, in the backbone.
        post_norm: normalize after each residual sum instead of before each mixer.
        final_norm: normalize the tokens.
        dropout: dropout probability on the embeddings and on the output of each mixer.
        drop_path: probability of stochastic depth in the last block, growing linearly from 0 in the first.

    Raises:
        ConfigError: if a patch is longer than the window, an option is not known, or a size is out of range.

    Source: the frame of PatchTST, Nie et al., 2023, arXiv:2211.14730. Differs from the original code in: any mixer;
    pre-norm with LayerNorm by default.
    """

    axis = "patches"
    mixes_channels = False

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
        patch_len: int | None = None,
        patch_stride: int | None = None,
        positions: Positions = "sinusoidal",
        norm: Norm = "layer",
        post_norm: bool = False,
        final_norm: bool = True,
        dropout: float = 0.1,
        drop_path: float = 0.0,
    ):
        super().__init__(n_channels, length, d_model)
        patch_len, patch_stride = patch_sizes(length, patch_len, patch_stride)
        self.embed = PatchEmbedding(d_model, patch_len=patch_len, patch_stride=patch_stride)
        n_patches = self.embed.n_patches(length)
        self.n_tokens = n_channels * n_patches
        self.place = Place(positions, n_patches, d_model)
        self.drop = Dropout(dropout)
        self.backbone = Backbone(
            d_model,
            n_layers,
            max_len=n_patches,
            mixer=mixer,
            layers=layers,
            channel_mixer=channel_mixer,
            norm=norm,
            dropout=dropout,
            drop_path=drop_path,
            post_norm=post_norm,
            final_norm=final_norm,
        )

    @property
    def label(self) -> str:
        """Its mixers, beside the name."""
        return f"PatchEncoder ({'+'.join(self.backbone.mixer_names)})"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = self.drop(self.place(self.embed(x.transpose(1, 2)).flatten(0, 1)))  # (B C, P, D)
        y = self.backbone(tokens, None if mask is None else self.kept(mask).view(tokens.shape[:2]))
        return y.unflatten(0, (len(x), -1)).flatten(1, 2)

    def kept(self, mask: Tensor) -> Tensor:
        """Patches that hold a kept step ``(B, C P)`` bool, of ``mask: (B, L)``."""
        return self.embed.kept(mask).repeat(1, self.n_channels)


@register_encoder(paper="arXiv:2211.14730", d_model=8, n_layers=1, n_heads=2, patch_len=4)
class PatchTST(SeriesEncoder):
    """PatchTST: attention along the patches of a variate, post-norm, and batch normalization of the tokens.

    Shapes: ``(B, L, C) -> (B, C P, D)`` for P patches. Cost: O(C (P^2 D + P D^2 expand)) per layer.

    Args:
        d_model: width of a token D.
        n_layers: number of layers.
        n_heads: heads of the attention.
        expand: inner width of the feed-forward layers over D.
        patch_len: patch length, in time steps. Default: 16, or the window where that is shorter.
        patch_stride: time steps between the starts of patches. Default: half of the patch length.
        activation: class of the nonlinearity of the feed-forward layers.
        dropout: dropout probability on embeddings, attention weights, and the output of each layer.

    Raises:
        ConfigError: if ``d_model`` is not a multiple of ``n_heads``, a patch is longer than the window, or a size is
            out of range.

    Source: Nie et al., 2023, arXiv:2211.14730, as in thuml/Time-Series-Library. Differs from the original code in: the
    patch embedding has a bias, as in the paper; masked patches take no part in the statistics of the batch.
    """

    axis = "patches"
    mixes_channels = False

    def __init__(
        self,
        n_channels: int,
        length: int,
        *,
        d_model: int = 128,
        n_layers: int = 2,
        n_heads: int = 8,
        expand: float = 4,
        patch_len: int | None = None,
        patch_stride: int | None = None,
        activation: type[nn.Module] = nn.GELU,
        dropout: float = 0.1,
    ):
        super().__init__(n_channels, length, d_model)
        check_at_least(1, n_heads=n_heads)
        self.frame = PatchEncoder(
            n_channels,
            length,
            mixer=partial(Attention, n_heads=n_heads, qkv_bias=True, bias=True, dropout=dropout),
            channel_mixer=partial(ChannelMLP, expand=expand, activation=activation, dropout=dropout),
            d_model=d_model,
            n_layers=n_layers,
            patch_len=patch_len,
            patch_stride=patch_stride,
            post_norm=True,
            final_norm=False,
            dropout=dropout,
        )
        self.n_tokens = self.frame.n_tokens
        self.norm = MaskedBatchNorm(d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.norm(self.frame(x, mask), None if mask is None else self.kept(mask))

    def kept(self, mask: Tensor) -> Tensor:
        """Patches that hold a kept step ``(B, C P)`` bool, of ``mask: (B, L)``."""
        return self.frame.kept(mask)
