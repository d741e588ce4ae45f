"""Sequence mixers, one class each: ``Name(d_model, max_len=None, *, options)`` on ``(B, L, D)``."""

from seqmix.mixers.aff import AFF
from seqmix.mixers.attention import Attention
from seqmix.mixers.dense import Dense, DenseMLP
from seqmix.mixers.ema import EMA, S4D
from seqmix.mixers.ffnified import FFNifiedAttention
from seqmix.mixers.fourier import FNet, FourierFilter
from seqmix.mixers.hybrid import hybrid_layers
from seqmix.mixers.hydra import Hydra
from seqmix.mixers.inception import InceptionMixer
from seqmix.mixers.longvq import LongVQ
from seqmix.mixers.mamba import Mamba
from seqmix.mixers.mamba2 import Mamba2
from seqmix.mixers.matrix import MatrixMixer
from seqmix.mixers.mixer import (
    Mixer,
    MixerFactory,
    MixerFacts,
    auxiliary_loss,
    check_mask,
    list_mixers,
    mixer_facts,
    register,
    zero_masked,
)
from seqmix.mixers.pairwise import Cauchy, LowRank, Softmax, Unstructured
from seqmix.mixers.ponet import PoNet, segments_from_ids
from seqmix.mixers.quasiseparable import Quasiseparable
from seqmix.mixers.raft import Raft
from seqmix.mixers.rand import Rand
from seqmix.mixers.selective import SelectiveChannel, SelectiveToken
from seqmix.mixers.simple import Identity, Pool, SepConv
from seqmix.mixers.toeplitz import DFT, Toeplitz, Vandermonde

__all__ = [
    "AFF",
    "DFT",
    "EMA",
    "S4D",
    "Attention",
    "Cauchy",
    "Dense",
    "DenseMLP",
    "FFNifiedAttention",
    "FNet",
    "FourierFilter",
    "Hydra",
    "Identity",
    "InceptionMixer",
    "LongVQ",
    "LowRank",
    "Mamba",
    "Mamba2",
    "MatrixMixer",
    "Mixer",
    "MixerFactory",
    "MixerFacts",
    "PoNet",
    "Pool",
    "Quasiseparable",
    "Raft",
    "Rand",
    "SelectiveChannel",
    "SelectiveToken",
    "SepConv",
    "Softmax",
    "Toeplitz",
    "Unstructured",
    "Vandermonde",
    "auxiliary_loss",
    "check_mask",
    "hybrid_layers",
    "list_mixers",
    "mixer_facts",
    "register",
    "segments_from_ids",
    "zero_masked",
]
