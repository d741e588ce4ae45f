"""FFNet for segmentation: a backbone with wider kernels and the head that goes on its maps (Yun et al., 2024).

The names of parameters are those of ysj9909/FFNet.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self, Unpack

from seqmix.errors import check_at_least
from seqmix.mixers.conv import require_odd
from seqmix.vision._ffnet_block import FFNetBlock
from seqmix.vision._fusible import ConvBN, fuse_all
from seqmix.vision._registry import register_model
from seqmix.vision.image_model import GlobalPool, ImageModel, ImageOptions, check_stages, linear_classifier, pool_map
from seqmix.vision.metaformer import drop_path_rates, init_weights
from seqmix.vision.stage import Stage


class FFNetSeg(ImageModel):
    """FFNet as the backbone of a segmentation system, with the classifier it is pre-trained with.

    As ``FFNet``, with depthwise kernels of 9, 5, 1 x 9 and 9 x 1 side by side in the last two stages, and strided
    convolutions between stages.

    Shapes: ``(B, in_chans, H, W) -> (B, num_classes)``. Cost of a block on an h x w grid: O(h w C (9 C + 2 K^2)).

    Args:
        dims: channels of each stage.
        depths: blocks of each stage.
        token_kernels: rows and columns that the token mixers see, for each stage.
        expand: inner width of the channel mixers over their width.
        layer_scale: initial value of a learned scale per channel on each mixer.
        num_classes: classes K; 0 leaves the hidden features as they are.
        drop_path_rate: probability to skip a mixer for a sample in training, of the last block.
        drop_rate: dropout probability before the last linear layer.

    Source: Yun et al., 2024, arXiv:2406.02021; weights of ysj9909/FFNet load under their own keys. Differs from the
    original code in: nothing.
    """

    def __init__(
        self,
        *,
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (3, 4, 18, 5),
        token_kernels: Sequence[int] = (3, 3, 9, 9),
        expand: int = 4,
        layer_scale: float = 1e-5,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        global_pool: GlobalPool = "avg",
    ):
        check_stages(dims=dims, depths=depths, token_kernels=token_kernels)
        check_at_least(1, expand=expand)
        for i, kernel in enumerate(token_kernels):
            require_odd(f"token_kernels[{i}]", kernel)
        super().__init__(
            stages=[(C, 4 * 2**i, f"stages.{i}") for i, C in enumerate(dims)],
            before=[["patch_embed"], *([] for _ in dims[1:])],
            head=("head1", "head2"),
            classifier="head2.3",
            head_hidden_size=1280,
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
        )
        self.patch_embed = nn.Sequential(
            ConvBN(in_chans, 64, 3, stride=2),
            nn.GELU(),
            ConvBN(64, 64, 3),
            nn.GELU(),
            ConvBN(64, dims[0], 3),
            ConvBN(dims[0], dims[0], 3, stride=2),
        )
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList()
        for i, (C, depth, K) in enumerate(zip(dims, depths, token_kernels, strict=True)):
            blocks = [
                FFNetBlock(
                    C,
                    token_kernel=K,
                    token_unit="four",
                    channel_kernel=3,
                    channel_unit="batch",
                    expand=expand,
                    drop_path=next(rates),
                    layer_scale=layer_scale,
                )
                for _ in range(depth)
            ]
            downsampling = [_Downsampling(dims[i - 1], C)] if i else []
            self.stages.append(Stage(*downsampling, *blocks, channels_last=False))
        self.head1 = nn.Sequential(ConvBN(dims[-1], 1024), nn.Hardswish())
        self.dropout = nn.Dropout(drop_rate)
        classifier = linear_classifier(1280, num_classes)
        self.head2 = nn.Sequential(nn.Linear(1024, 1280), nn.LayerNorm(1280, eps=1e-6), nn.Hardswish(), classifier)
        self.apply(init_weights)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the map of each stage."""
        x = self.patch_embed(x)
        for stage in self.stages:
            x = stage(x)
            yield x

    def pre_logits(self, x: Tensor) -> Tensor:
        """Widen, pool, and the hidden layer."""
        return self.dropout(self.head2[:-1](pool_map(self.head1(x), self.global_pool)))

    def reparameterize(self) -> Self:
        """Fold batch norms and parallel kernels into single convolutions, in place, and return the model.

        The outputs in evaluation stay the same to rounding; load weights before, for the keys change.
        """
        fuse_all(self)
        return self


class FFNetSegHead(nn.Module):
    """Segmentation head: maps of several strides on one grid, blocks of FFN-ified attention, a class for each cell.

    Shapes: maps ``(B, C_i, H / s_i, W / s_i)``, the finest first, sides rounded up, to
    ``(B, num_classes, H / s_1, W / s_1)``. Cost: O(H W (sum C_i)^2 / s_1^2) for the squeeze, the largest part.

    Args:
        in_dims: channels of the maps.
        num_classes: classes.
        d_model: channels of the blocks.
        n_layers: blocks, 3 on ADE20K and 5 on Cityscapes.
        kernel_size: rows and columns that the mixers see.
        expand: inner width of the channel mixers over ``d_model``, 4 on ADE20K and 1 on Cityscapes.
        align_expand: channels before the classifier over ``d_model``.
        drop_path_rate: probability to skip a mixer for a sample in training, of the last block.
        drop_rate: dropout probability before the classifier, of whole channels.

    Source: Yun et al., 2024, arXiv:2406.02021; weights of ysj9909/FFNet load under their own keys. Differs from the
    original code in: nothing.
    """

    def __init__(
        self,
        *,
        in_dims: Sequence[int] = (192, 384, 768),
        num_classes: int = 150,
        d_model: int = 256,
        n_layers: int = 3,
        kernel_size: int = 9,
        expand: int = 4,
        align_expand: int = 4,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.1,
    ):
        super().__init__()
        check_at_least(1, num_classes=num_classes, d_model=d_model, n_layers=n_layers, expand=expand)
        check_at_least(1, align_expand=align_expand)
        require_odd("kernel_size", kernel_size)
        width = sum(in_dims)
        self.squeeze = nn.Sequential(ConvBN(width, width), nn.GELU(), ConvBN(width, d_model))
        unit: Literal["four"] = "four"
        self.head_blocks = nn.Sequential(
            *(
                FFNetBlock(
                    d_model,
                    token_kernel=kernel_size,
                    token_unit=unit,
                    channel_kernel=kernel_size,
                    channel_unit=unit,
                    expand=expand,
                    drop_path=rate,
                    post_act=True,
                    slot=False,
                )
                for rate in drop_path_rates(drop_path_rate, n_layers)
            )
        )
        self.align = nn.Sequential(ConvBN(d_model, align_expand * d_model), nn.GELU())
        self.dropout = nn.Dropout2d(drop_rate)
        self.conv_seg = nn.Conv2d(align_expand * d_model, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Scores of the classes for each cell of the finest map."""
        finest, *others = maps
        # strides round sides up: twice a smaller map may be more than the finest one
        larger = [F.interpolate(x, finest.shape[2:], mode="bicubic", align_corners=False) for x in others]
        x = self.head_blocks(self.squeeze(torch.cat([finest, *larger], 1)))
        return self.conv_seg(self.dropout(self.align(x)))

    def reparameterize(self) -> Self:
        """Fold batch norms and parallel kernels into single convolutions, in place, and return the head."""
        fuse_all(self)
        return self


class _Downsampling(nn.Module):
    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.proj = nn.Sequential(ConvBN(d_in, 2 * d_out, 3, stride=2), nn.GELU(), ConvBN(2 * d_out, d_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


_CFG: dict[str, Any] = {"input_size": (3, 256, 256), "pool_size": (8, 8), "first_conv": "patch_embed.0.c"}


@register_model(paper="arXiv:2406.02021", parameters=67_210_088, default_cfg=_CFG)
def ffnet_seg(**options: Unpack[ImageOptions]) -> FFNetSeg:
    """FFNet-seg, for the stages 2 to 4 of ``create_model("ffnet_seg", features_only=True, out_indices=3)``."""
    return FFNetSeg(**options)
