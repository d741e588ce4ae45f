"""TSM2 against the specification of its parts."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.mixers import SelectiveToken
from seqmix.models import TSM2, WeightedAveraging
from seqmix.models.embed import PatchEmbedding
from seqmix.series import Series
from seqmix.tasks import Forecasting

SMALL = {"d_model": 8, "n_layers": 2, "patch_len": 4, "patch_stride": 2, "d_state": 4, "dropout": 0, "head_dropout": 0}


def tsm2(n_channels=3, context=20, horizon=5, **options):
    facts = {name: options.pop(name) for name in ("n_outputs", "n_future", "n_static", "n_past") if name in options}
    return TSM2(Series(n_channels, context, horizon, **facts), **{**SMALL, **options})


def count(module):
    return sum(p.numel() for p in module.parameters())


def randomize(module):
    for p in module.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return module


@pytest.mark.parametrize(
    "channels,d_model,layers,horizon,expected",
    [
        (7, 32, 2, 96, 244_828),
        (7, 32, 2, 720, 1_523_404),
        (7, 64, 4, 96, 688_986),
        (321, 64, 3, 96, 615_997),
        (7, 16, 1, 96, 107_331),
    ],
)
def test_published_sizes(channels, d_model, layers, horizon, expected):
    task = Forecasting(
        partial(TSM2, d_model=d_model, n_layers=layers), Series(channels, 512, horizon), normalize_affine=True
    )
    E, R, N, K, P = 2 * d_model, -(-d_model // 16), 16, 4, 16
    scan = E * (K + 1) + E * (R + 2 * N) + (R * E + E) + E * N + E
    mamba, both = 3 * d_model * E + scan, 3 * d_model * E + 2 * scan
    formula = (P + 1) * d_model + layers * (mamba + both + 4 * d_model) + 2 * d_model
    formula += layers * (2 * layers + 3) + (64 * d_model + 1) * horizon + 2 * channels
    assert count(task) == formula == expected


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_averaging_has_2_l_plus_3_scalars_per_layer(layers):
    model = tsm2(n_layers=layers)
    scalars = sum(count(m) for m in model.modules() if isinstance(m, WeightedAveraging))
    assert scalars == layers * (2 * layers + 3)
    assert count(model) - count(tsm2(n_layers=layers, averaging=False)) == scalars
    # without variate mixers there is one kind of output to average
    alone = tsm2(n_layers=layers, variate_mixer=False)
    assert sum(count(m) for m in alone.modules() if isinstance(m, WeightedAveraging)) == layers * (layers + 1) // 2


@pytest.mark.parametrize("variate_mixer", [True, False])
def test_starts_as_a_plain_residual_stack(variate_mixer):
    model = tsm2(n_layers=3, variate_mixer=variate_mixer)
    plain = tsm2(n_layers=3, variate_mixer=variate_mixer, averaging=False)
    keys = plain.load_state_dict(model.state_dict(), strict=False)
    assert not keys.missing_keys and all(".source." in k for k in keys.unexpected_keys)
    x = torch.randn(2, 20, 3)
    assert torch.equal(model(x), plain(x))


def test_averaging_follows_its_equations():
    trunk, x = randomize(tsm2(n_layers=2).trunk), torch.randn(2, 3, 5, 8)
    (alpha, beta), (theta, gamma), (alpha2, beta2), (theta2, gamma2) = (
        (b.source.token, b.source.channel) for b in trunk.branches
    )

    def mixed(i, x):
        branch, axis = trunk.branches[i], 1 + i % 2
        # variates in turn before the time mixers, patches in turn before the variate mixers
        return x + torch.stack([branch.mixer(y) for y in branch.norm(x).unbind(axis)], axis)

    t0 = c0 = x
    t1 = mixed(0, alpha[0] * t0 + beta[0] * c0)
    c1 = mixed(1, theta[0] * t0 + theta[1] * t1 + gamma[0] * c0)
    t2 = mixed(2, alpha2[0] * t0 + alpha2[1] * t1 + beta2[0] * c0 + beta2[1] * c1)
    c2 = mixed(3, theta2[0] * t0 + theta2[1] * t1 + theta2[2] * t2 + gamma2[0] * c0 + gamma2[1] * c1)
    torch.testing.assert_close(trunk(x), c2)


def test_literal_mode_has_no_residual_and_mean_starts_even():
    trunk, x = tsm2(n_layers=1, residual=False, variate_mixer=False, averaging=False).trunk, torch.randn(2, 3, 5, 8)
    branch = trunk.branches[0]
    torch.testing.assert_close(trunk(x), branch.mixer(branch.norm(x).flatten(0, 1)).view_as(x))
    for branch in tsm2(init_avg="mean").trunk.branches:
        tokens, channels = torch.randn(len(branch.source.token), 4), torch.randn(len(branch.source.channel), 4)
        channels[0] = tokens[0]
        mean = torch.cat([tokens, channels]).mean(0)
        torch.testing.assert_close(branch.source(tokens.unbind(), channels.unbind()), mean)


def test_dropout_falls_on_mixers_and_head_apart():
    model, x = tsm2(dropout=1.0), torch.randn(2, 3, 5, 8)
    assert torch.equal(model.train().trunk(x), x)
    assert not torch.equal(model.eval().trunk(x), x)
    model, x = tsm2(head_dropout=1.0), torch.randn(2, 20, 3)
    torch.testing.assert_close(model.train()(x), model.head.proj.bias.view(5, 1).expand(2, 5, 3))


def test_pipeline_from_window_to_forecast():
    model, x = tsm2(norm="joint"), torch.randn(2, 20, 3)
    assert isinstance(model.embed, PatchEmbedding)
    tokens = model.trunk(model.embed(x.transpose(1, 2)))
    normed = F.layer_norm(tokens, tokens.shape[1:])  # weights of the norm are still one
    y = torch.stack([model.head.proj(normed[:, m].flatten(1)) for m in range(3)], -1)
    torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-4)


def test_outputs_of_one_step_stand_together():
    model = tsm2(n_outputs=2)
    model.head.proj.weight.data.zero_()
    model.head.proj.bias.data = torch.arange(10.0)
    y = model(torch.randn(1, 20, 3))  # (B, H, C, K)
    assert y[0, :, 1].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def influence(trunk, x, axis):
    """Whether output i moves with input j along an axis of ``(B, M, N, D)``."""
    size = x.shape[axis]
    rows = []
    for i in range(size):
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(trunk(x).select(axis, i).square().sum(), x)
        rows.append(grad.movedim(axis, 0).flatten(1).ne(0).any(1))
    return torch.stack(rows)


@pytest.mark.parametrize(
    "options,causal",
    [({"norm": "layer"}, True), ({"norm": "joint"}, False), ({"norm": "layer", "time_bidirectional": True}, False)],
)
def test_time_is_causal_with_layer_norm(options, causal):
    moved = influence(randomize(tsm2(**options).trunk), torch.randn(1, 3, 6, 8), 2)
    assert torch.equal(moved, torch.ones(6, 6).tril().bool() if causal else torch.ones(6, 6).bool())


@pytest.mark.parametrize("variate_mixer", [True, False])
def test_every_variate_depends_on_every_other(variate_mixer):
    trunk = randomize(tsm2(norm="layer", variate_mixer=variate_mixer).trunk)
    moved = influence(trunk, torch.randn(1, 4, 6, 8), 1)
    assert torch.equal(moved, torch.ones(4, 4).bool() if variate_mixer else torch.eye(4).bool())


@pytest.mark.parametrize(
    "facts", [{"context": 33}, {"n_channels": 7}, {"horizon": 9}, {"n_future": 2, "n_static": 1, "n_past": 3}]
)
def test_trunk_weights_do_not_know_the_data(facts):
    def shapes(model):
        return {k: v.shape for k, v in model.trunk.state_dict().items()}

    assert shapes(tsm2(**facts)) == shapes(tsm2())


def test_absent_variates_change_nothing():
    mixer = tsm2().trunk.branches[1].mixer
    assert isinstance(mixer, SelectiveToken)
    x = torch.randn(2, 3, 8)
    padded = torch.cat([x, torch.full((2, 2, 8), float("nan"))], 1)
    y = mixer(padded, torch.tensor([True, True, True, False, False]).expand(2, 5))
    torch.testing.assert_close(y[:, :3], mixer(x))
    assert not y[:, 3:].any()


def test_options_that_add_weights_or_order():
    x = torch.randn(2, 20, 3)
    placed = tsm2(position_embedding=True)
    y = placed(x)
    assert placed.position.shape == (10, 8)
    placed.position.data.zero_()
    assert not torch.allclose(placed(x), y)
    # a drawn order is undone at the end: nothing is seen of it without a variate mixer
    alone = tsm2(variate_mixer=False, shuffle_variates=True)
    torch.testing.assert_close(alone.train()(x), alone.eval()(x))
    mixed = tsm2(shuffle_variates=True)
    assert len({mixed(x).sum().item() for _ in range(8)}) > 1
    assert torch.equal(mixed.eval()(x), mixed(x))
    for option, value in [("n_layers", 0), ("norm", "rms"), ("init_avg", "zero")]:
        with pytest.raises(ConfigError, match=f"{option} = {value!r}"):
            tsm2(**{option: value})


def test_covariates_lengthen_the_window():
    both = tsm2(n_future=2, n_static=4).eval()
    assert both.head.proj.in_features == 8 * ((3 * 20 - 4) // 2 + 2)
    assert tsm2(n_static=4).head.proj.in_features == 8 * ((2 * 20 - 4) // 2 + 2)
    x, future, static = torch.randn(2, 20, 3), torch.randn(2, 25, 2), torch.randn(2, 3, 4)
    y = both(x, future=future, static=static)
    past, coming, other = future.clone(), future.clone(), static.clone()
    past[:, :20], coming[:, 20:], other[:, 0] = 0, 0, 0
    # only the rows of the horizon are known-future inputs
    assert torch.equal(both(x, future=past, static=static), y)
    assert not torch.allclose(both(x, future=coming, static=static), y)
    assert not torch.allclose(both(x, future=future, static=other), y)


def test_past_inputs_are_variates_without_a_forecast():
    model = tsm2(n_past=2, n_static=1).eval()
    x, past, static = torch.randn(2, 20, 3), torch.randn(2, 20, 2), torch.randn(2, 3, 1)
    y = model(x, past=past, static=static)
    wide = tsm2(5, n_static=1).eval()
    wide.load_state_dict(model.state_dict())
    wide.static.bias.data.zero_()
    model.static.bias.data.zero_()
    padded = torch.cat([static, torch.zeros(2, 2, 1)], 1)
    torch.testing.assert_close(
        model(x, past=past, static=static), wide(torch.cat([x, past], -1), static=padded)[..., :3]
    )
    assert y.shape == (2, 5, 3) and tsm2(n_past=2, n_outputs=3)(x, past=past).shape == (2, 5, 3, 3)
    # the order is drawn over all variates, and undone
    shuffled = tsm2(n_past=2, shuffle_variates=True, norm="layer", averaging=False)
    for branch in shuffled.trunk.branches[1::2]:
        branch.mixer.out_proj.weight.data.zero_()
    torch.testing.assert_close(shuffled.train()(x, past=past), shuffled.eval()(x, past=past))
    with pytest.raises(ConfigError, match="got n_past = 2 without it; use variate_mixer=True"):
        tsm2(n_past=2, variate_mixer=False)


def fit(model, batch, steps, lr):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    for _ in range(steps):
        x, y = batch()
        loss = F.mse_loss(model(x)[..., : y.shape[-1]], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def test_overfits_one_batch():
    model, x, y = tsm2(n_layers=1, d_model=16), torch.randn(4, 20, 3), torch.randn(4, 5, 3)
    fit(model, lambda: (x, y), 80, 2e-2)
    assert F.mse_loss(model(x), y) < 0.02


@pytest.mark.parametrize("variate_mixer", [True, False])
def test_a_delayed_copy_is_learned_only_across_variates(variate_mixer):
    horizon = 4

    def batch(size=64):
        noise = torch.randn(size, 16 + horizon)
        # the first variate repeats the second after exactly the horizon
        x = torch.stack([noise[:, :-horizon], noise[:, horizon:]], -1)
        return x, x[:, -horizon:, 1:].clone()

    # the joint norm would let the statistics of one variate reach the other
    options = {"n_layers": 1, "d_model": 16, "patch_stride": 4, "norm": "layer"}
    model = tsm2(2, 16, horizon, variate_mixer=variate_mixer, **options)
    fit(model, batch, 60, 2e-2)
    x, y = batch(2000)
    error = F.mse_loss(model(x)[..., :1], y)
    # the noise has variance one: an error near one is a failure to forecast
    assert error < 0.2 if variate_mixer else error > 0.9
