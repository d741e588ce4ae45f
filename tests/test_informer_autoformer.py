"""ProbSparse attention, auto-correlation and the models around them: formulas by hand, masks, errors."""

import math
from functools import partial

import pytest
import torch

from seqmix.errors import ConfigError
from seqmix.mixers import Attention, AutoCorrelation, ProbSparse
from seqmix.mixers.prob_sparse import attend_sparsely, spread_keys
from seqmix.models import (
    AutoformerForecaster,
    DecoderForecaster,
    Densify,
    EncoderForecaster,
    Informer,
    TimesNet,
    Transformer,
)
from seqmix.models.autoformer import decompose
from seqmix.models.informer import Halving
from seqmix.series import Series
from seqmix.testing import assert_close_ratio


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def test_all_queries_of_a_short_sequence_attend():
    """15 positions have no query to leave out at factor 5: softmax attention."""
    sparse, full = ProbSparse(8, n_heads=2).double(), Attention(8, n_heads=2, qkv_bias=True, bias=True).double()
    full.load_state_dict(sparse.state_dict())
    x = normal(2, 15, 8)
    assert_close_ratio("output", sparse(x), full(x), 1e-12)
    assert_close_ratio("weights", sparse.matrix(x), full.matrix(x), 1e-12)
    x = normal(2, 16, 8)
    assert not torch.allclose(sparse(x), full(x))


@pytest.mark.parametrize("triangular", [False, True])
def test_uneven_queries_attend_and_the_others_take_the_mean(triangular):
    q, k, v = normal(1, 1, 12, 4), normal(1, 1, 12, 4), normal(1, 1, 12, 3)
    y = attend_sparsely(q, k, v, factor=1, sampled=False, triangular=triangular)[0, 0]
    scores = q[0, 0] @ k[0, 0].T
    rating = [float(s.max() - s.mean()) for s in scores]
    attending = sorted(range(12), key=rating.__getitem__)[-math.ceil(math.log(12)) :]
    for i in range(12):
        seen = i + 1 if triangular else 12
        weights = (scores[i, :seen] / 2).softmax(-1)
        rest = v[0, 0, :seen].sum(0) if triangular else v[0, 0].mean(0)
        torch.testing.assert_close(y[i], weights @ v[0, 0, :seen] if i in attending else rest)


@pytest.mark.parametrize("length", [40, 200])
def test_keys_are_sampled_evenly(length):
    """Each query sees other keys, all keys are seen about as often, and both ways to score them agree."""
    seen = spread_keys(length, length, 20, torch.device("cpu"))
    counts = seen.flatten().bincount(minlength=length)
    assert seen.unique(dim=0).shape == seen.shape and counts.min() >= 18 and counts.max() <= 22
    # a width of 64 scores all keys, of 1 the sampled ones only: padding the width changes nothing
    q, k, v = (normal(1, 2, length, n) for n in (1, 1, 3))
    wide = [torch.nn.functional.pad(t, (0, 63)) for t in (q * 8, k)]
    assert_close_ratio("wide", attend_sparsely(*wide, v, factor=1), attend_sparsely(q, k, v, factor=1), 1e-12)


@pytest.mark.parametrize("length", [24, 25])
def test_lags_are_those_of_the_period(length):
    """The loop of eq. 6; a sine of period 8 agrees with itself at 8 and 16."""
    mixer = AutoCorrelation(2, factor=1).double()
    x = normal(1, length, 2)
    q, k, v = mixer.qkv(x)[0].chunk(3, -1)
    correlation = torch.stack([(q * k.roll(lag, 0)).sum() / 2 for lag in range(length)])
    top, lags = correlation.topk(3)
    y = sum(w * v.roll(-int(lag), 0) for w, lag in zip(top.softmax(0), lags, strict=True))
    assert_close_ratio("formula", mixer(x)[0], mixer.proj(y), 1e-12)
    with torch.no_grad():
        mixer.qkv.weight[2:4] = mixer.qkv.weight[:2]
        mixer.qkv.bias.zero_()
    wave = torch.sin(torch.arange(24).double() * 2 * math.pi / 8).view(1, -1, 1).expand(1, 24, 2)
    assert mixer.matrix(wave)[0, 0, 0].nonzero().flatten().tolist() == [0, 8, 16]


def test_halving_with_padding():
    """The tokens of a padded sequence that no padding can reach are those of the sequence without padding."""
    halving = Halving(4).double().eval()
    x, kept = normal(1, 12, 4), torch.arange(12).unsqueeze(0) < 7
    y, mask = halving(x.masked_fill(~kept.unsqueeze(-1), torch.nan), kept)
    alone, _ = halving(x[:, :7])
    assert y.shape == (1, 6, 4) and mask.tolist() == [[True] * 4 + [False] * 2] and not y[0, 4:].any()
    # the convolution goes around the end
    assert_close_ratio("inner tokens", y[:, 1:3], alone[:, 1:3], 1e-12)


def test_trend_of_kept_steps_only():
    x, kept = normal(1, 12, 4), torch.arange(12).unsqueeze(0) < 7
    seasonal, trend = decompose(x.masked_fill(~kept.unsqueeze(-1), 0), 5, kept)
    assert_close_ratio("inner steps", trend[:, :5], decompose(x[:, :7], 5)[1][:, :5], 1e-12)
    assert_close_ratio("last step", trend[0, 6], x[0, 4:7].mean(0), 1e-12)
    assert not trend[0, 7:].any() and not seasonal[0, 7:].any()


def test_dense_layers_of_informer_have_the_length_of_their_layer():
    """Three layers on 21 steps: in the study's code the one length of the window fits the first of them only."""
    model = EncoderForecaster(Series(3, 21, 4), encoder=partial(Informer, d_model=8, n_layers=3, n_heads=2))
    replaced = Densify()(model, {"x": torch.randn(2, 21, 3)})
    assert [r.length for r in replaced] == [21, 11, 6] and model.encoder.n_tokens == 6
    assert model(torch.randn(2, 21, 3)).shape == (2, 4, 3)


def test_densify_leaves_the_decoder():
    encoder = partial(Transformer, d_model=8, n_layers=1, n_heads=2)
    model = DecoderForecaster(Series(3, 16, 4), encoder=encoder, n_heads=2)
    assert model.label == "Transformer (decoder)"
    assert [r.name for r in Densify()(model, {"x": torch.randn(2, 16, 3)})] == [
        "encoder.frame.backbone.blocks.0.residuals.0.mixer"
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProbSparse(8, n_heads=3), "d_model = 8 is not a multiple of n_heads = 3; change one"),
        (lambda: AutoCorrelation(8, factor=0), "factor = 0 should be above 0; use 1 to 3"),
        (lambda: DecoderForecaster(Series(3, 8, 4), label_len=9), "label_len = 9 does not fit context = 8; use 1 to 8"),
        (lambda: DecoderForecaster(Series(3, 8, 4), n_heads=7), "d_model = 128 is not a multiple of n_heads = 7; chan"),
        (lambda: AutoformerForecaster(Series(3, 8, 4), kernel_size=4), "kernel_size = 4 has no middle; use a positive"),
        (
            lambda: TimesNet(3, 1),
            "TimesNet folds a window at its periods, and length = 1 has none; use 2 steps or",
        ),
    ],
)
def test_options_that_do_not_fit(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value).startswith(message)
