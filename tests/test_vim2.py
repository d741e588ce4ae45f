"""ViM2: sizes of the specification and of VMamba, the cross scan against its definition, and the limiting cases."""

from functools import partial

import pytest
import torch
from image_parity import assert_sensible_at_other_sizes, count, shuffled
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.mixers import SelectiveChannel
from seqmix.ops import selective_scan
from seqmix.vision import create_model
from seqmix.vision.adapters import cross_merge, cross_scan
from seqmix.vision.ss2d import SS2D
from seqmix.vision.vim2 import ViM2

T, B = (96, 192, 384, 768), (128, 256, 512, 1024)
TINY = {"dims": (4, 6), "depths": (2, 4), "channel_widths": (6, 8)}
IMAGE = (2, 3, 12, 20)


@pytest.mark.parametrize(
    ("dims", "depths", "parameters"),
    [
        # the token mixers of ViM2
        (T, (2, 2, 6, 2), 19_306_120),
        (T, (2, 2, 18, 2), 33_655_432),
        (B, (2, 2, 18, 2), 57_775_976),
        # published VMamba, first version
        (T, (2, 2, 9, 2), 22_893_448),
        (T, (2, 2, 27, 2), 44_417_416),
        (B, (2, 2, 27, 2), 76_254_056),
    ],
)
def test_sizes_without_channel_mixers(dims, depths, parameters):
    with torch.device("meta"):
        assert count(ViM2(dims=dims, depths=depths, channel_widths=None, tokens_per_block=1)) == parameters


@pytest.mark.parametrize(
    ("name", "parameters", "scalars", "stages", "head"),
    [
        ("vim2_tiny", 24_011_422, 42, (210_816, 679_680, 7_174_656, 8_911_872), 770_536),
        ("vim2_small", 43_674_604, 204, (210_816, 679_680, 21_523_968, 8_911_872), 770_536),
        ("vim2_base", 75_582_604, 204, (338_432, 1_135_616, 36_956_160, 15_552_512), 1_027_048),
    ],
)
def test_sizes(name, parameters, scalars, stages, head):
    """Of our reading: 20, 43 and 74 million in the paper."""
    with torch.device("meta"):
        model = create_model(name)
    assert count(model) == parameters
    assert sum(p.numel() for n, p in model.named_parameters() if "average" in n) == scalars
    tokens = [sum(p.numel() for n, p in s.named_parameters() if ".tokens." in n) for s in model.stages]
    assert tokens == list(stages) and count(model.norm) + count(model.head) == head
    widths = [s.blocks[0].channel.mixer.mixer.out_proj.in_features for s in model.stages]
    assert widths == ([192, 384, 768, 768] if name != "vim2_base" else [256, 512, 1024, 1024])


@pytest.mark.slow
def test_other_sizes():
    assert_sensible_at_other_sizes("vim2_tiny")


@pytest.mark.parametrize(
    "options", [{}, {"merge": "mean", "bcdt_from": "input"}, {"discretization": "zoh", "expand": 1, "dt_rank": 2}]
)
@pytest.mark.parametrize(("H", "W"), [(3, 4), (1, 5), (2, 1)])
def test_four_scans(H, W, options):
    """One scan after another, in the published order: rows, columns, rows backwards, columns backwards."""
    D, N = 4, 3
    mixer = shuffled(SS2D(D, d_state=N, **options)).double()
    x = torch.randn(2, H, W, D, dtype=torch.float64)
    u, z = mixer.in_proj(x).chunk(2, -1)
    u = F.silu(mixer.conv2d(u.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
    E, R = u.shape[-1], mixer.dt_projs_weight.shape[2]
    scans = []
    for k, (v, source) in enumerate(zip(cross_scan(u), cross_scan(x if "bcdt_from" in options else u), strict=True)):
        dt, b, c = (source @ mixer.x_proj_weight[k].T).split([R, N, N], -1)
        own = slice(k * E, (k + 1) * E)
        dt = dt @ mixer.dt_projs_weight[k].T + mixer.dt_projs_bias[k]
        A = -mixer.A_logs[own].exp()
        method = options.get("discretization", "euler")
        scans.append(selective_scan(v, dt, A, b, c, mixer.Ds[own], dt_softplus=True, discretization=method))
    y = cross_merge(scans, H, W) / (4 if options.get("merge") == "mean" else 1)
    want = mixer.out_proj(mixer.out_norm(y) * F.silu(z))
    # the rates are kept in float32
    torch.testing.assert_close(mixer(x), want, rtol=1e-5, atol=1e-6)


def test_starts_as_a_plain_stack():
    """With its initial sums the network is its mixers one after another; other sums change it."""
    model = ViM2(**TINY).eval()
    x = torch.randn(*IMAGE)
    with torch.no_grad():
        h = model.stem["norm"](model.stem["conv"](x).permute(0, 2, 3, 1))
        for i, stage in enumerate(model.stages):
            h = model.downsampling[i - 1](h) if i else h
            for block in stage.blocks:
                h = block.channel(block.tokens(h))
        torch.testing.assert_close(model.forward_features(x), h.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5)
        model.stages[1].blocks[1].token_average.token += 0.5
        assert not torch.allclose(model.forward_features(x), h.permute(0, 3, 1, 2), atol=1e-3)


def test_channel_mixer_leaves_tokens_apart():
    mixer = shuffled(ViM2(**TINY)).stages[0].blocks[0].channel
    x = torch.randn(1, 2, 3, 4)
    torch.testing.assert_close(mixer(x)[:, 1, 2], mixer(x[:, 1:, 2:])[:, 0, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"channel_mixer": partial(SelectiveChannel, reading="lifted", group=2)},
        {"channel_mixer": partial(SelectiveChannel, reading="transposed"), "img_size": 32},
        {"token_mixer": partial(SS2D, d_state=2), "init_avg": "mean"},
        {"tokens_per_block": 1, "residual": False},
    ],
)
def test_other_readings(options):
    model = ViM2(**TINY, **options)
    y = model(torch.randn(2, 3, 32, 32))
    y.sum().backward()
    assert y.isfinite().all() and all(p.grad is not None for p in model.parameters())


def test_no_decay():
    names = ViM2(**TINY).no_weight_decay()
    mixer = "stages.0.blocks.0.tokens.0.mixer."
    assert {f"{mixer}{n}" for n in ("A_logs", "Ds", "dt_projs_bias", "conv2d.bias")} <= names
    assert not {f"{mixer}{n}" for n in ("in_proj.weight", "x_proj_weight", "dt_projs_weight")} & names
    channel = "stages.0.blocks.0.channel.mixer.mixer."
    assert {f"{channel}A_log", f"{channel}A_b_log", "stages.1.blocks.1.channel_average.token"} <= names


def test_errors():
    with pytest.raises(ConfigError) as caught:
        ViM2(**{**TINY, "depths": (2, 3)})
    assert str(caught.value) == "depths[1] = 3 is not a multiple of tokens_per_block = 2; change one of them"
    for option in ("bcdt_from", "merge", "discretization"):
        with pytest.raises(ConfigError, match=f"{option} = 'no' is not known"):
            SS2D(4, **{option: "no"})
