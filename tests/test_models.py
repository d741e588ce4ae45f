"""Norms, patches, blocks, backbone and the baseline forecasters against their equations."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.mixers import Dense, Mixer, zero_masked
from seqmix.models import (
    Backbone,
    BatchNormLast,
    Block,
    ChannelMLP,
    DLinear,
    DropPath,
    MixerForecaster,
    Norm2D,
    PatchEmbedding,
    SeasonalNaive,
)
from seqmix.models.embed import CovariateEmbedding
from seqmix.models.forecasters import moving_average
from seqmix.series import Series


class Mean(Mixer):
    """Every position gets the mean of the kept ones: any leak through a mask shows everywhere."""

    def __init__(self, d_model: int, max_len: int | None = None, *, gain: float = 1.0):
        super().__init__()
        self.d_model, self.max_len, self.gain = d_model, max_len, gain

    def forward(self, x, mask=None):
        keep = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        mean = zero_masked(x, keep).sum(1, keepdim=True) / keep.sum(1)[:, None, None]
        return zero_masked(self.gain * mean.expand_as(x), keep)


@pytest.mark.parametrize("per_feature,axes", [(False, (1, 2, 3)), (True, (1, 2))])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 7, 1, 2)])
def test_norm2d(per_feature, axes, shape):
    norm, x = Norm2D(shape[-1], per_feature=per_feature), torch.randn(shape) * 3 + 2
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    torch.testing.assert_close(norm(x), (x - mean) / (var + 1e-5).sqrt() * norm.weight + norm.bias)


def test_batch_norm_is_per_feature_and_keeps_running_statistics():
    norm, plain, x = BatchNormLast(4), nn.BatchNorm1d(4), torch.randn(2, 3, 5, 4) * 2 + 1
    torch.testing.assert_close(norm(x), plain(x.flatten(0, 2)).view_as(x))
    torch.testing.assert_close(norm.eval()(x), plain.eval()(x.flatten(0, 2)).view_as(x))


@pytest.mark.parametrize(
    "length,patch,stride", [(16, 16, 8), (512, 16, 8), (22, 8, 4), (21, 4, 3), (7, 5, 1), (9, 2, 4)]
)
def test_patches_repeat_the_last_value(length, patch, stride):
    embed, x = PatchEmbedding(6, patch_len=patch, patch_stride=stride), torch.randn(2, 3, length)
    tokens = embed(x)
    n = (length - patch) // stride + 2
    assert tokens.shape == (2, 3, n, 6) and embed.n_patches(length) == n
    for i in range(n):
        index = (torch.arange(patch) + i * stride).clamp(max=length - 1)
        torch.testing.assert_close(tokens[:, :, i], embed.proj(x[..., index]))


def test_patches_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="patch_len = 16 does not fit context = 12"):
        MixerForecaster(Series(2, 12, 4), patch_len=16)
    with pytest.raises(ConfigError, match="patch_stride = 0 is below 1"):
        MixerForecaster(Series(2, 32, 4), patch_stride=0)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_block_is_two_prenorm_residuals(norm):
    block, x = Block(4, mixer=Mean, norm=norm), torch.randn(2, 5, 4)

    def normed(x):
        return F.layer_norm(x, (4,)) if norm == "layer" else x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    mlp = block.residuals[1].mixer
    assert isinstance(mlp, ChannelMLP) and mlp.up.out_features == 16
    y = x + normed(x).mean(1, keepdim=True)
    torch.testing.assert_close(block(x), y + mlp(normed(y)))


def test_block_options():
    x = torch.randn(2, 5, 4)

    def single(**options):
        return Block(4, mixer=Mean, channel_mixer=None, **options)(x)

    mean = F.layer_norm(x, (4,)).mean(1, keepdim=True)
    torch.testing.assert_close(single(), x + mean)
    torch.testing.assert_close(single(layer_scale=0.1), x + 0.1 * mean)
    torch.testing.assert_close(single(res_scale=0.5), 0.5 * x + mean)
    torch.testing.assert_close(single(post_norm=True), F.layer_norm(x + x.mean(1, keepdim=True), (4,)))
    # with everything dropped only the skip is left
    torch.testing.assert_close(single(dropout=1.0), x)
    scales = dict(Block(4, mixer=Mean, layer_scale=0.1, res_scale=1.0).named_parameters())
    assert sum("scale" in k or "skip" in k for k in scales) == 4


def test_drop_path_drops_samples_and_keeps_the_mean():
    x, drop = torch.ones(4000, 2, 3), DropPath(0.25)
    y = drop(x)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert abs(y.mean().item() - 1) < 0.05
    assert drop.eval()(x) is x


def test_channel_mlp_zeroes_masked_positions_whatever_they_hold():
    mlp, x = ChannelMLP(4, expand=1.5, activation=nn.ReLU), torch.randn(1, 3, 4)
    expected = mlp(x)
    x[:, 2] = float("nan")
    y = mlp(x, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(y[:, :2], expected[:, :2])
    assert not y[:, 2].any() and mlp.up.out_features == 6
    y.sum().backward()
    assert mlp.up.weight.grad.isfinite().all()


def test_backbone_calls_the_factory_once_per_block():
    calls = []

    def factory(gain):
        def make(d_model, max_len=None):
            calls.append((gain, d_model, max_len))
            return Mean(d_model, max_len, gain=gain)

        return make

    backbone = Backbone(4, 5, max_len=9, mixer=Mean, layers=[factory(1.0), factory(2.0)], drop_path=0.4)
    assert calls == [(g, 4, 9) for g in (1.0, 2.0, 1.0, 2.0, 1.0)]
    mixers = [block.residuals[0].mixer for block in backbone.blocks]
    assert len(set(mixers)) == 5
    rates = [m.p for m in backbone.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("post_norm", [False, True])
def test_backbone_with_padding_equals_sequences_alone(side, post_norm):
    backbone = Backbone(4, 3, mixer=Mean, post_norm=post_norm)
    nn.init.normal_(backbone.norm.bias)
    x, n = torch.randn(2, 7, 4), 5
    kept = slice(7 - n, 7) if side == "left" else slice(0, n)
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[0], mask[1, kept] = True, True
    padded = x.clone()
    padded[~mask] = float("nan")
    y = backbone(padded, mask)
    torch.testing.assert_close(y[:1], backbone(x[:1]))
    torch.testing.assert_close(y[1:, kept], backbone(x[1:, kept]))
    assert not y[~mask].any()
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


def test_backbone_without_final_norm_and_bad_sizes():
    backbone, x = Backbone(4, 1, mixer=Mean, channel_mixer=None, final_norm=False), torch.randn(1, 3, 4)
    torch.testing.assert_close(backbone(x), x + F.layer_norm(x, (4,)).mean(1, keepdim=True))
    with pytest.raises(ConfigError, match="n_layers = 0"):
        Backbone(4, 0, mixer=Mean)
    with pytest.raises(ConfigError, match="norm = 'batch' is not known; use one of layer, rms"):
        Backbone(4, 1, mixer=Mean, norm="batch")
    with pytest.raises(ConfigError, match="layers is an empty list"):
        Backbone(4, 1, mixer=Mean, layers=[])


def test_mixer_forecaster_hands_the_number_of_patches_to_the_mixer():
    model = MixerForecaster(Series(2, 21, 5), mixer=Dense, patch_len=4, patch_stride=3, d_model=8)
    assert model(torch.randn(2, 21, 2)).shape == (2, 5, 2)
    model = MixerForecaster(Series(2, 21, 5), mixer=Mean, patch_len=4, patch_stride=3, d_model=8)
    assert model.backbone.blocks[0].residuals[0].mixer.max_len == 7


def test_mixer_forecaster_keeps_channels_apart():
    model = MixerForecaster(Series(3, 21, 5), mixer=Mean, patch_len=4, patch_stride=3, d_model=8).eval()
    x = torch.randn(2, 21, 3)
    y, other = model(x), x.clone()
    other[..., 1] = torch.randn(2, 21)
    assert torch.equal(model(other)[..., [0, 2]], y[..., [0, 2]])
    torch.testing.assert_close(model(x.flip(-1)), y.flip(-1))


def test_mixer_forecaster_passes_its_options_on():
    options = {"patch_len": 4, "patch_stride": 8, "d_model": 8, "norm": "rms", "drop_path": 0.2, "head_dropout": 1.0}
    model = MixerForecaster(
        Series(3, 21, 5), mixer=Dense, layers=[Mean], channel_mixer=None, position_embedding=True, **options
    )
    x = torch.randn(2, 21, 3)
    torch.testing.assert_close(model.train()(x), model.head.proj.bias.view(5, 1).expand(2, 5, 3))
    blocks = model.backbone.blocks
    assert [m.p for m in model.modules() if isinstance(m, DropPath)] == [0, 0.2]
    assert all(len(b.residuals) == 1 and isinstance(b.residuals[0].norm, nn.RMSNorm) for b in blocks)
    assert all(isinstance(b.residuals[0].mixer, Mean) for b in blocks)
    y = model.eval()(x)
    assert model.position.shape == (4, 8)
    model.position.data.zero_()
    assert not torch.allclose(model(x), y)


@pytest.mark.parametrize("kernel,length", [(25, 64), (25, 7), (5, 21), (1, 4), (3, 1)])
@pytest.mark.parametrize("level", [0.0, 1e4])
def test_moving_average_by_running_sum(kernel, length, level):
    x = torch.randn(2, 3, length) + level
    padded = F.pad(x.double(), (kernel // 2, kernel // 2), mode="replicate")
    expected = F.avg_pool1d(padded, kernel, 1)
    torch.testing.assert_close(moving_average(x.double(), kernel), expected, rtol=1e-12, atol=1e-12)
    # float32 carries the level itself to 6e-8 of its size
    error = (moving_average(x, kernel).double() - expected).abs().max()
    assert error <= 3e-6 + 1.2e-7 * level


def test_moving_average_in_bfloat16_sums_in_float32():
    x = torch.randn(1, 1, 512).bfloat16()
    expected = moving_average(x.float(), 25)
    assert (moving_average(x, 25).float() - expected).abs().max() < 0.02


@pytest.mark.parametrize("outputs", [1, 3])
def test_dlinear_is_the_published_one(outputs):
    model, x = DLinear(Series(3, 21, 5, outputs), kernel_size=7), torch.randn(2, 21, 3)
    # series_decomp and forward of the original code, layers shared by the channels
    ends = x[:, :1].repeat(1, 3, 1), x[:, -1:].repeat(1, 3, 1)
    trend = F.avg_pool1d(torch.cat([ends[0], x, ends[1]], 1).permute(0, 2, 1), 7, 1)
    seasonal = x.permute(0, 2, 1) - trend
    y = F.linear(seasonal, model.seasonal.weight[0], model.seasonal.bias[0])
    y = y + F.linear(trend, model.trend.weight[0], model.trend.bias[0])  # (B, C, H K)
    y = y.permute(0, 2, 1) if outputs == 1 else y.view(2, 3, 5, outputs).permute(0, 2, 1, 3)
    torch.testing.assert_close(model(x), y)


def test_dlinear_options():
    assert sum(p.numel() for p in DLinear(Series(7, 512, 96)).parameters()) == 98_496
    shared, x = DLinear(Series(3, 21, 5)), torch.randn(2, 21, 3)
    individual = DLinear(Series(3, 21, 5), individual=True)
    assert individual.trend.weight.shape == (3, 5, 21)
    individual.load_state_dict({k: v.expand(3, *v.shape[1:]) for k, v in shared.state_dict().items()})
    torch.testing.assert_close(individual(x), shared(x))
    individual.trend.bias.data[1] += 1
    torch.testing.assert_close(individual(x)[..., 1], shared(x)[..., 1] + 1)
    for layer in (shared.seasonal, shared.trend):
        # the default of nn.Linear
        for p in (layer.weight, layer.bias):
            assert 0.7 * 21**-0.5 < p.abs().max() <= 21**-0.5
    mean = DLinear(Series(3, 21, 5), init="mean")
    biases = (mean.seasonal.bias + mean.trend.bias).view(5, 1)
    torch.testing.assert_close(mean(x), x.mean(1, keepdim=True) + biases)
    with pytest.raises(ConfigError, match="must be odd"):
        DLinear(Series(3, 21, 5), kernel_size=24)
    with pytest.raises(ConfigError, match="init = 'zeros' is not known"):
        DLinear(Series(3, 21, 5), init="zeros")


@pytest.mark.parametrize("outputs", [1, 3])
def test_dlinear_regresses_on_its_covariates(outputs):
    facts = {"n_future": 2, "n_static": 4, "n_past": 3}
    plain, model = (DLinear(Series(3, 21, 5, outputs, **given), kernel_size=7) for given in ({}, facts))
    model.load_state_dict(plain.state_dict(), strict=False)
    x, future, static, past = torch.randn(2, 21, 3), torch.randn(2, 26, 2), torch.randn(2, 3, 4), torch.randn(2, 21, 3)
    left = x - torch.einsum("blf,f->bl", future[:, :21], model.effect.weight[0]).unsqueeze(-1)
    y = plain(left).view(2, 5, 3, outputs)
    y = y + torch.einsum("bhf,kf->bhk", future[:, 21:], model.ahead.weight).view(2, 5, 1, outputs)
    y = y + torch.einsum("bcs,ks->bck", static, model.static.weight).view(2, 1, 3, outputs)
    y = y + (past.flatten(1) @ model.past.weight.T).view(2, 5, 1, outputs)
    found = model(x, future=future, static=static, past=past).view(2, 5, 3, outputs)
    torch.testing.assert_close(found, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("horizon", [3, 4, 9])
def test_covariate_patches(horizon):
    embed = CovariateEmbedding(8, Series(1, 10, horizon, n_future=2, n_past=3), patch_len=4, patch_stride=3)
    future, past = torch.randn(2, 10 + horizon, 2), torch.randn(2, 10, 3)
    window, ahead = embed(future, past)
    both = torch.cat([future[:, :10], past], -1)
    both = torch.cat([both, both[:, -1:].expand(-1, 3, -1)], 1)  # (B, 13, F + P)
    for i in range(4):
        flat = both[:, 3 * i : 3 * i + 4].transpose(1, 2).flatten(1)
        torch.testing.assert_close(window[:, i], embed.window(flat))
    coming = torch.cat([future, future[:, -1:].expand(-1, 3, -1)], 1)[:, 10:]
    assert ahead.shape == (2, embed.n_ahead, 8) and embed.n_ahead == -(-horizon // 4)
    for i in range(embed.n_ahead):
        torch.testing.assert_close(ahead[:, i], embed.ahead(coming[:, 4 * i : 4 * i + 4].transpose(1, 2).flatten(1)))
    only_past = CovariateEmbedding(8, Series(1, 10, horizon, n_past=3), patch_len=4, patch_stride=3)
    assert only_past(None, past)[1] is None and only_past.n_ahead == 0


def test_mixer_forecaster_joins_covariates():
    facts = {"n_future": 2, "n_static": 4, "n_past": 3}
    model = MixerForecaster(
        Series(3, 21, 5, **facts), mixer=Dense, patch_len=4, patch_stride=3, d_model=8, dropout=0
    ).eval()
    # 7 patches of the window and 2 of the horizon
    assert model.head.proj.in_features == 9 * 8 and model.backbone.blocks[0].residuals[0].mixer.max_len == 9
    inputs = {"future": torch.randn(2, 26, 2), "static": torch.randn(2, 3, 4), "past": torch.randn(2, 21, 3)}
    x = torch.randn(2, 21, 3)
    y = model(x, **inputs)
    for key, step in [("future", 0), ("future", 25), ("past", 0), ("past", 20)]:
        other = {**inputs, key: inputs[key].clone()}
        other[key][:, step] += 1
        assert (model(x, **other) - y).abs().amax((1, 2)).min() > 1e-4, (key, step)
    # static inputs of one channel are heard by that channel alone
    other = inputs["static"].clone()
    other[:, 1] += 1
    moved = (model(x, **{**inputs, "static": other}) - y).abs().amax((0, 1))
    assert moved[1] > 1e-4 and not moved[[0, 2]].any()


@pytest.mark.parametrize("horizon", [2, 3, 7])
def test_seasonal_naive_repeats_the_last_season(horizon):
    x = torch.arange(10.0).view(1, 10, 1)
    y = SeasonalNaive(Series(1, 10, horizon), season=3)(x)
    assert y.flatten().tolist() == [7, 8, 9, 7, 8, 9, 7][:horizon]
    model = SeasonalNaive(Series(1, 10, horizon, 2), season=3)
    assert torch.equal(model(x), torch.stack([y, y], -1))
    assert not list(model.parameters()) and not model.state_dict()


@pytest.mark.parametrize("season", [0, 11])
def test_seasonal_naive_needs_a_season_in_the_context(season):
    with pytest.raises(ConfigError, match=f"season = {season} does not fit context = 10"):
        SeasonalNaive(Series(1, 10, 4), season=season)
