"""Image models by name, and the adapters that put any sequence mixer on a grid of patches."""

from seqmix.vision import affnet, baselines, ffnet, ffnet_seg, hydra_vit, iformer, poolformer, raftmlp, vim2
from seqmix.vision._registry import ImageModelFacts, create_model, list_models, model_facts, register_model
from seqmix.vision.adapters import Axial, CrossScan, Raster
from seqmix.vision.affnet import AFF2d, AFFNet
from seqmix.vision.ffnet import FFNet, FFNifiedAttention2d
from seqmix.vision.ffnet_seg import FFNetSeg, FFNetSegHead
from seqmix.vision.ffnet_sr import FFNetSR
from seqmix.vision.grid_mixer import GridMixer, GridMixerFactory
from seqmix.vision.hydra_vit import HydraViT
from seqmix.vision.iformer import IFormer, Inception2d
from seqmix.vision.image_model import FeatureInfo, ImageModel, ImageOptions
from seqmix.vision.metaformer import MetaFormer
from seqmix.vision.mixers2d import Attention2d, Dense2d, Identity2d, Pool2d, Rand2d, SepConv2d, StarReLU
from seqmix.vision.poolformer import PoolFormer
from seqmix.vision.pyramid import FeaturePyramid
from seqmix.vision.raftmlp import Raft2d, RaftMLP
from seqmix.vision.ss2d import SS2D
from seqmix.vision.vim2 import ViM2
from seqmix.vision.weights import load_weights

__all__ = [
    "SS2D",
    "AFF2d",
    "AFFNet",
    "Attention2d",
    "Axial",
    "CrossScan",
    "Dense2d",
    "FFNet",
    "FFNetSR",
    "FFNetSeg",
    "FFNetSegHead",
    "FFNifiedAttention2d",
    "FeatureInfo",
    "FeaturePyramid",
    "GridMixer",
    "GridMixerFactory",
    "HydraViT",
    "IFormer",
    "Identity2d",
    "ImageModel",
    "ImageModelFacts",
    "ImageOptions",
    "Inception2d",
    "MetaFormer",
    "Pool2d",
    "PoolFormer",
    "Raft2d",
    "RaftMLP",
    "Rand2d",
    "Raster",
    "SepConv2d",
    "StarReLU",
    "ViM2",
    "affnet",
    "baselines",
    "create_model",
    "ffnet",
    "ffnet_seg",
    "hydra_vit",
    "iformer",
    "list_models",
    "load_weights",
    "model_facts",
    "poolformer",
    "raftmlp",
    "register_model",
    "vim2",
]


def __dir__() -> list[str]:
    return sorted(__all__)
