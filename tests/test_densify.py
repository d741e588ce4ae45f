"""Sequence mixers of a model make way for dense layers along the same axis."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from seqmix.errors import ConfigError
from seqmix.mixers import AlongFeatures, Attention, Dense, FNet, Identity, Mamba, Mixer, SelectiveChannel
from seqmix.mixers.matrix import MatrixMixer
from seqmix.models import (
    TSM2,
    Backbone,
    BidirectionalEncoder,
    ChannelMLP,
    Densify,
    EncoderClassifier,
    EncoderForecaster,
    MixerForecaster,
    PatchEncoder,
    SequenceClassifier,
    TimeEncoder,
    TokenModel,
    VariateEncoder,
    encoder_facts,
    iTransformer,
    list_encoders,
)
from seqmix.series import Series
from seqmix.tasks import (
    AnomalyDetection,
    CausalLM,
    Classification,
    Forecasting,
    ImageClassification,
    Imputation,
    MaskedLM,
    SentenceClassification,
    SeriesClassification,
    ShortTerm,
    TokenPrediction,
)
from seqmix.vision.hydra_vit import HydraViT


class Twice(nn.Module):
    """One mixer, used at two lengths, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.first = Identity(4)
        self.again = self.first
        self.idle = Identity(4)

    def forward(self, x):
        return self.again(self.first(x)[:, ::2])


def test_parity_with_justdense():
    case = torch.load(Path(__file__).parent / "goldens/hydra_family.pt", weights_only=True)["jd_attn_dense"]
    x = case["x"].double().requires_grad_()
    model = nn.Sequential(Attention(16, 12)).double()
    assert Densify(n_heads=8, residual=True)(model, {"input": x}) == [("0", "Attention", "sequence", 12, 16)]
    model.load_state_dict({"0.weight": case["state_dict"]["matrix_mixer.M"]}, strict=True)
    y = model(x)
    y.backward(case["dy"].double())
    torch.testing.assert_close(y, case["y"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(x.grad, case["grads"]["dx"], rtol=1e-9, atol=1e-9)


def test_axes_of_tsm2():
    """Time mixers see patches, variate mixers see channels; a pattern picks one of the two."""
    x = torch.randn(2, 24, 3)
    build = partial(TSM2, Series(3, 24, 4), d_model=8, n_layers=1, patch_len=4, patch_stride=4, d_state=2)
    model = build()
    time, variates = Densify(n_heads=4)(model, {"x": x})
    assert time[1:] == ("Mamba", "patches", 7, 8) and variates[1:] == ("SelectiveToken", "variates", 3, 8)
    assert model.get_submodule(time.name).weight.shape == (4, 7, 7)
    assert model.get_submodule(variates.name).weight.shape == (4, 3, 3)

    for how in (Densify(names=(variates.name,)), Densify(axis="variates")):
        model = build()
        assert how(model, {"x": x}) == [variates]
        assert isinstance(model.get_submodule(time.name), Mamba)


@pytest.mark.parametrize("name", list_encoders())
def test_every_encoder_has_a_twin(name):
    """One dense layer a block along the axis of its tokens; all its parameters learn, and the length is fixed."""
    cls, _, example = encoder_facts(name)
    model, x = EncoderForecaster(Series(3, 16, 4), encoder=partial(cls, **example)), torch.randn(2, 16, 3)
    if not any(isinstance(m, Mixer) and not m.pointwise for m in model.modules()):
        with pytest.raises(ConfigError, match=f"^{name} has no sequence mixer, so there is nothing to replace; leave"):
            Densify()(model, {"x": x})
        return
    replaced = Densify(axis=cls.axis, head_dim=2)(model, {"x": x})
    assert {r.axis for r in replaced} == {cls.axis} and {r.width for r in replaced} == {8}
    if cls.axis == "variates":
        assert {r.length for r in replaced} == {3}
    assert not any(isinstance(m, Mixer) and not m.pointwise and not isinstance(m, Dense) for m in model.modules())
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    with pytest.raises(ValueError, match="was built for real x of shape"):
        model(torch.randn(2, 15, 3))


def test_along_the_embedded_time():
    """The study's twin of iTransformer: attention over variates stays, a dense layer per variate mixes its features."""
    build = partial(EncoderForecaster, Series(3, 16, 4), encoder=partial(iTransformer, d_model=8, n_layers=1))
    model, x = build().eval(), torch.randn(2, 16, 3)
    (found,) = Densify(axis="embedded", head_dim=1)(model, {"x": x})
    assert found[1:] == ("ChannelMLP", "embedded", 8, 3)
    assert model.get_submodule(found.name).mixer.weight.shape == (3, 8, 8)
    (frame,) = model.encoder.children()
    (block,) = frame.backbone.blocks
    assert [type(m).__name__ for m in block.mixers] == ["Attention", "AlongFeatures"]
    # one block by hand: dense layers along the features of each token, between the norms of the feed-forward layer
    tokens = torch.randn(2, 3, 8)
    dense, rest = block.residuals[1].mixer.mixer, block.residuals[0](tokens, None, None)
    want = torch.einsum("nde,bne->bnd", dense.weight * 8**-0.5, rest)
    torch.testing.assert_close(block(tokens), block.residuals[1].norm(rest + want))
    with pytest.raises(ConfigError) as caught:
        Densify(axis="embedded")(EncoderForecaster(Series(3, 16, 4), encoder=TimeEncoder), {"x": x})
    assert str(caught.value) == "no mixer of TimeEncoder (Attention) mixes along axis = 'embedded'; use time"


def test_any_mixer_along_features():
    encoder = VariateEncoder(3, 16, d_model=8, n_layers=1, channel_mixer=partial(AlongFeatures, mixer=Mamba))
    assert encoder(torch.randn(2, 16, 3)).shape == (2, 3, 8)
    with pytest.raises(ConfigError, match="max_len is needed: AlongFeatures stores a mixer as wide as there are pos"):
        AlongFeatures(8)


def test_nothing_is_dead():
    """The original counts projections and norms that never reach the output: here all parameters learn."""
    x = torch.randn(2, 24, 3)
    model = MixerForecaster(Series(3, 24, 4), mixer=Mamba, d_model=8, n_layers=2, patch_len=4, patch_stride=2)
    others = sum(p.numel() for n, p in model.named_parameters() if ".residuals.0.mixer." not in n)
    replaced = Densify(n_heads=2, bias=True)(model, {"x": x})
    L = replaced[0].length
    assert [r.mixer for r in replaced] == ["Mamba", "Mamba"]
    assert sum(p.numel() for p in model.parameters()) == others + 2 * 2 * (L * L + L)
    assert sum(isinstance(m, ChannelMLP) for m in model.modules()) == 2
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_scale_zero_with_residual_is_identity():
    x = torch.randn(2, 7, 8)
    build = partial(Backbone, 8, 2, max_len=7, mixer=partial(MatrixMixer, headdim=4))
    model, plain = build(), build(mixer=Identity)
    replaced = Densify(residual=True, scale=0.0)(model, {"x": x})
    # the block goes as a whole, not the matrix inside it
    assert [r.mixer for r in replaced] == ["MatrixMixer", "MatrixMixer"]
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if n in plain.state_dict()})
    torch.testing.assert_close(model(x), plain(x))


def test_channel_mixers_stay():
    x = torch.randn(2, 7, 8)
    model = Backbone(8, 1, max_len=7, mixer=Identity, channel_mixer=SelectiveChannel)
    assert [r.mixer for r in Densify()(model, {"x": x})] == ["Identity"]


def test_shared_mixers_stay_shared_and_idle_ones_are_named():
    x = torch.randn(2, 6, 4)
    model = Twice()
    with pytest.raises(ConfigError) as caught:
        Densify()(model, {"x": x})
    assert str(caught.value) == "mixers ['idle'] take no part in the forward pass; leave them out with names=..."
    assert isinstance(model.first, Identity)
    model.idle.eval()
    assert [tuple(r) for r in Densify(names=("first", "again"))(model, {"x": x})] == [
        ("first", "Identity", "sequence", 6, 4)
    ]
    assert model.first is model.again and isinstance(model.first, Dense)
    assert model.training and model.first.training and not model.idle.training


small = partial(PatchEncoder, mixer=Mamba, d_model=8, n_layers=1)
encoder = partial(BidirectionalEncoder, mixer=FNet, d_model=8, n_layers=1, max_len=9)
TASKS = {
    "classification": lambda: Classification(partial(SequenceClassifier, mixer=Mamba, d_model=8, n_layers=1), 7, 2, 9),
    "pairs": lambda: Classification(partial(SequenceClassifier, mixer=FNet, d_model=8, n_layers=1), 7, 2, 9, True),
    "tokens": lambda: TokenPrediction(FNet, 7, 9, d_model=8, n_layers=1),
    "masked": lambda: MaskedLM(encoder, 7, 9),
    "sentences": lambda: SentenceClassification(encoder, 7, 2, 9),
    "forecasting": lambda: Forecasting(partial(TSM2, d_model=8, n_layers=1), Series(2, 16, 4)),
    "series": lambda: SeriesClassification(partial(EncoderClassifier, encoder=small), 2, 3, 16),
    "imputation": lambda: Imputation(partial(EncoderForecaster, encoder=small), Series(2, 16, 4)),
    "detection": lambda: AnomalyDetection(partial(EncoderForecaster, encoder=small), Series(2, 15, 1)),
    "short term": lambda: ShortTerm(partial(EncoderForecaster, encoder=small), Series(1, 16, 4)),
    "images": lambda: ImageClassification(
        partial(HydraViT, d_model=8, n_layers=1, patch_size=8, mixer=FNet), 3, 1, input_cfg={"input_size": (1, 32, 32)}
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_with_sequence_mixers(name):
    task = TASKS[name]()
    task.densify(Densify(bias=True))
    mixers = {type(m).__name__ for m in task.modules() if isinstance(m, Mixer) and not m.pointwise}
    assert mixers == {"Dense"} and task(**task.example()).isfinite().all()
    # a checkpoint makes the same model again
    checkpoint = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    again = TASKS[name]()
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"])
    assert again.densified == task.densified == Densify(bias=True)


@pytest.mark.parametrize(
    "model",
    [
        lambda: TokenModel(7, 9, mixer=Mamba, d_model=8, n_layers=2),
        lambda: CausalLM(partial(TokenModel, mixer=Mamba, d_model=8, n_layers=2), 7, 9).model,
    ],
)
def test_a_causal_model_stays_causal(model):
    model = model()
    with pytest.raises(ConfigError) as caught:
        Densify()(model, {"tokens": torch.zeros(1, 9, dtype=torch.long)})
    names = [f"backbone.blocks.{i}.residuals.0.mixer (Mamba)" for i in range(2)]
    assert str(caught.value) == (
        f"a dense layer in place of {', '.join(names)} would see later positions, which a causal model must not; "
        "densify a model of bidirectional mixers"
    )
    assert not any(isinstance(m, Dense) for m in model.modules())
    task = CausalLM(partial(TokenModel, mixer=Mamba, d_model=8, n_layers=2), 7, 9)
    with pytest.raises(ConfigError, match="would see later positions"):
        task.densify()


def test_without_a_length_nothing_is_densified():
    with pytest.raises(ConfigError, match="TokenPrediction needs data that knows max_len to be densified"):
        TokenPrediction(FNet, 7, d_model=8, n_layers=1, positions=False).densify()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("head*",)}, "no mixer in Backbone matches names = ['head*']; use names=('*',)"),
        ({"n_heads": 3}, "n_heads = 3 does not divide the 8 channels that blocks.0.residuals.0.mixer mixes; use a di"),
        ({"head_dim": 3}, "head_dim = 3 does not divide the 8 channels that blocks.0.residuals.0.mixer mixes; use a d"),
        ({"axis": "time"}, "no mixer of Backbone mixes along axis = 'time'; use sequence"),
        ({"axis": "channels"}, "axis = 'channels' is not known; use one of time, patches, variates, embedded"),
        ({"n_heads": 2, "head_dim": 4}, "n_heads = 2 and head_dim = 4 both give the number of matrices; use one"),
    ],
)
def test_errors(options, message):
    model = Backbone(8, 1, max_len=7, mixer=Identity)
    before = str(model)
    with pytest.raises(ConfigError) as caught:
        Densify(**options)(model, {"x": torch.randn(2, 7, 8)})
    assert str(caught.value).startswith(message) and str(model) == before
