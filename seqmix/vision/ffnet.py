"""FFNet: a convolutional network of FFN-ified attention that is fused after training (Yun et al., 2024).

The names of parameters are those of ysj9909/FFNet.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self, Unpack

from seqmix.mixers.conv import require_odd
from seqmix.vision._ffnet_block import FFNetBlock, LayerNorm2d
from seqmix.vision._fusible import ConvBN, DepthwiseSum, NormedSkip, fuse_all
from seqmix.vision._registry import register_model
from seqmix.vision.batch_norm import BatchNorm2d
from seqmix.vision.grid_mixer import Grid, GridMixer, zero_masked_grid
from seqmix.vision.image_model import GlobalPool, ImageModel, ImageOptions, check_stages, linear_classifier, pool_map
from seqmix.vision.metaformer import drop_path_rates, init_weights
from seqmix.vision.stage import Stage


class FFNet(ImageModel):
    """FFNet: a convolutional network of FFN-ified attention.

    Four stages of blocks ``x + V * gelu(K * W_q x)`` and a channel MLP with a depthwise convolution (sec. 3). Batch
    norms and small kernels beside large ones serve training; ``reparameterize`` folds them into single convolutions.

    Shapes: ``(B, in_chans, H, W) -> (B, num_classes)``. Cost of a block on an h x w grid: O(h w C (7 C + 2 K^2)).

    Args:
        dims: channels of each stage.
        depths: blocks of each stage.
        token_kernels: rows and columns that the token mixers see, for each stage; 7 has 3 beside it in training.
        channel_kernel: rows and columns that the channel mixers see, 3 or 7; 7 has 3 beside it in training.
        layer_scale: initial value of a learned scale per channel on each mixer. None: no scale.
        feature_norms: each map in ``features`` gets a norm over channels; ImageNet weights have none of these.
        drop_path_rate: probability to skip a mixer for a sample in training, of the last block.
        drop_rate: dropout probability before the last linear layer.

    Source: Yun et al., 2024, arXiv:2406.02021; weights of ysj9909/FFNet load under their own keys. Differs from the
    original code in: nothing.
    """

    unpublished = ("norm0.", "norm1.", "norm2.", "norm3.")

    def __init__(
        self,
        *,
        dims: Sequence[int],
        depths: Sequence[int],
        token_kernels: Sequence[int] = (3, 3, 7, 7),
        channel_kernel: int = 3,
        layer_scale: float | None = None,
        feature_norms: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        global_pool: GlobalPool = "avg",
    ):
        check_stages(dims=dims, depths=depths, token_kernels=token_kernels)
        for i, kernel in enumerate(token_kernels):
            require_odd(f"token_kernels[{i}]", kernel)
        require_odd("channel_kernel", channel_kernel)
        super().__init__(
            stages=[(C, 4 * 2**i, f"stages.{i}") for i, C in enumerate(dims)],
            before=[["patch_embed"], *([] for _ in dims[1:])],
            head=("norm", "head"),
            classifier="head",
            head_hidden_size=dims[-1],
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
        )
        self.patch_embed = nn.Sequential(ConvBN(in_chans, 64, 3, stride=2), nn.GELU(), ConvBN(64, dims[0], 3, stride=2))
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList()
        for i, (C, depth, K) in enumerate(zip(dims, depths, token_kernels, strict=True)):
            blocks = [
                FFNetBlock(
                    C,
                    token_kernel=K,
                    token_unit="two" if K == 7 else "plain",
                    channel_kernel=channel_kernel,
                    channel_unit="two" if channel_kernel == 7 else "batch",
                    drop_path=next(rates),
                    layer_scale=layer_scale,
                )
                for _ in range(depth)
            ]
            downsampling = [_Downsampling(dims[i - 1], C)] if i else []
            self.stages.append(Stage(*downsampling, *blocks, channels_last=False))
        self.map_norms = {i: f"norm{i}" for i in range(len(dims))} if feature_norms else {}
        for i, name in self.map_norms.items():
            self.add_module(name, LayerNorm2d(dims[i]))
        self.norm = BatchNorm2d(dims[-1])
        self.dropout = nn.Dropout(drop_rate)
        self.head = linear_classifier(dims[-1], num_classes)
        self.apply(init_weights)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the map of each stage, and the last one without its norm where the maps have norms."""
        x = self.patch_embed(x)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            yield self.get_submodule(self.map_norms[i])(x) if self.map_norms else x
        if self.map_norms:
            yield x

    def pre_logits(self, x: Tensor) -> Tensor:
        """Batch norm, then pool."""
        return self.dropout(pool_map(self.norm(x), self.global_pool))

    def reparameterize(self) -> Self:
        """Fold batch norms and parallel kernels into single convolutions, in place, and return the model.

        The outputs in evaluation stay the same to rounding; load weights before, for the keys change.
        """
        fuse_all(self)
        return self


class FFNifiedAttention2d(GridMixer):
    """FFN-ified attention: keys and values are the weights of depthwise convolutions.

    ``y = V * gelu(K * (W_q x))``, where the star is a depthwise convolution.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``. Cost: O(H W D (D + kernel_size^2)).

    Args:
        d_model: width D.
        grid: unused, every size works.
        kernel_size: rows and columns seen by keys and by values, odd, 3 and 7 in the paper.
        bias: biases on the projection and both convolutions.

    Raises:
        ConfigError: if ``kernel_size`` is not odd and positive.

    Source: Yun et al., 2024, arXiv:2406.02021. Differs from the original code in: masks; no batch normalization and no
    second kernel for training, which ``FFNet`` adds and fuses away.
    """

    def __init__(self, d_model: int, grid: Grid | None = None, *, kernel_size: int = 7, bias: bool = True):
        super().__init__()
        padding = require_odd("kernel_size", kernel_size) // 2
        self.fc = nn.Conv2d(d_model, d_model, 1, bias=bias)
        self.conv1 = nn.Conv2d(d_model, d_model, kernel_size, padding=padding, groups=d_model, bias=bias)
        self.conv2 = nn.Conv2d(d_model, d_model, kernel_size, padding=padding, groups=d_model, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        u = zero_masked_grid(x, mask)
        for layer, act in ((self.fc, nn.Identity()), (self.conv1, F.gelu), (self.conv2, nn.Identity())):
            # biases fill the padding, which the next convolution would carry into its neighbors
            u = zero_masked_grid(act(layer(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)), mask)
        return u


class _Downsampling(nn.Module):
    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        unit = DepthwiseSum(d_in, d_out, {"conv": (7, 7), "conv1": (3, 3)}, stride=2)
        self.proj = nn.Sequential(unit, NormedSkip(d_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class FFNetOptions(ImageOptions, total=False):
    """Options of the FFNet models.

    Args:
        feature_norms: each map in ``features`` gets a norm over channels.
    """

    feature_norms: bool


_PAPER = "arXiv:2406.02021"
_CFG: dict[str, Any] = {"input_size": (3, 256, 256), "pool_size": (8, 8), "first_conv": "patch_embed.0.c"}
_384: dict[str, Any] = {"input_size": (3, 384, 384), "pool_size": (12, 12)}


@register_model(paper=_PAPER, parameters=13_775_656, default_cfg=_CFG)
def ffnet_1(**options: Unpack[FFNetOptions]) -> FFNet:
    """FFNet-1."""
    return FFNet(dims=(80, 160, 320, 640), depths=(2, 2, 8, 2), **options)


@register_model(paper=_PAPER, parameters=27_208_408, default_cfg=_CFG)
def ffnet_2(**options: Unpack[FFNetOptions]) -> FFNet:
    """FFNet-2."""
    return FFNet(dims=(88, 176, 352, 704), depths=(3, 3, 15, 3), channel_kernel=7, **options)


@register_model(
    paper=_PAPER,
    parameters=48_817_896,
    default_cfg={**_CFG, "crop_pct": 0.95},
    variants={"384": (48_817_896, _384)},
)
def ffnet_3(**options: Unpack[FFNetOptions]) -> FFNet:
    """FFNet-3."""
    return FFNet(dims=(96, 192, 384, 768), depths=(4, 4, 22, 5), channel_kernel=7, layer_scale=1e-6, **options)


@register_model(
    paper=_PAPER,
    parameters=79_868_968,
    default_cfg={**_CFG, "crop_pct": 0.95},
    variants={"384": (79_868_968, _384)},
)
def ffnet_4(**options: Unpack[FFNetOptions]) -> FFNet:
    """FFNet-4."""
    return FFNet(dims=(128, 256, 512, 1024), depths=(4, 4, 27, 3), channel_kernel=7, layer_scale=1e-6, **options)
