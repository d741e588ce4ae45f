"""FFNet: outputs of the original code on images, in super-resolution and on time series; sizes, fused and not."""

from functools import partial
from pathlib import Path

import pytest
import torch
from image_parity import assert_logits_of_the_original, count, shuffled
from torch import nn
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.mixers import FFNifiedAttention
from seqmix.models.ffnet_ts import FFNetTS
from seqmix.series import Series
from seqmix.tasks import Forecasting
from seqmix.vision import create_model
from seqmix.vision._ffnet_block import FFNetBlock, depthwise
from seqmix.vision._fusible import DepthwiseSum, NormedSkip
from seqmix.vision.ffnet import FFNet, FFNifiedAttention2d
from seqmix.vision.ffnet_seg import FFNetSeg, FFNetSegHead
from seqmix.vision.ffnet_sr import FFNetSR

GOLDENS = Path(__file__).parent / "goldens"
TINY = {"dims": (8, 16), "depths": (1, 2), "token_kernels": (3, 7), "channel_kernel": 7, "layer_scale": 0.5}
SEG = {"dims": (4, 8), "depths": (1, 1), "token_kernels": (3, 9)}
SERIES = {"dims": (16,), "kernel_size": 51, "small_kernel": 5}


def _golden(name):
    return torch.load(GOLDENS / f"{name}.pt", weights_only=True)


def _assert_close(got, want):
    assert (got - want).abs().max() < 1e-5 * want.std()


def test_logits_of_the_original_and_fused():
    model, x, logits = assert_logits_of_the_original("ffnet_1", 0)
    with torch.no_grad():
        _assert_close(model.reparameterize()(x), logits)
    assert count(model) == 13_660_152


@pytest.mark.parametrize(
    ("name", "training", "fused"),
    [
        ("ffnet_1", 13_775_656, 13_660_152),
        ("ffnet_2", 27_208_408, 26_908_440),
        ("ffnet_3", 48_817_896, 48_330_632),
        ("ffnet_4", 79_868_968, 79_200_360),
    ],
)
def test_published_sizes(name, training, fused):
    with torch.device("meta"):
        model = create_model(name)
        assert count(model) == training
        assert count(model.reparameterize()) == fused
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.stages.modules())


def test_published_sizes_of_the_systems():
    with torch.device("meta"):
        model, head = create_model("ffnet_seg"), FFNetSegHead()
        assert sum(p.numel() for n, p in model.named_parameters() if not n.startswith("head")) == 63_826_048
        assert count(head) == 4_650_518
        assert [count(FFNetSR(n_layers=n)) for n in (36, 48)] == [1_789_452, 2_381_580]
        # what the forward pass uses; the original keeps as many again that it does not
        assert count(FFNetTS(Series(7, 96, 96))) == 499_104
        assert count(FFNetTS(Series(7, 96, 720))) == 2_416_656
        assert count(FFNetTS(Series(21, 96, 96), ffn_ratio=12)) == 2_136_992
        assert count(FFNetTS(Series(321, 96, 96), ffn_ratio=12)) == 114_725_792


def test_keys_after_fusion():
    model = create_model("ffnet_1").reparameterize()
    keys = {
        k.rpartition(".")[0] for k in model.state_dict() if k.startswith(("patch_embed", "stages.3.0", "stages.3.1"))
    }
    block = {f"stages.3.1.token_mixer.0.main.{n}" for n in ("fc", "conv1", "conv2")}
    block |= {f"stages.3.1.channel_mixer.main.{n}" for n in ("conv", "fc1", "fc2")}
    assert keys == {"patch_embed.0", "patch_embed.2", "stages.3.0.proj.0", "stages.3.0.proj.1"} | block


@pytest.mark.parametrize(
    "make",
    [
        lambda: depthwise(4, 3, "batch"),
        lambda: depthwise(4, 7, "two"),
        lambda: depthwise(4, 9, "four"),
        lambda: depthwise(4, 3, "four"),
        lambda: DepthwiseSum(4, 8, {"conv": (7, 7), "conv1": (3, 3)}, stride=2),
        lambda: NormedSkip(4),
    ],
)
def test_units_are_one_convolution(make):
    unit = shuffled(make()).double()
    conv = unit.fused()
    x = torch.randn(2, 4, 11, 8, dtype=torch.float64)
    assert isinstance(conv, nn.Conv2d)
    torch.testing.assert_close(conv(x), unit(x), rtol=1e-9, atol=1e-9)


def test_strided_unit_reads_each_input_channel_twice():
    unit = DepthwiseSum(2, 4, {"conv": (3, 3)}, stride=2).eval()
    x = torch.zeros(1, 2, 4, 4)
    x[:, 1] = 1
    assert unit(x).abs().amax((0, 2, 3)).bool().tolist() == [False, False, True, True]


@pytest.mark.parametrize("model", [lambda: FFNet(**TINY), lambda: FFNetSeg(**SEG)])
def test_fused_models(model):
    model = shuffled(model()).double()
    x = torch.randn(2, 3, 35, 40, dtype=torch.float64)
    with torch.no_grad():
        want = model(x)
        torch.testing.assert_close(model.reparameterize()(x), want, rtol=1e-9, atol=1e-9)


def test_silent_block_is_the_identity():
    block = FFNetBlock(6, token_kernel=3, token_unit="plain", channel_kernel=7, channel_unit="two").eval()
    x = torch.randn(1, 6, 5, 4)
    assert not torch.equal(block(x), x)
    for conv in (block.token_mixer[0].main.conv2, block.channel_mixer.main.fc2):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    assert torch.equal(block(x), x)


def test_norms_of_the_pyramid():
    plain, normed = FFNet(**TINY), FFNet(**TINY, feature_norms=True)
    missing, unexpected = normed.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(k.startswith(normed.unpublished) for k in missing)
    x = torch.randn(2, 3, 33, 40)
    plain.eval(), normed.eval()
    with torch.no_grad():
        assert torch.equal(plain(x), normed(x))
        for a, b in zip(plain.features(x), normed.features(x), strict=True):
            want = F.layer_norm(a.permute(0, 2, 3, 1), (a.shape[1],), eps=1e-6).permute(0, 3, 1, 2)
            torch.testing.assert_close(b, want)


def test_segmentation_head():
    model, head = (
        FFNetSeg(**{**SEG, "dims": (4, 6)}),
        FFNetSegHead(in_dims=(4, 6), num_classes=5, d_model=8, n_layers=2),
    )
    model.eval(), shuffled(head)
    with torch.no_grad():
        maps = model.features(torch.randn(1, 3, 64, 96))
        y = head(maps)
        assert y.shape == (1, 5, 16, 24)
        torch.testing.assert_close(head.reparameterize()(maps), y, rtol=1e-4, atol=1e-5)
    # the activation after each residual
    assert (head.head_blocks[0](torch.full((1, 8, 3, 3), -9.0)) > -0.2).all()


def test_super_resolution_of_the_original():
    golden = _golden("ffnet_sr_LN")
    model = FFNetSR(scale=3, d_model=16, n_layers=2, norm="layer").eval()
    model.load_state_dict(golden["state_dict"], strict=True)
    assert count(model) == golden["param_count"]
    _assert_close(model(golden["input"]), golden["output"])


@pytest.mark.parametrize(("norm", "places"), [("none", "013"), ("layer", "0124"), ("batch", "0124")])
def test_super_resolution(norm, places):
    """Places of the layers in the published keys; with a silent body the image is enlarged by its nearest pixels."""
    model = FFNetSR(scale=2, d_model=8, n_layers=1, norm=norm).eval()
    weights = [k for k in model.state_dict() if k.startswith("body.0.token_mixer.") and k.endswith(".weight")]
    assert weights == [f"body.0.token_mixer.{i}.weight" for i in places]
    assert isinstance(model.body[0].token_mixer[1], nn.BatchNorm2d) == (norm == "batch")
    nn.init.zeros_(model.conv_bef_up.weight)
    nn.init.zeros_(model.conv_bef_up.bias)
    x = torch.randn(1, 3, 5, 7)
    assert torch.equal(model(x), F.interpolate(x, scale_factor=2, mode="nearest"))


@pytest.mark.parametrize("name", ["ffnet_ts_base", "ffnet_ts_decomp"])
def test_series_of_the_original(name):
    golden = _golden(name)
    # the original normalizes the window; a decomposed one by parts, which is in the model
    decomposition = name.endswith("decomp")
    build, normalize = partial(FFNetTS, **SERIES, decomposition=decomposition), "none" if decomposition else "window"
    task = Forecasting(build, Series(3, 96, 24), normalize=normalize).eval()
    model = task.model
    model.load_state_dict(golden["state_dict"], strict=True)
    with torch.no_grad():
        _assert_close(task({"x": golden["input"]}), golden["output"])
        model.reparameterize()
        _assert_close(task({"x": golden["input"]}), golden["output"])
    assert {k.rpartition("dw.")[2] for k in model.state_dict() if "channel_mixer.dw." in k} == {
        "lkb_reparam.weight",
        "lkb_reparam.bias",
    }
    merged = build(Series(3, 96, 24), merged=True)
    assert merged.state_dict().keys() == model.state_dict().keys()


def test_unused_weights_of_the_original_are_dropped_and_others_refused():
    model = FFNetTS(Series(3, 8, 4), dims=(4,), kernel_size=3, small_kernel=3)
    state = {**model.state_dict(), "model.te_patch.0.weight": torch.zeros(1)}
    model.load_state_dict(state, strict=True)
    with pytest.raises(RuntimeError, match="nonsense"):
        model.load_state_dict({**state, "model.nonsense": torch.zeros(1)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_stride": 5}, "patch_stride = 5 leaves steps between patches out; use 1 to 4"),
        ({"kernel_size": 4}, "kernel_size = 4 has no middle"),
        ({"kernel_size": 3, "small_kernel": 5}, "small_kernel = 5 is over kernel_size = 3"),
        ({"dims": (4, 4)}, "dims has 2 stages and depths has 1"),
    ],
)
def test_errors_of_the_series_model(options, message):
    with pytest.raises(ConfigError) as caught:
        FFNetTS(Series(3, 8, 4), **options)
    assert str(caught.value).startswith(message)


def test_row_of_one_is_the_sequence_mixer():
    mixer, grid = FFNifiedAttention(6, kernel_size=5), FFNifiedAttention2d(6, kernel_size=5)
    grid.fc.weight.data, grid.fc.bias = mixer.fc.weight[..., None, None], mixer.fc.bias
    for ours, theirs in ((grid.conv1, mixer.conv1), (grid.conv2, mixer.conv2)):
        # the other rows of the kernel meet padding only
        ours.weight.data[:, :, 2], ours.bias = theirs.weight, theirs.bias
    x = torch.randn(2, 9, 6)
    torch.testing.assert_close(grid(x.unsqueeze(1)).squeeze(1), mixer(x), rtol=1e-5, atol=1e-5)
