"""iFormer: outputs of the original code, published sizes and frequency ramp, and the inception mixer on grids."""

import pytest
import torch
from image_parity import assert_logits_of_the_original, assert_sensible_at_other_sizes, count, shuffled
from torch import nn
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.mixers import InceptionMixer
from seqmix.vision import create_model
from seqmix.vision.iformer import IFormer, Inception2d, _resize

TINY = {"dims": (8, 12), "depths": (1, 1), "heads": (2, 3), "attention_heads": (1, 2), "strides": (2, 1)}


@pytest.mark.parametrize("index", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_logits_of_the_original(index):
    assert_logits_of_the_original("iformer_small", index)


@pytest.mark.slow
def test_other_sizes():
    assert_sensible_at_other_sizes("iformer_small")


@pytest.mark.parametrize(
    ("name", "parameters", "positions", "ramp"),
    [
        (
            "iformer_small",
            19_866_344,
            533_120,
            [(64, 32)] * 3 + [(96, 96)] * 3 + [(96, 224)] * 4 + [(32, 288)] * 5 + [(32, 352)] * 3,
        ),
        (
            "iformer_base",
            47_866_216,
            551_936,
            [(64, 32)] * 4 + [(96, 96)] * 6 + [(128, 256)] * 7 + [(64, 320)] * 7 + [(32, 480)] * 6,
        ),
        (
            "iformer_large_384",
            86_637_096,
            570_752,
            [(64, 32)] * 4 + [(96, 96)] * 6 + [(128, 320)] * 9 + [(64, 384)] * 9 + [(32, 608)] * 8,
        ),
    ],
)
def test_published_sizes(name, parameters, positions, ramp):
    with torch.device("meta"):
        model, larger = create_model(name), create_model(name, img_size=384)
    assert count(model) == parameters

    def of_positions(model):
        return sum(p.numel() for n, p in model.named_parameters() if n.startswith("pos_embed"))

    assert of_positions(model) == positions
    assert of_positions(larger) == {533_120: 1_566_720, 551_936: 1_622_016, 570_752: 1_677_312}[positions]
    mixers = [m for m in model.modules() if isinstance(m, Inception2d)]
    assert [(2 * m.widths[0], m.widths[2]) for m in mixers] == ramp
    assert {m.stride for m in mixers[:6]} == {2} and mixers[-1].stride == 1
    scaled = {n.partition(".")[0] for n, _ in model.named_parameters() if "layer_scale" in n}
    assert scaled == {"blocks3", "blocks4"}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("L", [1, 2, 7])
def test_row_of_one_is_the_sequence_mixer(L, stride):
    options = {"n_heads": 2, "head_dim": 4, "stride": stride}
    mixer, grid = InceptionMixer(16, **options), Inception2d(16, **options)
    high = grid.high_mixer
    for ours, theirs in ((high["conv1"], mixer.conv1), (high["proj2"], mixer.proj2), (grid.proj, mixer.proj)):
        ours.weight.data, ours.bias = theirs.weight[..., None, None].detach(), theirs.bias
    for ours, theirs in ((high["proj1"], mixer.proj1), (grid.conv_fuse, mixer.conv_fuse)):
        # the other rows of the kernel meet padding only
        ours.weight.data[:, :, 1] = theirs.weight.detach()
    grid.low_mixer["qkv"] = mixer.qkv
    x = torch.randn(2, L, 16)
    torch.testing.assert_close(grid(x.unsqueeze(1)).squeeze(1), mixer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("H", "W"), [(4, 6), (5, 3)])
def test_attention_is_constant_on_cells(H, W):
    mixer = Inception2d(6, n_heads=1, head_dim=4, stride=2)
    y = mixer._attend(torch.randn(2, 4, H, W), None)
    assert y.shape == (2, 4, H, W)
    cells = F.interpolate(y[..., ::2, ::2], scale_factor=2, mode="nearest")[..., :H, :W]
    assert torch.equal(y, cells) and not torch.equal(y, y[..., :1, :1].expand_as(y))


def test_max_pooling_never_sees_the_border():
    """A map of negative numbers keeps them at the border: an identity convolution shows the maxima."""
    mixer = Inception2d(6, n_heads=1, head_dim=4)
    nn.init.ones_(mixer.high_mixer["proj2"].weight)
    nn.init.zeros_(mixer.high_mixer["proj2"].bias)
    nn.init.zeros_(mixer.conv_fuse.weight)
    nn.init.zeros_(mixer.proj.weight)
    nn.init.zeros_(mixer.proj.bias)
    # the first of the two channels from max-pooling
    mixer.proj.weight.data[0, 2] = 1
    x = -2 * torch.ones(1, 3, 3, 6)
    torch.testing.assert_close(mixer(x)[..., 0], F.gelu(torch.full((1, 3, 3), -2.0)))


def test_transposed_images():
    """Rows and columns are alike: transposed kernels and positions see transposed images the same."""
    model = shuffled(IFormer(**TINY, img_size=32)).double()
    turned = IFormer(**TINY, img_size=32).double().eval()
    state = {
        k: v.transpose(1, 2) if k.startswith("pos_embed") else v.transpose(2, 3) if v.ndim == 4 else v
        for k, v in model.state_dict().items()
    }
    turned.load_state_dict(state)
    x = torch.randn(1, 3, 32, 48, dtype=torch.float64)
    torch.testing.assert_close(turned(x.transpose(2, 3)), model(x), rtol=1e-9, atol=1e-9)


def test_positions_are_stretched_by_sides_not_by_area():
    """A grid of another shape with as many cells is stretched too."""
    position = torch.randn(1, 4, 4, 3)
    assert _resize(position, 4, 4) is position
    want = F.interpolate(position.permute(0, 3, 1, 2), (2, 8), mode="bilinear").permute(0, 2, 3, 1)
    assert torch.equal(_resize(position, 2, 8), want)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IFormer(**{**TINY, "attention_heads": (1,)}), "attention_heads has 1 entries for 2 blocks"),
        (lambda: Inception2d(16), "n_heads * head_dim = 32 leaves -16 of 16 channels"),
        (lambda: Inception2d(16, head_dim=3), "n_heads * head_dim = 3 leaves 13 of 16 channels"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)
