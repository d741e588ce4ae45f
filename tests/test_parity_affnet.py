"""AFFNet: outputs of the original code, published sizes, and the adaptive frequency filter on grids."""

from pathlib import Path

import pytest
import torch
from image_parity import assert_logits_of_the_original, assert_sensible_at_other_sizes, count
from torch import nn

from seqmix.errors import ConfigError
from seqmix.mixers import AFF
from seqmix.vision import create_model
from seqmix.vision.affnet import AFF2d, AFFNet, _divisible


@pytest.mark.parametrize("index", [0, 1])
def test_logits_of_the_original(index):
    assert_logits_of_the_original("affnet_et", index)


@pytest.mark.slow
def test_other_sizes():
    assert_sensible_at_other_sizes("affnet_et")


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (lambda: create_model("affnet_et"), 1_436_264),
        (lambda: create_model("affnet_t"), 2_654_232),
        (lambda: create_model("affnet"), 5_568_696),
        # configurations of the original without published weights
        (lambda: AFFNet(dims=(64, 128, 256, 512, 640), fuse=(True, False, False)), 17_178_104),
        (
            lambda: AFFNet(dims=(64, 128, 256, 512, 768), depths=(2, 6, 4, 18, 6), fuse=(True, False, False)),
            46_068_088,
        ),
    ],
)
def test_published_sizes(make, parameters):
    with torch.device("meta"):
        assert count(make()) == parameters


def test_mixer_of_the_original():
    golden = torch.load(Path(__file__).parent / "goldens/affnet_mixer_swish.pt", weights_only=True)
    mixer = AFF2d(32)
    mixer.load_state_dict(golden["state_dict"], strict=True)
    assert count(mixer) == golden["param_count"] == 32**2 // 2 + 4 * 32
    y = mixer(golden["input"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert (y - golden["output"]).abs().max() < 1e-5 * golden["output"].std()


@pytest.mark.parametrize("L", [1, 2, 7, 12])
def test_row_of_one_is_the_sequence_mixer(L):
    mixer, grid = AFF(16, n_blocks=4), AFF2d(16, n_blocks=4)
    for p in mixer.parameters():
        nn.init.normal_(p)
    grid.load_state_dict(mixer.state_dict())
    x = torch.randn(2, L, 16)
    torch.testing.assert_close(grid(x.unsqueeze(1)).squeeze(1), mixer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("H", "W"), [(10, 7), (1, 1), (3, 4)])
def test_filters_with_a_known_effect(H, W):
    mixer = AFF2d(8)
    x = torch.randn(2, H, W, 8)
    for p in (mixer.w2, mixer.b2):
        nn.init.zeros_(p)
    torch.testing.assert_close(mixer(x), x)
    # 0.5 shrunk to 0.49 at every frequency
    nn.init.constant_(mixer.b2[0], 0.5)
    torch.testing.assert_close(mixer(x), 1.49 * x)
    # an imaginary filter leaves the mean, which has no phase
    nn.init.zeros_(mixer.b2[0])
    nn.init.constant_(mixer.b2[1], 0.5)
    torch.testing.assert_close(mixer(x).mean((1, 2)), x.mean((1, 2)))


def test_half_precision_is_transformed_in_float32():
    mixer = AFF2d(8)
    x = torch.randn(1, 5, 7, 8).bfloat16()
    y = mixer.bfloat16()(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), mixer.float()(x.float()), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("output_stride", "reductions", "strides", "dilations"),
    [
        (32, [4, 8, 16, 32], [2, 2, 2], [1, 1, 1]),
        (16, [4, 8, 16, 16], [2, 2, 1], [1] * 3),
        (8, [4, 8, 8, 8], [2, 1, 1], [1, 1, 2]),
    ],
)
def test_output_strides(output_stride, reductions, strides, dilations):
    model = create_model("affnet_et", output_stride=output_stride).eval()
    model.load_state_dict(create_model("affnet_et").state_dict())
    assert model.feature_info.reduction() == reductions
    firsts = [getattr(model, f"layer_{i}")[0].block["conv_3x3"].block["conv"] for i in (3, 4, 5)]
    assert [conv.stride[0] for conv in firsts] == strides
    assert [conv.dilation[0] for conv in firsts] == [conv.padding[0] for conv in firsts] == dilations
    with torch.no_grad():
        maps = model.features(torch.randn(1, 3, 64, 96))
    assert [64 // x.shape[2] for x in maps] == [96 // x.shape[3] for x in maps] == reductions


def test_widths_of_inverted_residuals():
    assert [_divisible(n) for n in (1, 12, 20, 64, 100, 105)] == [8, 16, 24, 64, 104, 104]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AFF2d(16, n_blocks=3), "d_model = 16 is not a multiple of n_blocks = 3; change one of them"),
        (lambda: create_model("affnet_et", output_stride=4), "output_stride = 4 is not known; use one of 8, 16, 32"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == message
