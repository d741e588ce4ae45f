"""PoolFormer, and the models of its paper with other mixers in some stages (arXiv:2111.11418)."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from seqmix.errors import ConfigError, check_choice
from seqmix.models import DropPath, Norm2D
from seqmix.vision._registry import register_model
from seqmix.vision.grid_mixer import Grid, GridMixer, GridMixerFactory
from seqmix.vision.image_model import GlobalPool, ImageModel, ImageOptions, check_stages, linear_classifier, pool_map
from seqmix.vision.metaformer import drop_path_rates, init_weights, stage_grids
from seqmix.vision.mixers2d import Attention2d, Dense2d, Identity2d, Pool2d, check_grid, pointwise, require_grid
from seqmix.vision.stage import Stage

fx.wrap("pointwise")
fx.wrap("check_grid")

_PAPER = "arXiv:2111.11418"
_S12 = (2, 2, 6, 2)
_SMALL, _MEDIUM = (64, 128, 320, 512), (96, 192, 384, 768)
_NORMS = {"joint": Norm2D, "layer": nn.LayerNorm}
_HYBRID_CFG = {"first_conv": "patch_embed.proj", "fixed_input_size": True}
_ATTENTION = partial(Attention2d, bias=True)


class PoolFormer(ImageModel):
    """PoolFormer: stem, four stages of blocks with strided convolutions between them, norm, mean, head.

    A block is ``x + s1 mixer(norm(x))``, then ``x + s2 W2 gelu(W1 norm(x))``, with learned scales s per feature.

    Shapes: ``(B, in_chans, H, W) -> (B, num_classes)``. Cost: that of the mixers, O(H W D^2) in the rest.

    Args:
        depths: blocks in each stage.
        dims: width D of each stage.
        mixers: factory of the mixer of each stage.
        norm: ``joint`` over all of an image, or ``layer`` over the features of a token.
        layer_scale: initial value of the scales.
        positions: stage before which learned positions are added, from 0. Default: no positions.
        img_size: height and width in pixels, or the side of a square; for positions and mixers that store a matrix.
        head_order: ``norm_pool`` of the paper, or ``pool_norm``, over features with eps 1e-6, as timm runs the weights.
        feature_norms: stages whose map in ``features`` gets a norm of its own; ImageNet weights have none of these.
        drop_path_rate: probability to skip a branch for a sample in training, of the last block; it rises linearly.
        drop_rate: dropout probability before the classifier.

    Raises:
        ConfigError: if ``norm``, ``head_order`` or ``global_pool`` is not known, or ``img_size`` is needed and missing.

    Source: Yu et al., 2021, arXiv:2111.11418, sec. 3. Differs from the original code in: nothing.
    """

    unpublished = ("norm0.", "norm2.", "norm4.", "norm6.")
    sized = ("pos_embed", "token_mixer")
    undecayed = ("pos_embed",)
    timm_keys = (
        (r"^stem\.conv\.", r"patch_embed.proj."),
        *((rf"^stages\.{i}\.downsample\.conv\.", rf"network.{2 * i - 1}.proj.") for i in (1, 2, 3)),
        *(
            (rf"^stages\.{i}\.blocks\.(.*\.)layer_scale(\d)\.scale$", rf"network.{2 * i}.\1layer_scale_\2")
            for i in range(4)
        ),
        *((rf"^stages\.{i}\.blocks\.", rf"network.{2 * i}.") for i in range(4)),
        (r"^head\.norm\.", r"norm."),
        (r"^head\.fc\.", r"head."),
    )

    def __init__(
        self,
        *,
        depths: Sequence[int],
        dims: Sequence[int],
        mixers: Sequence[GridMixerFactory],
        norm: Literal["joint", "layer"] = "joint",
        layer_scale: float = 1e-5,
        positions: int | None = None,
        img_size: int | tuple[int, int] | None = None,
        head_order: Literal["norm_pool", "pool_norm"] = "norm_pool",
        feature_norms: Sequence[int] = (),
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        global_pool: GlobalPool = "avg",
    ):
        check_stages(depths=depths, dims=dims)
        if len(mixers) != len(dims):
            raise ConfigError(f"{len(mixers)} mixers for {len(dims)} stages; give one per stage")
        check_choice("norm", norm, tuple(_NORMS))
        check_choice("head_order", head_order, ("norm_pool", "pool_norm"))
        # positions stand in the list of modules, and shift the names of what follows
        places = [2 * i + (positions is not None and i >= positions) for i in range(len(dims))]
        super().__init__(
            stages=[(D, 4 * 2**i, f"network.{places[i]}") for i, D in enumerate(dims)],
            before=[["patch_embed", *_between(0, places[0])], *(_between(a + 1, b) for a, b in pairwise(places))],
            head=("norm", "head"),
            classifier="head",
            head_hidden_size=dims[-1],
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
            img_size=img_size,
        )
        grids = stage_grids(img_size, [(7, 4, 2), *[(3, 2, 1)] * (len(dims) - 1)])
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.patch_embed = _Convolution(in_chans, dims[0], 7, 4, 2)
        self.network = nn.ModuleList()
        for i, D in enumerate(dims):
            if i > 0:
                self.network.append(_Convolution(dims[i - 1], D, 3, 2, 1))
            if i == positions:
                self.network.append(Positions(D, grids[i]))
            self.network.append(
                Stage(
                    *(
                        PoolFormerBlock(
                            D,
                            grids[i],
                            mixer=mixers[i],
                            norm=norm,
                            layer_scale=layer_scale,
                            drop_path=next(rates),
                        )
                        for _ in range(depths[i])
                    ),
                    channels_last=True,
                )
            )
        self.map_norms = {i: f"norm{places[i]}" for i in feature_norms}
        for i, name in self.map_norms.items():
            self.add_module(name, Norm2D(dims[i]))
        self.head_order = head_order
        self.norm = _NORMS[norm](dims[-1])
        self.drop = nn.Dropout(drop_rate)
        self.head = linear_classifier(dims[-1], num_classes)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the output of each stage, ``(B, D, H / s, W / s)``."""
        x = self.patch_embed(x)
        stages = self.feature_info.module_name()
        for i, module in enumerate(self.network):
            x = module(x)
            if (name := f"network.{i}") in stages:
                norm = self.map_norms.get(stages.index(name))
                yield x if norm is None else self.get_submodule(norm)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if len(stages) - 1 in self.map_norms:
            yield x

    def pre_logits(self, x: Tensor) -> Tensor:
        """Normalize and pool, or the other way round as ``head_order`` says."""
        if self.head_order == "norm_pool":
            y = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.drop(pool_map(y, self.global_pool))
        y = pool_map(x, self.global_pool)
        return self.drop(F.layer_norm(y, y.shape[-1:], self.norm.weight, self.norm.bias, 1e-6))


class PoolFormerBlock(nn.Module):
    """Block with learned scales on the branches: a grid mixer and two dense layers with GELU.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``. Cost: that of the mixer, and O(H W D^2).

    Args:
        d_model: width D.
        grid: height and width, in tokens.
        mixer: factory of the mixer.
        norm: ``joint`` or ``layer``.
        layer_scale: initial value of the scales.
        drop_path: probability to skip a branch for a sample in training.

    Source: Yu et al., 2021, arXiv:2111.11418, eq. 2 and 3. Differs from the original code in: nothing.
    """

    def __init__(
        self,
        d_model: int,
        grid: Grid | None = None,
        *,
        mixer: GridMixerFactory,
        norm: Literal["joint", "layer"] = "joint",
        layer_scale: float = 1e-5,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.norm1, self.norm2 = _NORMS[norm](d_model), _NORMS[norm](d_model)
        self.token_mixer: GridMixer = mixer(d_model, grid)
        self.mlp = _MLP(d_model, 4 * d_model)
        self.layer_scale_1 = nn.Parameter(torch.full((d_model,), layer_scale))  # (D,)
        self.layer_scale_2 = nn.Parameter(torch.full((d_model,), layer_scale))  # (D,)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``x: (B, H, W, D)``."""
        x = x + self.drop_path(self.layer_scale_1 * self.token_mixer(self.norm1(x)))
        return x + self.drop_path(self.layer_scale_2 * self.mlp(self.norm2(x)))


class _MLP(nn.Module):
    """Two dense layers with GELU on ``(B, H, W, D)``; they are kept as the 1 x 1 convolutions of the weights."""

    def __init__(self, d_model: int, inner: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(d_model, inner, 1), nn.Conv2d(inner, d_model, 1)
        for layer in (self.fc1, self.fc2):
            init_weights(layer)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(pointwise(x, self.fc1.weight.flatten(1), self.fc1.bias))
        return pointwise(hidden, self.fc2.weight.flatten(1), self.fc2.bias)


class _Convolution(nn.Module):
    """A strided convolution of ``(B, in_dim, H, W)`` to ``(B, out_dim, H / stride, W / stride)``."""

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int, stride: int, padding: int):
        super().__init__()
        self.proj = nn.Conv2d(in_dim, out_dim, kernel_size, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Positions(nn.Module):
    """A learned vector per token, added to ``(B, D, H, W)``."""

    def __init__(self, d_model: int, grid: Grid | None):
        super().__init__()
        height, width = require_grid(self, grid)
        self.pos_embed = nn.Parameter(torch.empty(1, d_model, height, width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Add the vectors to ``x: (B, D, H, W)``."""
        height, width = self.pos_embed.shape[2:]
        check_grid(self, x.permute(0, 2, 3, 1), (height, width))
        return x + self.pos_embed


def _between(first: int, end: int) -> list[str]:
    """Names of the modules that stand before a stage: a convolution, learned positions."""
    return [f"network.{i}" for i in range(first, end)]


class PoolFormerOptions(ImageOptions, total=False):
    """Options of every PoolFormer.

    Args:
        head_order: ``norm_pool`` of the paper, or ``pool_norm`` as timm runs the weights.
        feature_norms: stages whose map in ``features`` gets a norm of its own.
    """

    head_order: Literal["norm_pool", "pool_norm"]
    feature_norms: Sequence[int]


def _cfg(name: str, crop_pct: float = 0.9) -> dict[str, Any]:
    return {"first_conv": "patch_embed.proj", "crop_pct": crop_pct, "hf_hub_id": f"timm/{name}.sail_in1k"}


@register_model(paper=_PAPER, parameters=11_915_176, default_cfg=_cfg("poolformer_s12"))
def poolformer_s12(**options: Unpack[PoolFormerOptions]) -> PoolFormer:
    """12M parameters, 77.2 top-1 in the paper."""
    return PoolFormer(depths=_S12, dims=_SMALL, mixers=[Pool2d] * 4, layer_scale=1e-5, **options)


@register_model(paper=_PAPER, parameters=21_388_968, default_cfg=_cfg("poolformer_s24"))
def poolformer_s24(**options: Unpack[PoolFormerOptions]) -> PoolFormer:
    """21M parameters, 80.3 top-1 in the paper."""
    return PoolFormer(depths=(4, 4, 12, 4), dims=_SMALL, mixers=[Pool2d] * 4, layer_scale=1e-5, **options)


@register_model(paper=_PAPER, parameters=30_862_760, default_cfg=_cfg("poolformer_s36"))
def poolformer_s36(**options: Unpack[PoolFormerOptions]) -> PoolFormer:
    """31M parameters, 81.4 top-1 in the paper."""
    return PoolFormer(depths=(6, 6, 18, 6), dims=_SMALL, mixers=[Pool2d] * 4, layer_scale=1e-6, **options)


@register_model(paper=_PAPER, parameters=56_172_520, default_cfg=_cfg("poolformer_m36", crop_pct=0.95))
def poolformer_m36(**options: Unpack[PoolFormerOptions]) -> PoolFormer:
    """56M parameters, 82.1 top-1 in the paper."""
    return PoolFormer(depths=(6, 6, 18, 6), dims=_MEDIUM, mixers=[Pool2d] * 4, layer_scale=1e-6, **options)


@register_model(paper=_PAPER, parameters=73_473_448, default_cfg=_cfg("poolformer_m48", crop_pct=0.95))
def poolformer_m48(**options: Unpack[PoolFormerOptions]) -> PoolFormer:
    """73M parameters, 82.5 top-1 in the paper."""
    return PoolFormer(depths=(8, 8, 24, 8), dims=_MEDIUM, mixers=[Pool2d] * 4, layer_scale=1e-6, **options)


@register_model(paper=_PAPER, parameters=11_915_176, default_cfg={"first_conv": "patch_embed.proj"})
def metaformer_id_s12(**options: Unpack[PoolFormerOptions]) -> PoolFormer:
    """Identity in all stages: 74.3 top-1 as re-evaluated by a user."""
    mixers = [Identity2d] * 4
    return PoolFormer(depths=_S12, dims=_SMALL, mixers=mixers, **options)


@register_model(paper=_PAPER, parameters=14_038_440, default_cfg=_HYBRID_CFG)
def metaformer_pppa_s12_224(*, img_size: int = 224, **options: Unpack[PoolFormerOptions]) -> PoolFormer:
    """Attention in the last stage."""
    mixers = [Pool2d, Pool2d, Pool2d, _ATTENTION]
    return PoolFormer(depths=_S12, dims=_SMALL, mixers=mixers, img_size=img_size, norm="layer", positions=3, **options)


@register_model(paper=_PAPER, parameters=16_535_592, default_cfg=_HYBRID_CFG)
def metaformer_ppaa_s12_224(*, img_size: int = 224, **options: Unpack[PoolFormerOptions]) -> PoolFormer:
    """Attention in the last two stages: 81.0 top-1."""
    mixers = [Pool2d, Pool2d, _ATTENTION, _ATTENTION]
    return PoolFormer(depths=_S12, dims=_SMALL, mixers=mixers, img_size=img_size, norm="layer", positions=2, **options)


@register_model(paper=_PAPER, parameters=11_919_978, default_cfg=_HYBRID_CFG)
def metaformer_pppf_s12_224(*, img_size: int = 224, **options: Unpack[PoolFormerOptions]) -> PoolFormer:
    """A fully connected last stage."""
    mixers = [Pool2d, Pool2d, Pool2d, Dense2d]
    return PoolFormer(depths=_S12, dims=_SMALL, mixers=mixers, img_size=img_size, **options)


@register_model(paper=_PAPER, parameters=12_150_474, default_cfg=_HYBRID_CFG)
def metaformer_ppff_s12_224(*, img_size: int = 224, **options: Unpack[PoolFormerOptions]) -> PoolFormer:
    """Two fully connected last stages."""
    mixers = [Pool2d, Pool2d, Dense2d, Dense2d]
    return PoolFormer(depths=_S12, dims=_SMALL, mixers=mixers, img_size=img_size, **options)
