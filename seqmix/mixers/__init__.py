"""Sequence mixers, one class each: ``Name(d_model, max_len=None, *, options)`` on ``(B, L, D)``."""

from seqmix.mixers._base import (
    Mixer,
    MixerFactory,
    MixerFacts,
    check_mask,
    list_mixers,
    mixer_facts,
    register,
    zero_masked,
)
from seqmix.mixers.attention import Attention
from seqmix.mixers.dense import Dense, DenseMLP
from seqmix.mixers.fourier import FNet, FourierFilter
from seqmix.mixers.mamba import Mamba
from seqmix.mixers.selective import SelectiveChannel, SelectiveToken
from seqmix.mixers.simple import Identity, Pool, SepConv

__all__ = [
    "Attention",
    "Dense",
    "DenseMLP",
    "FNet",
    "FourierFilter",
    "Identity",
    "Mamba",
    "Mixer",
    "MixerFactory",
    "MixerFacts",
    "Pool",
    "SelectiveChannel",
    "SelectiveToken",
    "SepConv",
    "check_mask",
    "list_mixers",
    "mixer_facts",
    "register",
    "zero_masked",
]
