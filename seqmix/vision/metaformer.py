"""The four-stage backbone of the MetaFormer baselines (arXiv:2210.13452): any grid mixer in every stage."""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice, pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import ConfigError, check_at_least, check_choice
from seqmix.models import DropPath, LayerScale
from seqmix.vision.grid_mixer import Grid, GridMixer, GridMixerFactory
from seqmix.vision.image_model import GlobalPool, ImageModel, check_stages, linear_classifier, pool_map
from seqmix.vision.mixers2d import Pointwise, StarReLU
from seqmix.vision.stage import Stage


class MetaFormer(ImageModel):
    """MetaFormer: stem, four stages of blocks with strided convolutions between them, mean, norm, head.

    A block is ``r1 x + mixer(norm(x))``, then ``r2 x + W2 StarReLU(W1 norm(x))``; r is learned in the last two stages.

    Shapes: ``(B, in_chans, H, W) -> (B, num_classes)``. Cost: that of the mixers, O(H W D^2) in the rest.

    Args:
        depths: blocks in each stage.
        dims: width D of each stage.
        mixers: factory of the mixer of each stage, cycled.
        norm: ``layer`` over the features of a token, ``joint`` over all of an image; both without bias.
        mlp_head: two layers with a squared ReLU in place of a linear classifier.
        res_scale: initial value of a learned scale per feature on the skips of the last two stages. None: no scale.
        stem: kernel, stride and padding of the first convolution, in pixels.
        img_size: height and width in pixels, or the side of a square; for mixers that store something per token.
        drop_path_rate: probability to skip a branch for a sample in training, of the last block; it rises linearly.
        drop_rate: dropout probability before the last linear layer.

    Raises:
        ConfigError: if ``depths`` and ``dims`` differ in length, or ``norm`` or ``global_pool`` is not known.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 2. Differs from the original code in: nothing.
    """

    sized = ("token_mixer",)
    timm_keys = (
        (r"^stem\.conv\.", r"downsample_layers.0.conv."),
        (r"^stem\.norm\.", r"downsample_layers.0.post_norm."),
        (r"^stages\.(\d+)\.downsample\.norm\.", r"downsample_layers.\1.pre_norm."),
        (r"^stages\.(\d+)\.downsample\.conv\.", r"downsample_layers.\1.conv."),
        (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
        (r"^head\.norm\.", r"norm."),
        (r"^head\.fc\.", r"head."),
    )

    def __init__(
        self,
        *,
        depths: Sequence[int],
        dims: Sequence[int],
        mixers: Sequence[GridMixerFactory],
        norm: Literal["layer", "joint"] = "layer",
        mlp_head: bool = False,
        res_scale: float | None = 1.0,
        stem: tuple[int, int, int] = (7, 4, 2),
        img_size: int | tuple[int, int] | None = None,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        global_pool: GlobalPool = "avg",
    ):
        check_stages(depths=depths, dims=dims)
        if not mixers:
            raise ConfigError("mixers is an empty list; give at least one grid mixer")
        check_choice("norm", norm, tuple(NORMS))
        width = dims[-1]
        super().__init__(
            stages=[(D, stem[1] * 2**i, f"stages.{i}") for i, D in enumerate(dims)],
            before=[[f"downsample_layers.{i}"] for i in range(len(dims))],
            head=("norm", "head"),
            classifier="head.fc2" if mlp_head else "head",
            head_hidden_size=4 * width if mlp_head else width,
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
            img_size=img_size,
        )
        self.downsample_layers = nn.ModuleList([Downsampling(in_chans, dims[0], *stem, is_stem=True)])
        self.downsample_layers.extend(Downsampling(a, b, 3, 2, 1) for a, b in pairwise(dims))
        grids = stage_grids(img_size, [stem, *[(3, 2, 1)] * (len(dims) - 1)])
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList(
            Stage(
                *(
                    MetaFormerBlock(
                        dims[i],
                        grids[i],
                        mixer=mixer,
                        norm=norm,
                        res_scale=res_scale if i >= len(dims) - 2 else None,
                        drop_path=next(rates),
                    )
                    for _ in range(depths[i])
                ),
                channels_last=True,
            )
            for i, mixer in enumerate(islice(cycle(mixers), len(dims)))
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.drop = nn.Identity() if mlp_head else nn.Dropout(drop_rate)
        self.head = MLPHead(width, num_classes, drop_rate) if mlp_head else linear_classifier(width, num_classes)
        self.apply(init_weights)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the output of each stage, ``(B, D, H / s, W / s)``."""
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
            yield x

    def pre_logits(self, x: Tensor) -> Tensor:
        """Pool, normalize, and the hidden layer of the head where it has one."""
        y = self.drop(self.norm(pool_map(x, self.global_pool)))
        return self.head.hidden(y) if isinstance(self.head, MLPHead) else y


class MetaFormerBlock(nn.Module):
    """Block with learned skips: a grid mixer and two dense layers with StarReLU, no biases.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``. Cost: that of the mixer, and O(H W D^2).

    Args:
        d_model: width D.
        grid: height and width, in tokens.
        mixer: factory of the mixer.
        norm: ``layer`` or ``joint``.
        res_scale: initial value of a learned scale per feature on the skips. None: no scale.
        drop_path: probability to skip a branch for a sample in training.

    Source: Yu et al., 2022, arXiv:2210.13452, eq. 8 to 10. Differs from the original code in: nothing.
    """

    def __init__(
        self,
        d_model: int,
        grid: Grid | None = None,
        *,
        mixer: GridMixerFactory,
        norm: Literal["layer", "joint"] = "layer",
        res_scale: float | None = None,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.norm1, self.norm2 = NORMS[norm](d_model), NORMS[norm](d_model)
        self.token_mixer: GridMixer = mixer(d_model, grid)
        self.mlp = StarMLP(d_model)
        self.res_scale1, self.res_scale2 = (
            nn.Identity() if res_scale is None else LayerScale(d_model, res_scale) for _ in range(2)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``x: (B, H, W, D)``."""
        x = self.res_scale1(x) + self.drop_path(self.token_mixer(self.norm1(x)))
        return self.res_scale2(x) + self.drop_path(self.mlp(self.norm2(x)))


class StarMLP(nn.Module):
    """Two dense layers on each token with StarReLU between them and no biases, ``(..., D) -> (..., D)``.

    Args:
        d_model: width D.
        expand: inner width over D, 4 in the paper.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 2. Differs from the original code in: nothing.
    """

    def __init__(self, d_model: int, *, expand: int = 4):
        super().__init__()
        check_at_least(1, expand=expand)
        self.fc1 = Pointwise(d_model, expand * d_model, bias=False)
        self.act = StarReLU()
        self.fc2 = Pointwise(expand * d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the features of ``x: (..., D)``."""
        return self.fc2(self.act(self.fc1(x)))


class Downsampling(nn.Module):
    """A strided convolution with a norm after it in the stem, before it between stages.

    Shapes: ``(B, in_dim, H, W) -> (B, out_dim, H / stride, W / stride)``.

    Args:
        in_dim: features that come.
        out_dim: features that leave.
        kernel_size: side of the kernel.
        stride: step of the kernel.
        padding: zeros on each side.
        is_stem: the norm stands after the convolution.

    Source: Yu et al., 2022, arXiv:2210.13452, appendix. Differs from the original code in: nothing.
    """

    def __init__(
        self, in_dim: int, out_dim: int, kernel_size: int, stride: int, padding: int, *, is_stem: bool = False
    ):
        super().__init__()
        self.pre_norm = nn.Identity() if is_stem else nn.LayerNorm(in_dim, eps=1e-6, bias=False)
        self.conv = nn.Conv2d(in_dim, out_dim, kernel_size, stride, padding)
        self.post_norm = nn.LayerNorm(out_dim, eps=1e-6, bias=False) if is_stem else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Halve or quarter the grid of ``x: (B, in_dim, H, W)``."""
        y = self.conv(self.pre_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return self.post_norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MLPHead(nn.Module):
    """Classifier with one hidden layer: linear, squared ReLU, norm, dropout, linear.

    Shapes: ``(..., D) -> (..., num_classes)``.

    Args:
        d_model: width D.
        num_classes: classes; 0 for none.
        dropout: dropout probability, before the last linear layer.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 3.1. Differs from the original code in: nothing.
    """

    def __init__(self, d_model: int, num_classes: int, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(d_model, 4 * d_model)
        self.norm = nn.LayerNorm(4 * d_model)
        self.drop = nn.Dropout(dropout)
        self.fc2 = linear_classifier(4 * d_model, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify ``x: (..., D)``."""
        return self.fc2(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """Input of the last linear layer, ``(..., 4 D)``."""
        return self.drop(self.norm(self.fc1(x).relu().square()))


class JointNorm(nn.Module):
    """Normalization over all tokens and features of an image, with a gain per feature and no bias.

    Args:
        d_model: width D.
        eps: added to the variance.

    Source: Yu et al., 2022, arXiv:2210.13452, appendix. Differs from the original code in: nothing.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))  # (D,)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x: (B, H, W, D)``."""
        return F.group_norm(x.permute(0, 3, 1, 2), 1, self.weight, None, self.eps).permute(0, 2, 3, 1)


def _layer_norm(d_model: int) -> nn.Module:
    return nn.LayerNorm(d_model, eps=1e-6, bias=False)


NORMS: dict[str, Callable[[int], nn.Module]] = {"layer": _layer_norm, "joint": JointNorm}


def drop_path_rates(rate: float, n_blocks: int) -> list[float]:
    """Rates that rise linearly from 0 in the first block to ``rate`` in the last.

    Raises:
        ConfigError: if ``rate`` is out of range.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"drop_path_rate = {rate} should be at least 0 and below 1; use for example 0.1")
    return [rate * k / max(n_blocks - 1, 1) for k in range(n_blocks)]


def stage_grids(
    img_size: int | tuple[int, int] | None, convolutions: Sequence[tuple[int, int, int]]
) -> list[Grid | None]:
    """Height and width of the map after each convolution, given as kernel, stride, padding."""
    if img_size is None:
        return [None] * len(convolutions)
    sides = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
    grids: list[Grid | None] = []
    for kernel, stride, padding in convolutions:
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
        grids.append((sides[0], sides[1]))
    return grids


def init_weights(module: nn.Module) -> None:
    """Weights of convolutions and linear layers normal with std 0.02, biases zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
