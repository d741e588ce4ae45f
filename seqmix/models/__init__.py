"""Blocks, backbones and forecasting models."""

from seqmix.models.autoformer import Autoformer, AutoformerForecaster
from seqmix.models.averaging import WeightedAveraging
from seqmix.models.backbone import Backbone
from seqmix.models.block import Block, ChannelMLP, DropPath, LayerScale
from seqmix.models.conv_forecaster import ConvForecaster
from seqmix.models.decoder import DecoderForecaster
from seqmix.models.densify import Densify, Replaced
from seqmix.models.detector import Detector, DetectorFactory, period_of, series_of
from seqmix.models.detector_mean import DetectorMean
from seqmix.models.embed import PatchEmbedding, ValueEmbedding
from seqmix.models.encoder import BidirectionalEncoder, BidirectionalLM, EncoderFactory, load_published
from seqmix.models.encoder_classifier import EncoderClassifier
from seqmix.models.encoder_forecaster import EncoderForecaster
from seqmix.models.ffnet_ts import FFNetTS
from seqmix.models.forecast_errors import ForecastErrors
from seqmix.models.forecast_model import (
    ForecastModel,
    ForecastModelFactory,
    class_of,
    covariate_models,
    list_imputers,
    list_models,
    model_facts,
    register_model,
)
from seqmix.models.forecast_model_classifier import ForecastModelClassifier
from seqmix.models.forecasters import DLinear, MixerForecaster, SeasonalNaive
from seqmix.models.gaussian import GaussianImputer
from seqmix.models.heads import FlattenHead, TimeHead
from seqmix.models.informer import Informer
from seqmix.models.interpolation import LastValue, LinearInterpolation, SeasonalInterpolation, WindowMean
from seqmix.models.mamba_sl import MambaSL
from seqmix.models.mixer_classifier import MixerClassifier, SeriesEmbedding
from seqmix.models.named import classifier_factory, forecast_factory, imputer_factory
from seqmix.models.norm import BatchNormLast, MaskedBatchNorm, Norm2D
from seqmix.models.patch_encoder import PatchEncoder, PatchTST
from seqmix.models.pooling import Pooling
from seqmix.models.quantile_patches import QuantilePatches
from seqmix.models.random_convolutions import RandomConvolutions
from seqmix.models.random_scores import RandomScores
from seqmix.models.residual import Residual, ResidualForecaster
from seqmix.models.ridge import Ridge
from seqmix.models.series_classifier import (
    SeriesClassifier,
    SeriesClassifierFactory,
    classifier_facts,
    list_classifiers,
    register_classifier,
)
from seqmix.models.series_encoder import (
    SeriesEncoder,
    SeriesEncoderFactory,
    encoder_facts,
    list_encoders,
    register_encoder,
)
from seqmix.models.spectral_residual import SpectralResidual
from seqmix.models.sub_pca import SubPCA
from seqmix.models.time_encoder import TimeEncoder, Transformer
from seqmix.models.times_net import TimesNet
from seqmix.models.token_classifier import SequenceClassifier, TokenClassifier, TokenClassifierFactory
from seqmix.models.token_model import TokenModel, TokenModelFactory
from seqmix.models.tsm2 import TSM2
from seqmix.models.variate_encoder import SMamba, VariateEncoder, iTransformer
from seqmix.models.zero_shot import ZeroShot

__all__ = [
    "TSM2",
    "Autoformer",
    "AutoformerForecaster",
    "Backbone",
    "BatchNormLast",
    "BidirectionalEncoder",
    "BidirectionalLM",
    "Block",
    "ChannelMLP",
    "ConvForecaster",
    "DLinear",
    "DecoderForecaster",
    "Densify",
    "Detector",
    "DetectorFactory",
    "DetectorMean",
    "DropPath",
    "EncoderClassifier",
    "EncoderFactory",
    "EncoderForecaster",
    "FFNetTS",
    "FlattenHead",
    "ForecastErrors",
    "ForecastModel",
    "ForecastModelClassifier",
    "ForecastModelFactory",
    "GaussianImputer",
    "Informer",
    "LastValue",
    "LayerScale",
    "LinearInterpolation",
    "MambaSL",
    "MaskedBatchNorm",
    "MixerClassifier",
    "MixerForecaster",
    "Norm2D",
    "PatchEmbedding",
    "PatchEncoder",
    "PatchTST",
    "Pooling",
    "QuantilePatches",
    "RandomConvolutions",
    "RandomScores",
    "Replaced",
    "Residual",
    "ResidualForecaster",
    "Ridge",
    "SMamba",
    "SeasonalInterpolation",
    "SeasonalNaive",
    "SequenceClassifier",
    "SeriesClassifier",
    "SeriesClassifierFactory",
    "SeriesEmbedding",
    "SeriesEncoder",
    "SeriesEncoderFactory",
    "SpectralResidual",
    "SubPCA",
    "TimeEncoder",
    "TimeHead",
    "TimesNet",
    "TokenClassifier",
    "TokenClassifierFactory",
    "TokenModel",
    "TokenModelFactory",
    "Transformer",
    "ValueEmbedding",
    "VariateEncoder",
    "WeightedAveraging",
    "WindowMean",
    "ZeroShot",
    "class_of",
    "classifier_factory",
    "classifier_facts",
    "covariate_models",
    "encoder_facts",
    "forecast_factory",
    "iTransformer",
    "imputer_factory",
    "list_classifiers",
    "list_encoders",
    "list_imputers",
    "list_models",
    "load_published",
    "model_facts",
    "period_of",
    "register_classifier",
    "register_encoder",
    "register_model",
    "series_of",
]


def __dir__() -> list[str]:
    return sorted(__all__)
