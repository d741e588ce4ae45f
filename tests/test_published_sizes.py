"""Parameter counts of published layers and models, on a device without memory; exact."""

from functools import partial

import pytest
import torch
from torch import nn

from seqmix.mixers import (
    EMA,
    Attention,
    Cauchy,
    Dense,
    FNet,
    Hydra,
    Identity,
    LongVQ,
    LowRank,
    Mamba,
    Mamba2,
    MatrixMixer,
    PoNet,
    Quasiseparable,
    SelectiveChannel,
    SelectiveToken,
    Softmax,
    Toeplitz,
    Unstructured,
    Vandermonde,
)
from seqmix.mixers.dft import DFT
from seqmix.mixers.hybrid import hybrid_layers
from seqmix.models import Backbone, BidirectionalEncoder, BidirectionalLM, ChannelMLP


def size(*make):
    with torch.device("meta"):
        return sum(p.numel() for f in make for p in f().parameters())


@pytest.mark.parametrize(
    ("layer", "want"),
    [
        (partial(Hydra, 768), 3_825_224),
        (partial(Hydra, 768, bias=True, learnable_init_states=True), 3_825_224 + 3_376 + 768 + 24 * 64 * 64),
        (partial(Mamba2, 768, d_state=64), 3_665_608),
        (partial(Mamba2, 768), 3_764_552),
        (partial(Mamba, 16), 3_360),
        (partial(Mamba, 32), 9_920),
        (partial(Mamba, 64), 32_640),
        (partial(Mamba, 128), 116_480),
        (partial(Mamba, 768), 3_770_880),
        (partial(SelectiveToken, 32), 9_920),
        (partial(SelectiveToken, 16, bidirectional=True), 5_184),
        (partial(SelectiveToken, 32, bidirectional=True), 13_696),
        (partial(SelectiveToken, 64, bidirectional=True), 40_704),
        (partial(SelectiveToken, 128, bidirectional=True), 134_656),
        (partial(SelectiveChannel, 96), 2 * 96 * 192 + 192 * 96 + 114),
        (partial(SelectiveChannel, 768, width=768), 1_771_122 - 2 * 768),
        (partial(EMA, 12, d_state=16), 4 * 12 * 16 + 12),
        (partial(EMA, 12, d_state=16, causal=False), 4 * 2 * 12 * 16 + 12),
        (partial(FNet, 8), 0),
        (partial(Identity, 8), 0),
    ],
)
def test_layers(layer, want):
    assert size(layer) == want


def hydra_lm(mixer, D=768, n_layers=12, positions=False):
    """The masked language model of Hydra: no MLPs, 128 tokens."""
    encoder = BidirectionalEncoder(30_528, D, n_layers, mixer=mixer, max_len=128, positions=positions)
    return BidirectionalLM(encoder)


@pytest.mark.parametrize(
    ("mixer", "n_layers", "want"),
    [
        (Hydra, 23, 112_086_712),
        (Hydra, 24, 115_913_472),
        (Hydra, 12, 69_992_352),
        (partial(Mamba2, d_state=64), 12, 68_076_960),
    ],
)
def test_hydra_models(mixer, n_layers, want):
    assert size(partial(hydra_lm, mixer, n_layers=n_layers)) == want


# data-dependent 16 columns per head of 128, free ones 64 and 64, where the configurations do not say otherwise
FREE, MADE = {"data_dependent": False, "qk_dim": 64, "headdim": 64}, {"qk_dim": 16, "headdim": 128}


@pytest.mark.parametrize(
    ("matrix", "options", "D", "positions", "layer", "model"),
    [
        (Unstructured, {**FREE, "headdim": 128}, 768, False, 3_749_376, 69_082_176),
        (Toeplitz, FREE, 800, False, 3_860_775, 71_447_028),
        (Toeplitz, {**MADE, "headdim": 64}, 800, False, 3_894_800, 71_855_328),
        (DFT, FREE, 800, False, 3_854_400, 71_370_528),
        (Vandermonde, MADE, 768, False, 3_850_752, 70_298_688),
        (Cauchy, FREE, 768, False, 3_945_984, 71_441_472),
        (Cauchy, MADE, 768, True, 3_850_753, 70_397_004),
        (LowRank, FREE, 768, False, 3_945_984, 71_441_472),
        (LowRank, MADE, 768, True, 3_850_752, 70_396_992),
        (Softmax, FREE, 768, False, 3_945_984, 71_441_472),
        (Softmax, MADE, 768, True, 3_850_752, 70_396_992),
        (Quasiseparable, FREE, 768, False, 3_982_920, 71_884_704),
        (Quasiseparable, MADE, 768, False, 3_887_652, 70_741_488),
    ],
)
def test_matrix_mixer_ablation(matrix, options, D, positions, layer, model):
    mixer = partial(MatrixMixer, matrix=matrix, **options)
    assert size(partial(mixer, D, 128)) == layer
    assert size(partial(hydra_lm, mixer, D, positions=positions)) == model


def fnet_lm(mixer=FNet, D=768, n_layers=12, n_attention=0):
    """The pre-training model of FNet: masked tokens and next sentence, 512 tokens."""
    attention = partial(Attention, n_heads=D // 64, qkv_bias=True, bias=True)
    encoder = BidirectionalEncoder(
        32_000,
        D,
        n_layers,
        mixer=mixer,
        layers=hybrid_layers(n_layers, n_attention, mixer=mixer, attention=attention),
        channel_mixer=partial(ChannelMLP, activation=partial(nn.GELU, approximate="tanh")),
        max_len=512,
        positions=True,
        n_types=4,
        projection=True,
        pooler=True,
        norm_eps=1e-12,
    )
    return BidirectionalLM(encoder, n_relations=2, gelu="tanh")


LINEAR = partial(Dense, scale=1.0, hidden=True)


@pytest.mark.parametrize(
    ("options", "encoder", "model"),
    [
        ({}, 82_861_056, 83_486_722),
        ({"D": 1024, "n_layers": 24}, 236_945_408, 238_031_106),
        ({"mixer": LINEAR}, None, 93_710_338),
        ({"mixer": LINEAR, "D": 1024, "n_layers": 24}, None, 269_488_386),
        ({"n_attention": 12}, None, 111_835_138),
        ({"D": 1024, "n_layers": 24, "n_attention": 24}, None, 338_792_706),
        # each layer of attention adds four maps with their biases
        ({"n_attention": 2}, None, 83_486_722 + 2 * 2_362_368),
        ({"mixer": LINEAR, "n_attention": 3}, None, 93_710_338 + 3 * (2_362_368 - 512**2 - 768**2)),
    ],
)
def test_fnet_models(options, encoder, model):
    assert size(partial(fnet_lm, **options)) == model
    if encoder:
        assert size(lambda: fnet_lm(**options).bert) == encoder


@pytest.mark.parametrize(
    ("options", "gated", "want"),
    [
        # the model of Devlin et al., as its checkpoints have it, and in Hydra's table with a vocabulary of 30,528
        ({"vocab_size": 30_522, "positions": True}, False, 109_514_298),
        ({"vocab_size": 30_528, "positions": True}, False, 109_514_298 + 6 * (768 + 1)),
        # MosaicBERT, 137M: no positions, gated, linear biases
        ({"vocab_size": 30_528}, True, 137_400_384),
    ],
)
def test_bert_base(options, gated, want):
    attention = partial(Attention, n_heads=12, qkv_bias=True, bias=True, alibi=gated)
    mlp = partial(ChannelMLP, gated=gated)
    encoder = partial(BidirectionalEncoder, d_model=768, n_layers=12, mixer=attention, channel_mixer=mlp, max_len=512)
    assert size(lambda: BidirectionalLM(encoder(**options))) == want


def test_ponet_base():
    def model():
        mixer = partial(PoNet, n_heads=12, project=True)
        encoder = BidirectionalEncoder(
            30_522, 768, 12, mixer=mixer, channel_mixer=ChannelMLP, max_len=512, positions=True, pooler=True
        )
        return BidirectionalLM(encoder, n_relations=3)

    assert size(lambda: model().bert.encoder["layer"][0]) == 8_269_056
    assert size(lambda: model().bert) == 123_656_448
    assert size(model) == 124_281_405


@pytest.mark.parametrize(
    ("vocab_size", "L", "features", "classes", "ponet", "softmax"),
    [
        (32, 2048, 64, 10, 226_442, 209_802),
        (512, 4096, 64, 2, 387_202, 370_562),
        (512, 4096, 256, 2, 411_778, 395_138),
        (512, 1024, 64, 10, 191_626, 174_986),
        (512, 1024, 64, 2, 190_594, 173_954),
    ],
)
def test_long_range_arena_models(vocab_size, L, features, classes, ponet, softmax):
    attention = partial(Attention, n_heads=2, qkv_bias=True, bias=True)
    mlp = partial(ChannelMLP, expand=2)
    around = [partial(nn.Embedding, n, 64) for n in (vocab_size, L)]
    around += [partial(nn.Linear, features, 128), partial(nn.Linear, 128, classes)]
    for mixer, want in ((partial(PoNet, n_heads=2, variant="lra"), ponet), (attention, softmax)):
        assert size(*around, partial(Backbone, 64, 2, max_len=L, mixer=mixer, channel_mixer=mlp)) == want


def test_mamba_language_model():
    stack = partial(Backbone, 768, 24, mixer=Mamba, channel_mixer=None, norm="rms")
    assert size(stack, partial(nn.Embedding, 50_280, 768)) == 129_135_360


def test_longvq_on_listops():
    """The whole stack of blocks that normalize after each sum; other norms are counted layer by layer below."""
    mixer = partial(LongVQ, d_qk=64, d_value=160, window=128)
    mlp = partial(ChannelMLP, expand=2, activation=nn.SiLU)
    stack = partial(Backbone, 80, 6, mixer=mixer, channel_mixer=mlp, post_norm=True, final_norm=False)
    assert size(stack) == 563_622


@pytest.mark.parametrize(
    ("D", "F", "P", "norm", "want"),
    [
        (80, 160, 64, "layer", 93_937),
        (128, 256, 64, "scale", 223_171),
        (160, 320, 96, "batch", 346_177),
        (128, 256, 64, "batch", 223_681),
        (64, 128, 32, "batch", 60_769),
    ],
)
def test_longvq_layers_of_the_long_range_arena(D, F, P, norm, want):
    mixer = partial(LongVQ, D, d_qk=P, d_value=F, window=128, norm=norm)
    assert size(mixer, lambda: mixer().norm, partial(nn.Linear, D, F), partial(nn.Linear, F, D)) == want


def test_mega_on_speech_commands():
    """With a window of max_len - 1 the tables of LongVQ are those of Mega: published as 476 K."""
    D, F, classes = 72, 144, 10
    mixer = partial(LongVQ, D, d_qk=36, d_value=F, window=999, norm="batch")
    layer = [mixer, lambda: mixer().norm, partial(nn.Linear, D, F), partial(nn.Linear, F, D)]
    head = [partial(nn.Linear, D, 2 * D), partial(nn.Linear, 2 * D, classes, bias=False)]
    assert size(*6 * layer, partial(nn.Linear, 1, D), partial(nn.BatchNorm1d, D), *head) == 475_890
