"""The MetaFormer baselines: IdentityFormer, RandFormer, PoolFormerV2, ConvFormer, CAFormer (arXiv:2210.13452).

Names end as those of the published weights: ``384`` for images of 384 pixels, ``in21k`` for ImageNet-21K, ``in21ft1k``
for weights tuned from there. The network is the same.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from typing_extensions import Unpack

from seqmix.vision._registry import register_model
from seqmix.vision.image_model import ImageOptions
from seqmix.vision.metaformer import MetaFormer
from seqmix.vision.mixers2d import Attention2d, Identity2d, Pool2d, Rand2d, SepConv2d

_PAPER = "arXiv:2210.13452"
_SMALL, _MEDIUM = (64, 128, 320, 512), (96, 192, 384, 768)

_SHALLOW, _DEEP = (3, 3, 9, 3), (3, 12, 18, 3)
# mixers of the four stages
_IDENTITY = [Identity2d] * 4
_RANDOM = [Identity2d, Identity2d, Rand2d, Rand2d]
_POOL = [Pool2d] * 4
_CONVOLUTION = [SepConv2d] * 4
_ATTENTION = [SepConv2d, SepConv2d, Attention2d, Attention2d]
_CFG = {"first_conv": "downsample_layers.0.conv", "crop_pct": 1.0}
_FIXED_CFG = {**_CFG, "fixed_input_size": True}


F = TypeVar("F", bound=Callable[..., MetaFormer])


def _hub(name: str) -> dict[str, Any]:
    return {**_CFG, "hf_hub_id": f"timm/{name}.sail_in1k"}


def _published(parameters: int, *, width: int) -> Callable[[F], F]:
    """Register a model together with its other weights: at 384 pixels, of ImageNet-21K, and tuned from there."""
    large = {"input_size": (3, 384, 384), "pool_size": (12, 12)}
    # 21,841 classes in place of 1,000, on a hidden layer of four times the width
    more = parameters + 20_841 * (4 * width + 1)

    def enter(function: F) -> F:
        hub = f"timm/{function.__name__}.sail_in"
        variants = {
            "384": (parameters, {**large, "hf_hub_id": f"{hub}1k_384"}),
            "in21k": (more, {"num_classes": 21_841, "hf_hub_id": f"{hub}22k"}),
            "in21ft1k": (parameters, {"hf_hub_id": f"{hub}22k_ft_in1k"}),
            "384_in21ft1k": (parameters, {**large, "hf_hub_id": f"{hub}22k_ft_in1k_384"}),
        }
        cfg = _hub(function.__name__)
        return register_model(paper=_PAPER, parameters=parameters, default_cfg=cfg, variants=variants)(function)

    return enter


@register_model(paper=_PAPER, parameters=11_891_712, default_cfg=_CFG)
def identityformer_s12(**options: Unpack[ImageOptions]) -> MetaFormer:
    """IdentityFormer-S12: 12M parameters, 74.6 top-1 in the paper."""
    return MetaFormer(depths=(2, 2, 6, 2), dims=_SMALL, mixers=_IDENTITY, norm="joint", **options)


@register_model(paper=_PAPER, parameters=21_341_464, default_cfg=_CFG)
def identityformer_s24(**options: Unpack[ImageOptions]) -> MetaFormer:
    """IdentityFormer-S24: 21M parameters, 78.2 top-1 in the paper."""
    return MetaFormer(depths=(4, 4, 12, 4), dims=_SMALL, mixers=_IDENTITY, norm="joint", **options)


@register_model(paper=_PAPER, parameters=30_791_216, default_cfg=_CFG)
def identityformer_s36(**options: Unpack[ImageOptions]) -> MetaFormer:
    """IdentityFormer-S36: 31M parameters, 79.3 top-1 in the paper."""
    return MetaFormer(depths=(6, 6, 18, 6), dims=_SMALL, mixers=_IDENTITY, norm="joint", **options)


@register_model(paper=_PAPER, parameters=56_077_168, default_cfg=_CFG)
def identityformer_m36(**options: Unpack[ImageOptions]) -> MetaFormer:
    """IdentityFormer-M36: 56M parameters, 80.0 top-1 in the paper."""
    return MetaFormer(depths=(6, 6, 18, 6), dims=_MEDIUM, mixers=_IDENTITY, norm="joint", **options)


@register_model(paper=_PAPER, parameters=73_346_056, default_cfg=_CFG)
def identityformer_m48(**options: Unpack[ImageOptions]) -> MetaFormer:
    """IdentityFormer-M48: 73M parameters, 80.4 top-1 in the paper."""
    return MetaFormer(depths=(8, 8, 24, 8), dims=_MEDIUM, mixers=_IDENTITY, norm="joint", **options)


@register_model(paper=_PAPER, parameters=12_127_010, default_cfg=_FIXED_CFG)
def randformer_s12(*, img_size: int = 224, **options: Unpack[ImageOptions]) -> MetaFormer:
    """RandFormer-S12: 12M parameters, 76.6 top-1 in the paper."""
    return MetaFormer(depths=(2, 2, 6, 2), dims=_SMALL, mixers=_RANDOM, norm="joint", img_size=img_size, **options)


@register_model(paper=_PAPER, parameters=21_812_060, default_cfg=_FIXED_CFG)
def randformer_s24(*, img_size: int = 224, **options: Unpack[ImageOptions]) -> MetaFormer:
    """RandFormer-S24: 22M parameters, 78.2 top-1 in the paper."""
    return MetaFormer(depths=(4, 4, 12, 4), dims=_SMALL, mixers=_RANDOM, norm="joint", img_size=img_size, **options)


@register_model(paper=_PAPER, parameters=31_497_110, default_cfg=_FIXED_CFG)
def randformer_s36(*, img_size: int = 224, **options: Unpack[ImageOptions]) -> MetaFormer:
    """RandFormer-S36: 31M parameters, 79.5 top-1 in the paper."""
    return MetaFormer(depths=(6, 6, 18, 6), dims=_SMALL, mixers=_RANDOM, norm="joint", img_size=img_size, **options)


@register_model(paper=_PAPER, parameters=56_783_062, default_cfg=_FIXED_CFG)
def randformer_m36(*, img_size: int = 224, **options: Unpack[ImageOptions]) -> MetaFormer:
    """RandFormer-M36: 57M parameters, 81.2 top-1 in the paper."""
    return MetaFormer(depths=(6, 6, 18, 6), dims=_MEDIUM, mixers=_RANDOM, norm="joint", img_size=img_size, **options)


@register_model(paper=_PAPER, parameters=74_287_248, default_cfg=_FIXED_CFG)
def randformer_m48(*, img_size: int = 224, **options: Unpack[ImageOptions]) -> MetaFormer:
    """RandFormer-M48: 74M parameters, 81.4 top-1 in the paper."""
    return MetaFormer(depths=(8, 8, 24, 8), dims=_MEDIUM, mixers=_RANDOM, norm="joint", img_size=img_size, **options)


@register_model(paper=_PAPER, parameters=11_891_712, default_cfg=_hub("poolformerv2_s12"))
def poolformerv2_s12(**options: Unpack[ImageOptions]) -> MetaFormer:
    """PoolFormerV2-S12: 12M parameters, 78.0 top-1 in the paper."""
    return MetaFormer(depths=(2, 2, 6, 2), dims=_SMALL, mixers=_POOL, norm="joint", **options)


@register_model(paper=_PAPER, parameters=21_341_464, default_cfg=_hub("poolformerv2_s24"))
def poolformerv2_s24(**options: Unpack[ImageOptions]) -> MetaFormer:
    """PoolFormerV2-S24: 21M parameters, 80.7 top-1 in the paper."""
    return MetaFormer(depths=(4, 4, 12, 4), dims=_SMALL, mixers=_POOL, norm="joint", **options)


@register_model(paper=_PAPER, parameters=30_791_216, default_cfg=_hub("poolformerv2_s36"))
def poolformerv2_s36(**options: Unpack[ImageOptions]) -> MetaFormer:
    """PoolFormerV2-S36: 31M parameters, 81.6 top-1 in the paper."""
    return MetaFormer(depths=(6, 6, 18, 6), dims=_SMALL, mixers=_POOL, norm="joint", **options)


@register_model(paper=_PAPER, parameters=56_077_168, default_cfg=_hub("poolformerv2_m36"))
def poolformerv2_m36(**options: Unpack[ImageOptions]) -> MetaFormer:
    """PoolFormerV2-M36: 56M parameters, 82.2 top-1 in the paper."""
    return MetaFormer(depths=(6, 6, 18, 6), dims=_MEDIUM, mixers=_POOL, norm="joint", **options)


@register_model(paper=_PAPER, parameters=73_346_056, default_cfg=_hub("poolformerv2_m48"))
def poolformerv2_m48(**options: Unpack[ImageOptions]) -> MetaFormer:
    """PoolFormerV2-M48: 73M parameters, 82.6 top-1 in the paper."""
    return MetaFormer(depths=(8, 8, 24, 8), dims=_MEDIUM, mixers=_POOL, norm="joint", **options)


@_published(26_774_448, width=512)
def convformer_s18(**options: Unpack[ImageOptions]) -> MetaFormer:
    """ConvFormer-S18: 27M parameters, 83.0 top-1 in the paper."""
    return MetaFormer(depths=_SHALLOW, dims=_SMALL, mixers=_CONVOLUTION, mlp_head=True, **options)


@_published(40_012_152, width=512)
def convformer_s36(**options: Unpack[ImageOptions]) -> MetaFormer:
    """ConvFormer-S36: 40M parameters, 84.1 top-1 in the paper."""
    return MetaFormer(depths=_DEEP, dims=_SMALL, mixers=_CONVOLUTION, mlp_head=True, **options)


@_published(57_051_640, width=576)
def convformer_m36(**options: Unpack[ImageOptions]) -> MetaFormer:
    """ConvFormer-M36: 57M parameters, 84.5 top-1 in the paper."""
    return MetaFormer(depths=_DEEP, dims=(96, 192, 384, 576), mixers=_CONVOLUTION, mlp_head=True, **options)


@_published(99_882_616, width=768)
def convformer_b36(**options: Unpack[ImageOptions]) -> MetaFormer:
    """ConvFormer-B36: 100M parameters, 84.8 top-1 in the paper."""
    return MetaFormer(depths=_DEEP, dims=(128, 256, 512, 768), mixers=_CONVOLUTION, mlp_head=True, **options)


@_published(26_341_656, width=512)
def caformer_s18(**options: Unpack[ImageOptions]) -> MetaFormer:
    """CAFormer-S18: 26M parameters, 83.6 top-1 in the paper."""
    return MetaFormer(depths=_SHALLOW, dims=_SMALL, mixers=_ATTENTION, mlp_head=True, **options)


@_published(39_297_102, width=512)
def caformer_s36(**options: Unpack[ImageOptions]) -> MetaFormer:
    """CAFormer-S36: 39M parameters, 84.5 top-1 in the paper."""
    return MetaFormer(depths=_DEEP, dims=_SMALL, mixers=_ATTENTION, mlp_head=True, **options)


@_published(56_204_878, width=576)
def caformer_m36(**options: Unpack[ImageOptions]) -> MetaFormer:
    """CAFormer-M36: 56M parameters, 85.2 top-1 in the paper."""
    return MetaFormer(depths=_DEEP, dims=(96, 192, 384, 576), mixers=_ATTENTION, mlp_head=True, **options)


@_published(98_753_614, width=768)
def caformer_b36(**options: Unpack[ImageOptions]) -> MetaFormer:
    """CAFormer-B36: 99M parameters, 85.5 top-1 in the paper."""
    return MetaFormer(depths=_DEEP, dims=(128, 256, 512, 768), mixers=_ATTENTION, mlp_head=True, **options)
