"""What every registered encoder of series has to do, and the heads that read its tokens."""

import re
from functools import partial

import pytest
import torch
from torch import nn

from seqmix.errors import ConfigError
from seqmix.mixers import Bidirectional, Dense, list_mixers, mixer_facts, zero_masked
from seqmix.models import (
    EncoderClassifier,
    EncoderForecaster,
    MaskedBatchNorm,
    PatchEncoder,
    PatchTST,
    SeriesEncoder,
    SMamba,
    TimeEncoder,
    Transformer,
    VariateEncoder,
    encoder_facts,
    forecast_factory,
    iTransformer,
    list_encoders,
)
from seqmix.series import Series
from seqmix.testing import CHECKS, check_compile, check_encoder, check_model

SMALL = {"d_model": 8, "n_layers": 1}


@pytest.mark.parametrize("name", list_encoders())
def test_contract(name):
    cls, paper, example = encoder_facts(name)
    make = partial(cls, **example)
    check_encoder(make)
    assert paper and "Source:" in (cls.__doc__ or "")
    # every axis has a head, and short windows need no option
    for series in (Series(3, 21, 5, n_outputs=2), Series(2, 3, 3)):
        model = EncoderForecaster(series, encoder=partial(cls, **{k: v for k, v in example.items() if k in SMALL}))
        y = model.eval()(torch.randn(2, series.context, series.n_channels))
        assert y.shape[:3] == (2, series.horizon, series.n_channels) and y.isfinite().all()
        assert model.label.startswith(name)


@pytest.mark.parametrize("encoder", [TimeEncoder, PatchEncoder, VariateEncoder])
def test_any_mixer_on_any_axis(encoder):
    """Mixers that store a matrix get the number of tokens that they see."""
    factories = {name: partial(mixer_facts(name).cls, **mixer_facts(name).examples[0]) for name in list_mixers()}
    x, tokens = torch.randn(2, 21, 16), {}
    for name, mixer in {**factories, "Bidirectional Mamba": Bidirectional}.items():
        made = encoder(16, 21, mixer=mixer, d_model=16, n_layers=1)
        (found,) = made.backbone.mixers
        y = made.eval()(x)
        assert y.shape == (2, made.n_tokens, 16) and y.isfinite().all(), name
        assert made.label == f"{encoder.__name__} ({found.label})" and name in made.label
        tokens[name] = getattr(found, "max_len", None)
    assert tokens["Dense"] == {"time": 21, "patches": made.n_tokens // 16, "variates": 16}[made.axis]


def test_both_directions():
    for check in CHECKS:
        if check is not check_compile:
            check(Bidirectional)


def test_a_forecast_by_the_name_of_an_encoder():
    model = forecast_factory("PatchTST", {"d_model": 8, "n_heads": 2})(Series(2, 16, 4))
    assert isinstance(model, EncoderForecaster) and model.encoder.d_model == 8 and model.label == "PatchTST"
    assert not EncoderForecaster.channels_meet({"encoder": partial(PatchTST, d_model=8)})
    assert EncoderForecaster.channels_meet({"encoder": iTransformer})
    check_model(partial(EncoderForecaster, encoder=partial(PatchEncoder, **SMALL)))


@pytest.mark.parametrize("encoder", [Transformer, PatchTST, iTransformer])
def test_padding_does_not_reach_classes(encoder):
    """Series of different lengths in one batch are classified as each by itself."""
    example = encoder_facts(encoder.__name__)[2]
    for pool in ("flatten", "mean"):
        model = EncoderClassifier(3, 4, 21, encoder=partial(encoder, **example), pool=pool).eval()
        x, mask = torch.randn(2, 21, 3), torch.arange(21) < torch.tensor([[21], [12]])
        y = model(x.masked_fill(~mask.unsqueeze(-1), 9), mask)
        assert y.shape == (2, 4) and model.label == encoder.__name__
        torch.testing.assert_close(model(x[1:, :12]), y[1:])


def test_statistics_of_kept_tokens():
    norm = MaskedBatchNorm(4)
    x, mask = torch.randn(3, 5, 4), torch.rand(3, 5) < 0.6
    y = norm(x.masked_fill(~mask.unsqueeze(-1), torch.inf), mask)
    torch.testing.assert_close(y[mask], nn.functional.batch_norm(x[mask], None, None, training=True))
    assert not y[~mask].any() and norm.running_mean.isfinite().all()
    # one token, or none, has no statistics of its own
    before = norm.running_mean.clone()
    for rows in (mask & False, torch.eye(3, 5, dtype=torch.bool) & (torch.arange(3) < 1)[:, None]):
        assert norm(x, rows).isfinite().all() and torch.equal(norm.running_mean, before)


def test_a_step_read_off_its_own_token():
    """Without a map along time the head has no weights beside those from features to channels."""
    model = EncoderForecaster(Series(3, 8, 8), encoder=partial(Transformer, **SMALL), along_time=False)
    assert [name for name, _ in model.head.named_parameters()] == ["proj.weight", "proj.bias"]
    torch.testing.assert_close(model.eval()(x := torch.randn(2, 8, 3)), model.head.proj(model.encoder(x)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: EncoderForecaster(Series(3, 8, 4), encoder=Transformer, along_time=False),
            "along_time = False gives one step for each of 8 tokens, and horizon = 4; leave it out",
        ),
        (
            lambda: EncoderForecaster(Series(3, 8, 8), encoder=iTransformer, along_time=False),
            "along_time = False is for tokens that are time steps, those of iTransformer are variates; leave it out",
        ),
        (
            lambda: PatchTST(3, 8, patch_len=9),
            "patch_len = 9 does not fit context = 8; use a shorter patch",
        ),
        (lambda: TimeEncoder(3, 8, positions="fixed"), "positions = 'fixed' is not known; use one of none, learned, "),
        (lambda: SMamba(0, 8), "n_channels = 0 is below 1; use n_channels=1 or more"),
        (lambda: iTransformer(3, 8, n_heads=0), "n_heads = 0 is below 1; use n_heads=1 or more"),
    ],
)
def test_options_that_do_not_fit(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("shape", [(2, 8, 4), (2, 9, 3), (8, 3)])
def test_windows_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError) as error:
        TimeEncoder(3, 8, mixer=Dense)(torch.randn(shape))
    assert str(error.value) == (
        f"TimeEncoder was built for real x of shape (B, 8, 3), got torch.float32 {shape}; build it for that"
    )


class Steps(SeriesEncoder):
    """A linear map of each step: keeps the contract."""

    axis = "time"

    def __init__(self, n_channels: int, length: int, *, d_model: int = 8):
        """Args:
        d_model: width of a token.
        """
        super().__init__(n_channels, length, d_model)
        self.n_tokens = length
        self.proj = nn.Linear(n_channels, d_model)

    def forward(self, x, mask=None):
        return zero_masked(self.proj(x), mask)


class Few(Steps):
    def forward(self, x, mask=None):
        return super().forward(x)[:, 1:]


class Sees(Steps):
    def __call__(self, x, mask=None):
        return self.forward(x)


class Loud(Steps):
    def forward(self, x, mask=None):
        return self.proj(x)


class Apart(Steps):
    mixes_channels = False


class Named(Steps):
    axis = "variates"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Few, "tokens: Few makes (3, 20, 8) of 3 windows, and has n_tokens = 21, d_model = 8; return (B, n_tokens, d"),
        (Sees, "mask: Sees sees what is masked; pass the mask on to its mixers"),
        (Loud, "mask: kept of Loud has shape (3, 21) for tokens (3, 21, 8), and tokens that it leaves out should be"),
        (Apart, "channels: Apart says mixes_channels = False and does the opposite; set it in the class"),
        (Named, "tokens: axis = 'variates' of Named does not go with 21 tokens of 3 channels; use time, patches"),
    ],
)
def test_a_broken_encoder_is_caught(broken, message):
    check_encoder(Steps)
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_encoder(broken)
