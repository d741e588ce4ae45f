"""Inception Transformer: convolution and max-pooling for high frequencies, attention for low ones (Si et al., 2022).

The names of parameters are those of sail-sg/iFormer.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, fx, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from seqmix.errors import ConfigError, check_at_least
from seqmix.models.block import DropPath
from seqmix.vision._boxes import mix_boxes
from seqmix.vision._registry import register_model
from seqmix.vision.batch_norm import BatchNorm2d
from seqmix.vision.grid_mixer import Grid, GridMixer
from seqmix.vision.image_model import GlobalPool, ImageModel, ImageOptions, check_stages, linear_classifier, pool_map
from seqmix.vision.metaformer import drop_path_rates, init_weights
from seqmix.vision.mixers2d import Pointwise
from seqmix.vision.stage import Stage

fx.wrap("rearrange")


class Inception2d(GridMixer):
    """Inception token mixer: the first channels go to convolution and max-pooling, the last to attention.

    ``u = [gelu(DW W x_1); gelu(W maxpool(x_2) + b); up(attention(down(x_3)))]``, ``y = W (u + DW u) + b`` (eq. 2 to 7),
    where attention runs on means over cells of ``stride`` x ``stride`` tokens.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``. Cost: O(H W D^2 + (H W / stride^2)^2 n_heads head_dim).

    Args:
        d_model: width D.
        grid: unused, every size works.
        n_heads: attention heads; the last ``n_heads * head_dim`` channels are theirs.
        head_dim: width of a head, 32 in the paper.
        stride: side of a cell, in tokens: 2 in the first two stages of the paper, 1 in the others. Cells at the right
            and at the bottom may be smaller.

    Raises:
        ConfigError: if the heads leave no channels, or an odd number of them.

    Source: Si et al., 2022, arXiv:2205.12956, sec. 3.1. Differs from the original code in: grids that are not square or
    no multiple of ``stride`` work, and masks; with a mask, cells are counted from the first row and column kept.
    """

    def __init__(
        self, d_model: int, grid: Grid | None = None, *, n_heads: int = 1, head_dim: int = 32, stride: int = 1
    ):
        super().__init__()
        check_at_least(1, n_heads=n_heads, head_dim=head_dim, stride=stride)
        low = n_heads * head_dim
        high = d_model - low
        if high <= 0 or high % 2:
            raise ConfigError(
                f"n_heads * head_dim = {low} leaves {high} of {d_model} channels for convolution and pooling; "
                "leave a positive even number"
            )
        self.n_heads, self.stride = n_heads, stride
        self.widths = [high // 2, high // 2, low]
        self.high_mixer = nn.ModuleDict(
            {
                "conv1": nn.Conv2d(high // 2, high, 1, bias=False),
                "proj1": nn.Conv2d(high, high, 3, padding=1, groups=high, bias=False),
                "proj2": nn.Conv2d(high // 2, high, 1),
            }
        )
        self.low_mixer = nn.ModuleDict({"qkv": nn.Linear(low, 3 * low)})
        fused = 2 * high + low
        self.conv_fuse = nn.Conv2d(fused, fused, 3, padding=1, groups=fused, bias=False)
        self.proj = nn.Conv2d(fused, d_model, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return mix_boxes(self._mix, x, mask)

    def _mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        kept = None if mask is None else mask.unsqueeze(1)  # (B, 1, H, W)
        conv, pool, low = x.permute(0, 3, 1, 2).split(self.widths, 1)
        conv = F.gelu(self.high_mixer["proj1"](self.high_mixer["conv1"](conv)))
        pool = F.gelu(self.high_mixer["proj2"](_max_pool(pool, kept)))
        u = torch.cat([conv, pool, self._attend(low, kept)], 1)
        if kept is not None:
            # biases have filled the padding, which conv_fuse would carry into its neighbors
            u = u.masked_fill(~kept, 0)
        return self.proj(u + self.conv_fuse(u)).permute(0, 2, 3, 1)

    def _attend(self, x: Tensor, kept: Tensor | None) -> Tensor:
        H, W = x.shape[2], x.shape[3]
        cells, seen = x, None
        if self.stride > 1:
            cells = F.avg_pool2d(x, self.stride, ceil_mode=True, count_include_pad=False)
        if kept is not None:
            share = F.avg_pool2d(kept.to(x.dtype), self.stride, ceil_mode=True, count_include_pad=False)
            cells = cells / share.where(share > 0, 1)
            seen = (share > 0).flatten(2).unsqueeze(1)  # (B, 1, 1, M)
        h, w = cells.shape[2], cells.shape[3]
        qkv = self.low_mixer["qkv"](cells.permute(0, 2, 3, 1))
        q, k, v = rearrange(qkv, "b h w (three g p) -> three b g (h w) p", three=3, g=self.n_heads)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        y = rearrange(y, "b g (h w) p -> b (g p) h w", h=h, w=w)
        if self.stride > 1:
            y = y.repeat_interleave(self.stride, 2).repeat_interleave(self.stride, 3)[..., :H, :W]
        return y


class IFormer(ImageModel):
    """Inception Transformer: more attention heads and fewer convolved channels from stage to stage.

    Blocks ``x + s1 mixer(norm(x))`` and ``x + s2 mlp(norm(x))``; position embeddings after each change of resolution,
    stretched where the image has another size.

    Shapes: ``(B, in_chans, H, W) -> (B, num_classes)``. Cost: that of the mixers.

    Args:
        dims: channels of each stage.
        depths: blocks of each stage.
        heads: heads of each stage; ``dims / heads`` is the width of one.
        attention_heads: heads that are attention in each block, over all stages; the others' channels are convolved
            and pooled.
        strides: side of the cells attention runs on, in tokens, for each stage.
        img_size: height and width the position embeddings are made for, in pixels.
        mlp_ratio: inner width of the channel mixer over its width.
        layer_scale: initial value of the learned scales s1 and s2, in stages 3 and 4 only.
        drop_path_rate: probability to skip a branch for a sample in training, of the last block.
        drop_rate: dropout probability before the last linear layer.

    Raises:
        ConfigError: if ``attention_heads`` does not have one entry per block.

    Source: Si et al., 2022, arXiv:2205.12956; weights of sail-sg/iFormer load under their own keys. Differs from the
    original code in: any image of 32 pixels and more, not square ones of a multiple of 16 only.
    """

    sized = ("pos_embed",)

    def __init__(
        self,
        *,
        dims: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        attention_heads: Sequence[int],
        strides: Sequence[int] = (2, 2, 1, 1),
        img_size: int = 224,
        mlp_ratio: int = 4,
        layer_scale: float = 1e-6,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        global_pool: GlobalPool = "avg",
    ):
        check_stages(dims=dims, depths=depths, heads=heads, strides=strides)
        check_at_least(1, mlp_ratio=mlp_ratio)
        if len(attention_heads) != sum(depths):
            raise ConfigError(
                f"attention_heads has {len(attention_heads)} entries for {sum(depths)} blocks; give one per block"
            )
        super().__init__(
            stages=[(C, 4 * 2**i, f"blocks{i + 1}") for i, C in enumerate(dims)],
            before=[
                ["patch_embed", "pos_embed1"],
                *([f"patch_embed{n}", f"pos_embed{n}"] for n in range(2, len(dims) + 1)),
            ],
            head=("norm", "head"),
            classifier="head",
            head_hidden_size=dims[-1],
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
            img_size=img_size,
        )
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        attention = iter(attention_heads)
        for i, C in enumerate(dims):
            n, side = i + 1, img_size // (4 * 2**i)
            embed = _Stem(in_chans, C) if i == 0 else _Downsampling(dims[i - 1], C)
            blocks = [
                _Block(
                    C,
                    n_heads=next(attention),
                    head_dim=C // heads[i],
                    stride=strides[i],
                    mlp_ratio=mlp_ratio,
                    drop_path=next(rates),
                    layer_scale=layer_scale if i >= 2 else None,
                )
                for _ in range(depths[i])
            ]
            self.add_module("patch_embed" if i == 0 else f"patch_embed{n}", embed)
            self.register_parameter(
                f"pos_embed{n}", nn.Parameter(nn.init.trunc_normal_(torch.empty(1, side, side, C), std=0.02))
            )
            self.add_module(f"blocks{n}", Stage(*blocks, channels_last=True))
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.dropout = nn.Dropout(drop_rate)
        self.head = linear_classifier(dims[-1], num_classes)
        self.apply(init_weights)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the map of each stage."""
        for n in range(1, len(self.feature_info) + 1):
            x = self.get_submodule("patch_embed" if n == 1 else f"patch_embed{n}")(x)
            position = _resize(getattr(self, f"pos_embed{n}"), x.shape[2], x.shape[3])
            x = self.get_submodule(f"blocks{n}")(x + position.permute(0, 3, 1, 2))
            yield x

    def pre_logits(self, x: Tensor) -> Tensor:
        """Norm over channels, then pool."""
        y = self.norm(x.permute(0, 2, 3, 1))
        return self.dropout(pool_map(y.permute(0, 3, 1, 2), self.global_pool))


class _Stem(nn.Module):
    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.proj1 = nn.Conv2d(d_in, d_out // 2, 3, stride=2, padding=1)
        self.norm1 = BatchNorm2d(d_out // 2)
        self.proj2 = nn.Conv2d(d_out // 2, d_out, 3, stride=2, padding=1)
        self.norm2 = BatchNorm2d(d_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.proj2(F.gelu(self.norm1(self.proj1(x)))))


class _Downsampling(nn.Module):
    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.proj = nn.Conv2d(d_in, d_out, 3, stride=2, padding=1)
        self.norm = BatchNorm2d(d_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class _Block(nn.Module):
    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int,
        head_dim: int,
        stride: int,
        mlp_ratio: int,
        drop_path: float,
        layer_scale: float | None,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model, eps=1e-6)
        self.attn = Inception2d(d_model, n_heads=n_heads, head_dim=head_dim, stride=stride)
        self.norm2 = nn.LayerNorm(d_model, eps=1e-6)
        inner = mlp_ratio * d_model
        self.mlp = nn.ModuleDict({"fc1": Pointwise(d_model, inner), "fc2": Pointwise(inner, d_model)})
        self.layer_scale_1, self.layer_scale_2 = (
            None if layer_scale is None else nn.Parameter(torch.full((d_model,), layer_scale)) for _ in range(2)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(_scaled(self.attn(self.norm1(x)), self.layer_scale_1))
        y = self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return x + self.drop_path(_scaled(y, self.layer_scale_2))


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


def _max_pool(x: Tensor, kept: Tensor | None) -> Tensor:
    """Maximum over 3 x 3, padded with minus infinity."""
    if kept is None:
        return F.max_pool2d(x, 3, stride=1, padding=1)
    return F.max_pool2d(x.masked_fill(~kept, -torch.inf), 3, stride=1, padding=1).masked_fill(~kept, 0)


@fx.wrap
def _resize(position: Tensor, H: int, W: int) -> Tensor:
    if position.shape[1:3] == (H, W):
        return position
    position = F.interpolate(position.permute(0, 3, 1, 2), (H, W), mode="bilinear", align_corners=False)
    return position.permute(0, 2, 3, 1)


class IFormerOptions(ImageOptions, total=False):
    """Options of the iFormer models.

    Args:
        img_size: height and width the position embeddings are made for, in pixels.
    """

    img_size: int


_PAPER = "arXiv:2205.12956"
_CFG: dict[str, Any] = {"first_conv": "patch_embed.proj1"}
_384: dict[str, Any] = {"input_size": (3, 384, 384), "crop_pct": 1.0, "pool_size": (12, 12)}


@register_model(paper=_PAPER, parameters=19_866_344, default_cfg=_CFG, variants={"384": (19_866_344, _384)})
def iformer_small(**options: Unpack[IFormerOptions]) -> IFormer:
    """iFormer-S; its weights for 384 pixels have the position embeddings of 224."""
    return IFormer(
        dims=(96, 192, 320, 384),
        depths=(3, 3, 9, 3),
        heads=(3, 6, 10, 12),
        attention_heads=[1] * 3 + [3] * 3 + [7] * 4 + [9] * 5 + [11] * 3,
        **options,
    )


@register_model(paper=_PAPER, parameters=47_866_216, default_cfg=_CFG, variants={"384": (47_866_216, _384)})
def iformer_base(**options: Unpack[IFormerOptions]) -> IFormer:
    """iFormer-B; its weights for 384 pixels have the position embeddings of 224."""
    return IFormer(
        dims=(96, 192, 384, 512),
        depths=(4, 6, 14, 6),
        heads=(3, 6, 12, 16),
        attention_heads=[1] * 4 + [3] * 6 + [8] * 7 + [10] * 7 + [15] * 6,
        **options,
    )


@register_model(paper=_PAPER, parameters=86_637_096, default_cfg=_CFG, variants={"384": (86_637_096, _384)})
def iformer_large(**options: Unpack[IFormerOptions]) -> IFormer:
    """iFormer-L; its weights for 384 pixels have the position embeddings of 224."""
    return IFormer(
        dims=(96, 192, 448, 640),
        depths=(4, 6, 18, 8),
        heads=(3, 6, 14, 20),
        attention_heads=[1] * 4 + [3] * 6 + [10] * 9 + [12] * 9 + [19] * 8,
        **options,
    )
