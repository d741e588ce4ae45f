"""Sequence mixers, one class each: ``Name(d_model, max_len=None, *, options)`` on ``(B, L, D)``."""

from seqmix.mixers.aff import AFF
from seqmix.mixers.along_features import AlongFeatures
from seqmix.mixers.attention import Attention
from seqmix.mixers.auto_correlation import AutoCorrelation
from seqmix.mixers.based import Based
from seqmix.mixers.bidirectional import Bidirectional
from seqmix.mixers.cauchy import Cauchy
from seqmix.mixers.delta_net import DeltaNet
from seqmix.mixers.dense import Dense
from seqmix.mixers.dense_mlp import DenseMLP
from seqmix.mixers.dft import DFT
from seqmix.mixers.ema import EMA
from seqmix.mixers.ffnified import FFNifiedAttention
from seqmix.mixers.fnet import FNet
from seqmix.mixers.fourier_filter import FourierFilter
from seqmix.mixers.gated_delta_net import GatedDeltaNet
from seqmix.mixers.gated_delta_product import GatedDeltaProduct
from seqmix.mixers.gla import GLA
from seqmix.mixers.hgrn2 import HGRN2
from seqmix.mixers.hybrid import hybrid_layers
from seqmix.mixers.hydra import Hydra
from seqmix.mixers.hyena import Hyena
from seqmix.mixers.identity import Identity
from seqmix.mixers.inception import InceptionMixer
from seqmix.mixers.kda import KDA
from seqmix.mixers.longvq import LongVQ
from seqmix.mixers.low_rank import LowRank
from seqmix.mixers.lru import LRU
from seqmix.mixers.mamba import Mamba
from seqmix.mixers.mamba2 import Mamba2
from seqmix.mixers.mamba3 import Mamba3
from seqmix.mixers.matrix import MatrixMixer
from seqmix.mixers.mega import Mega
from seqmix.mixers.min_gru import MinGRU
from seqmix.mixers.min_lstm import MinLSTM
from seqmix.mixers.mixer import (
    Mixer,
    MixerFactory,
    MixerFacts,
    auxiliary_loss,
    check_mask,
    list_mixers,
    mixer_facts,
    register,
    spared_parameters,
    zero_masked,
)
from seqmix.mixers.mlstm import MLSTM
from seqmix.mixers.ponet import PoNet, segments_between, segments_from_ids
from seqmix.mixers.pool import Pool
from seqmix.mixers.prob_sparse import ProbSparse
from seqmix.mixers.quasiseparable import Quasiseparable
from seqmix.mixers.raft import Raft
from seqmix.mixers.rand import Rand
from seqmix.mixers.ret_net import RetNet
from seqmix.mixers.rg_lru import RGLRU
from seqmix.mixers.rwkv7 import RWKV7
from seqmix.mixers.rwkv7_channel import RWKV7Channel
from seqmix.mixers.s4d import S4D
from seqmix.mixers.s5 import S5
from seqmix.mixers.selective_channel import SelectiveChannel
from seqmix.mixers.selective_token import SelectiveToken
from seqmix.mixers.sep_conv import SepConv
from seqmix.mixers.sliding_window import SlidingWindow
from seqmix.mixers.slstm import SLSTM
from seqmix.mixers.softmax import Softmax
from seqmix.mixers.state import detach_state
from seqmix.mixers.toeplitz import Toeplitz
from seqmix.mixers.unstructured import Unstructured
from seqmix.mixers.vandermonde import Vandermonde

__all__ = [
    "AFF",
    "DFT",
    "EMA",
    "GLA",
    "HGRN2",
    "KDA",
    "LRU",
    "MLSTM",
    "RGLRU",
    "RWKV7",
    "S4D",
    "S5",
    "SLSTM",
    "AlongFeatures",
    "Attention",
    "AutoCorrelation",
    "Based",
    "Bidirectional",
    "Cauchy",
    "DeltaNet",
    "Dense",
    "DenseMLP",
    "FFNifiedAttention",
    "FNet",
    "FourierFilter",
    "GatedDeltaNet",
    "GatedDeltaProduct",
    "Hydra",
    "Hyena",
    "Identity",
    "InceptionMixer",
    "LongVQ",
    "LowRank",
    "Mamba",
    "Mamba2",
    "Mamba3",
    "MatrixMixer",
    "Mega",
    "MinGRU",
    "MinLSTM",
    "Mixer",
    "MixerFactory",
    "MixerFacts",
    "PoNet",
    "Pool",
    "ProbSparse",
    "Quasiseparable",
    "RWKV7Channel",
    "Raft",
    "Rand",
    "RetNet",
    "SelectiveChannel",
    "SelectiveToken",
    "SepConv",
    "SlidingWindow",
    "Softmax",
    "Toeplitz",
    "Unstructured",
    "Vandermonde",
    "auxiliary_loss",
    "check_mask",
    "detach_state",
    "hybrid_layers",
    "list_mixers",
    "mixer_facts",
    "register",
    "segments_between",
    "segments_from_ids",
    "spared_parameters",
    "zero_masked",
]


def __dir__() -> list[str]:
    return sorted(__all__)
