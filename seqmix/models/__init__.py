"""Blocks, backbones and forecasting models."""

from seqmix.models.averaging import WeightedAveraging
from seqmix.models.backbone import Backbone
from seqmix.models.block import Block, ChannelMLP, DropPath, LayerScale
from seqmix.models.classifier import Classifier, ClassifierFactory, SequenceClassifier
from seqmix.models.densify import Replaced, densify
from seqmix.models.embed import PatchEmbedding
from seqmix.models.encoder import BidirectionalEncoder, BidirectionalLM, EncoderFactory, load_published
from seqmix.models.ffnet_ts import FFNetTS
from seqmix.models.forecast_model import ForecastModel, ForecastModelFactory, list_models, model_facts, register_model
from seqmix.models.forecasters import DLinear, MixerForecaster, SeasonalNaive
from seqmix.models.heads import FlattenHead
from seqmix.models.named import class_of, forecast_factory
from seqmix.models.norm import BatchNormLast, Norm2D
from seqmix.models.quantile_patches import QuantilePatches
from seqmix.models.residual import Residual, ResidualForecaster
from seqmix.models.ridge import Ridge
from seqmix.models.token_model import TokenModel, TokenModelFactory
from seqmix.models.tsm2 import TSM2
from seqmix.models.zero_shot import ZeroShot

__all__ = [
    "TSM2",
    "Backbone",
    "BatchNormLast",
    "BidirectionalEncoder",
    "BidirectionalLM",
    "Block",
    "ChannelMLP",
    "Classifier",
    "ClassifierFactory",
    "DLinear",
    "DropPath",
    "EncoderFactory",
    "FFNetTS",
    "FlattenHead",
    "ForecastModel",
    "ForecastModelFactory",
    "LayerScale",
    "MixerForecaster",
    "Norm2D",
    "PatchEmbedding",
    "QuantilePatches",
    "Replaced",
    "Residual",
    "ResidualForecaster",
    "Ridge",
    "SeasonalNaive",
    "SequenceClassifier",
    "TokenModel",
    "TokenModelFactory",
    "WeightedAveraging",
    "ZeroShot",
    "class_of",
    "densify",
    "forecast_factory",
    "list_models",
    "load_published",
    "model_facts",
    "register_model",
]
