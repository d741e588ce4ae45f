"""AFFNet: a small convolutional network with adaptive frequency filters as global token mixers (Huang et al., 2023).

The names of parameters are those of microsoft/TokenMixers, Adaptive Frequency Filters.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from seqmix.errors import ConfigError, check_at_least
from seqmix.models.block import DropPath
from seqmix.ops.spectral import adaptive_filter
from seqmix.vision._boxes import mix_boxes
from seqmix.vision._registry import register_model
from seqmix.vision.batch_norm import BatchNorm2d
from seqmix.vision.grid_mixer import Grid, GridMixer
from seqmix.vision.image_model import GlobalPool, ImageModel, ImageOptions, check_stages, linear_classifier, pool_map
from seqmix.vision.metaformer import drop_path_rates
from seqmix.vision.stage import Stage


class AFF2d(GridMixer):
    """Adaptive frequency filter: a convolution over the whole image with a data-dependent kernel.

    ``y = x + irfft2(M(U) U)`` with ``U = rfft2(x)``, orthonormal, and ``M = shrink(W2 act(W1 U + b1) + b2)`` at each
    frequency. With a mask each image is transformed on the smallest rectangle around what it keeps.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``. Cost: O(H W D (log H W + D / n_blocks)) time, O(H W D) memory.

    Args:
        d_model: width D.
        grid: unused, every size works; sides with small prime factors are fastest.
        n_blocks: diagonal blocks of the layers, 8 in the paper.
        activation: class of the nonlinearity; SiLU in the released models, ReLU in some descriptions.
        threshold: soft-shrinkage of M, in units of its entries.

    Raises:
        ConfigError: if ``d_model`` is not a multiple of ``n_blocks``.

    Source: Huang et al., 2023, arXiv:2307.14008, sec. 3.2. Differs from the original code in: masks; float64 stays
    float64, other types are transformed in float32 as there.
    """

    def __init__(
        self,
        d_model: int,
        grid: Grid | None = None,
        *,
        n_blocks: int = 8,
        activation: Callable[[], nn.Module] = nn.SiLU,
        threshold: float = 0.01,
    ):
        super().__init__()
        check_at_least(1, n_blocks=n_blocks)
        if d_model % n_blocks:
            raise ConfigError(f"d_model = {d_model} is not a multiple of n_blocks = {n_blocks}; change one of them")
        self.act, self.threshold = activation(), threshold
        width = d_model // n_blocks
        self.w1, self.w2 = (nn.Parameter(0.02 * torch.randn(2, n_blocks, width, width)) for _ in range(2))
        self.b1, self.b2 = (nn.Parameter(0.02 * torch.randn(2, n_blocks, width)) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return mix_boxes(lambda x, _: self._filter(x), x, mask)

    def _filter(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            U = torch.fft.rfft2(x.to(wide), dim=(1, 2), norm="ortho")  # (B, H, W / 2 + 1, D)
            layers = (p.to(wide) for p in (self.w1, self.b1, self.w2, self.b2))
            U = adaptive_filter(U, *layers, activation=self.act, threshold=self.threshold)
            y = torch.fft.irfft2(U, s=x.shape[1:3], dim=(1, 2), norm="ortho")
        return x + y.to(x.dtype)


class AFFNet(ImageModel):
    """AFFNet: inverted residuals and adaptive frequency filters, which mix all tokens.

    Inverted residuals down to stride 32; from stride 8 on each level adds blocks ``x + AFF(norm(IR(norm(x))))`` and
    fuses their output with their input.

    Shapes: ``(B, in_chans, H, W) -> (B, num_classes)``. Cost of a block on an h x w grid: O(h w C (C + log h w)).

    Args:
        dims: channels of the levels of stride 2, 4, 8, 16 and 32.
        depths: inverted residuals of the first two levels, and filter blocks of the other three.
        expand: inner width of the inverted residuals over their input.
        fuse: for each of the last three levels, whether the output of its blocks is fused with their input.
        activation: class of the nonlinearity of convolutions and filters.
        output_stride: pixels per cell of the last map; below 32 the last levels keep their resolution, as the published
            segmentation models.
        drop_path_rate: probability to skip a filter block for a sample in training, of the last block; 0 as published.
        drop_rate: dropout probability before the last linear layer.

    Source: Huang et al., 2023, arXiv:2307.14008; weights of microsoft/TokenMixers load under their own keys. Differs
    from the original code in: drop path may grow over the blocks; plain batch norms, which Lightning makes synchronous.
    """

    def __init__(
        self,
        *,
        dims: Sequence[int],
        depths: Sequence[int] = (1, 3, 2, 4, 3),
        expand: int = 4,
        fuse: Sequence[bool] = (True, True, True),
        activation: Callable[[], nn.Module] = nn.SiLU,
        output_stride: Literal[8, 16, 32] = 32,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.1,
        global_pool: GlobalPool = "avg",
    ):
        check_stages(dims=dims, depths=depths)
        check_at_least(1, expand=expand)
        if len(dims) != 5 or len(fuse) != 3:
            raise ConfigError(f"{len(dims)} dims and {len(fuse)} entries of fuse; AFFNet has 5 levels, and fuses 3")
        if output_stride not in (8, 16, 32):
            raise ConfigError(f"output_stride = {output_stride} is not known; use one of 8, 16, 32")
        width = min(4 * dims[-1], 960)
        reductions = [min(s, output_stride) for s in (4, 8, 16, 32)]
        super().__init__(
            stages=[(C, s, f"layer_{i}") for i, (C, s) in enumerate(zip(dims[1:], reductions, strict=True), 2)],
            before=[["conv_1", "layer_1"], [], [], []],
            head=("conv_1x1_exp", "classifier"),
            classifier="classifier.fc",
            head_hidden_size=width,
            num_features=width,
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
            min_size=32,
        )
        self.n_filters = tuple(depths[2:])
        self.conv_1 = _ConvNorm(in_chans, 16, 3, stride=2, act=activation)

        def residual(d_in: int, d_out: int, stride: int = 1, dilation: int = 1) -> nn.Module:
            return _InvertedResidual(d_in, d_out, stride=stride, expand=expand, dilation=dilation, act=activation)

        before, dilation = 16, 1
        for i, (C, n) in enumerate(zip(dims[:2], depths[:2], strict=True)):
            layers = [residual(before, C, 1 + i), *(residual(C, C) for _ in range(n - 1))]
            self.add_module(f"layer_{i + 1}", Stage(*layers, channels_last=False))
            before = C
        rates = iter(drop_path_rates(drop_path_rate, sum(depths[2:])))
        for i, (C, n) in enumerate(zip(dims[2:], depths[2:], strict=True)):
            keeps = 8 * 2**i > output_stride
            # the convolution that no longer strides has the dilation of those before it
            first = residual(before, C, 1 if keeps else 2, dilation)
            dilation *= 2 if keeps else 1
            blocks = _Filters(C, [next(rates) for _ in range(n)], fuse=fuse[i], act=activation)
            self.add_module(f"layer_{i + 3}", Stage(first, blocks, channels_last=False))
            before = C
        self.conv_1x1_exp = _ConvNorm(before, width, 1, act=activation)
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.ModuleDict({"fc": linear_classifier(width, num_classes)})

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the maps of layers 2 to 5, then the last features, which are wider."""
        x = self.get_submodule("layer_1")(self.conv_1(x))
        for name in self.feature_info.module_name():
            x = self.get_submodule(name)(x)
            yield x
        yield self.conv_1x1_exp(x)

    def block_names(self, stage: int) -> list[str]:
        """Inverted residuals, then filter blocks, which stand deeper in the last three stages."""
        names = super().block_names(stage)
        if stage == 0:
            return names
        return [names[0], *(f"{names[1]}.global_rep.{j}" for j in range(self.n_filters[stage - 1]))]

    def pre_logits(self, x: Tensor) -> Tensor:
        """Pool."""
        return self.dropout(pool_map(x, self.global_pool))


class _ConvNorm(nn.Module):
    def __init__(
        self,
        d_in: int,
        d_out: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        act: Callable[[], nn.Module] | None = None,
    ):
        super().__init__()
        padding = dilation * (kernel_size // 2)
        conv = nn.Conv2d(d_in, d_out, kernel_size, stride, padding, dilation=dilation, groups=groups, bias=False)
        self.block = nn.ModuleDict({"conv": conv, "norm": BatchNorm2d(d_out)})
        self.act = nn.Identity() if act is None else act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.block["norm"](self.block["conv"](x)))


class _InvertedResidual(nn.Module):
    def __init__(self, d_in: int, d_out: int, *, stride: int, expand: int, dilation: int, act: Callable[[], nn.Module]):
        super().__init__()
        inner = _divisible(expand * d_in)
        widen = {} if expand == 1 else {"exp_1x1": _ConvNorm(d_in, inner, 1, act=act)}
        depthwise = _ConvNorm(inner, inner, 3, stride=stride, dilation=dilation, groups=inner, act=act)
        self.block = nn.ModuleDict({**widen, "conv_3x3": depthwise, "red_1x1": _ConvNorm(inner, d_out, 1)})
        self.skip = stride == 1 and d_in == d_out

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.block.values():
            y = layer(y)
        return x + y if self.skip else y


class _Filters(nn.Module):
    """Filter blocks, a norm, and the fusion with their input."""

    def __init__(self, d_model: int, rates: Sequence[float], *, fuse: bool, act: Callable[[], nn.Module]):
        super().__init__()
        blocks = [_FilterBlock(d_model, rate, act) for rate in rates]
        self.global_rep = nn.Sequential(*blocks, nn.GroupNorm(1, d_model))
        self.conv_proj = _ConvNorm(d_model, d_model, 1)
        self.fusion = _ConvNorm(2 * d_model, d_model, 1, act=act) if fuse else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_proj(self.global_rep(x))
        return y if self.fusion is None else self.fusion(torch.cat([x, y], 1))


class _FilterBlock(nn.Module):
    """``x + AFF(norm(IR(norm(x))))``; the inverted residual and the filter have skips of their own."""

    def __init__(self, d_model: int, drop_path: float, act: Callable[[], nn.Module]):
        super().__init__()
        self.norm1 = nn.GroupNorm(1, d_model)
        self.filter = AFF2d(d_model, activation=act)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.GroupNorm(1, d_model)
        self.mlp = _InvertedResidual(d_model, d_model, stride=1, expand=2, dilation=1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.mlp(self.norm1(x)))
        y = self.filter(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.drop_path(y)


def _divisible(width: int) -> int:
    """The multiple of 8 nearest to ``width``, not more than a tenth below it."""
    nearest = max(8, (width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


class AFFNetOptions(ImageOptions, total=False):
    """Options of the AFFNet models.

    Args:
        activation: class of the nonlinearity of convolutions and filters.
        output_stride: pixels per cell of the last map, 32, 16 or 8.
    """

    activation: Callable[[], nn.Module]
    output_stride: Literal[8, 16, 32]


_PAPER = "arXiv:2307.14008"
# images in 0 to 1, not normalized
_CFG: dict[str, Any] = {
    "input_size": (3, 256, 256),
    "pool_size": (8, 8),
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "interpolation": "bilinear",
    "crop_pct": 256 / 288,
    "first_conv": "conv_1.block.conv",
}


@register_model(paper=_PAPER, parameters=1_436_264, default_cfg=_CFG)
def affnet_et(**options: Unpack[AFFNetOptions]) -> AFFNet:
    """AFFNet-ET, extremely tiny."""
    return AFFNet(dims=(32, 48, 64, 104, 144), expand=2, **options)


@register_model(paper=_PAPER, parameters=2_654_232, default_cfg=_CFG)
def affnet_t(**options: Unpack[AFFNetOptions]) -> AFFNet:
    """AFFNet-T, tiny."""
    return AFFNet(dims=(32, 48, 96, 160, 192), **options)


@register_model(paper=_PAPER, parameters=5_568_696, default_cfg=_CFG)
def affnet(**options: Unpack[AFFNetOptions]) -> AFFNet:
    """AFFNet."""
    return AFFNet(dims=(32, 64, 128, 256, 320), **options)
