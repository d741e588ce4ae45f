"""RaftMLP: outputs of the original code, published sizes, and the orders that are easily mistaken."""

import pytest
import torch
from image_parity import assert_logits_of_the_original, assert_sensible_at_other_sizes, count, shuffled
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.mixers import Raft
from seqmix.vision import create_model
from seqmix.vision.raftmlp import _HORIZONTAL, Raft2d, RaftMLP, _Level, _resize_last, _TokenMLP

TINY = {"dims": (4, 8), "depths": (2, 1), "patch_sizes": (4, 2), "kernels": ((4, 8), (2, 4)), "img_size": 32}
SINGLE = {"dims": (768,), "depths": (12,), "patch_sizes": (16,), "kernels": None}


@pytest.mark.parametrize("index", [2, *(pytest.param(i, marks=pytest.mark.slow) for i in (0, 1))])
def test_logits_of_the_original(index):
    assert_logits_of_the_original("raftmlp_s", index)


@pytest.mark.slow
def test_other_sizes():
    assert_sensible_at_other_sizes("raftmlp_s")


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"dims": (96, 192, 384, 768), "kernels": None}, 19_920_640),
        ({**SINGLE, "n_rafts": 1}, 58_105_432),
        ({**SINGLE, "n_rafts": 2}, 58_162_888),
        ({**SINGLE, "n_rafts": 4}, 58_390_696),
        ({**SINGLE, "mixing": "full"}, 59_918_200),
        ({**SINGLE, "kernels": ((16, 32),)}, 60_522_184),
        ({**SINGLE, "dims": (384,), "depths": (36,)}, 43_532_296),
    ],
)
def test_published_sizes(options, parameters):
    with torch.device("meta"):
        assert count(RaftMLP(**options)) == parameters


@pytest.mark.parametrize(
    ("name", "parameters"), [("raftmlp_s", 9_868_768), ("raftmlp_m", 21_413_632), ("raftmlp_l", 36_184_672)]
)
def test_named_models(name, parameters):
    with torch.device("meta"):
        assert count(create_model(name)) == parameters


def test_grids_of_an_odd_image():
    model = create_model("raftmlp_s", features_only=True).eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 200, 173))
    assert [tuple(x.shape[2:]) for x in maps] == [(50, 44), (25, 22), (13, 11), (7, 6)]


def test_several_patch_sizes_are_a_sum_of_convolutions():
    level = _Level(3, 5, 2, (2, 4, 6), [])
    fc = level.get_submodule("fn.0.fc")
    x = torch.randn(2, 3, 12, 8)
    want = fc.bias[:, None, None]
    for k, part in zip((2, 4, 6), fc.weight.split([3 * k * k for k in (2, 4, 6)], 1), strict=True):
        want = want + F.conv2d(x, part.view(5, 3, k, k), stride=2, padding=(k - 2) // 2)
    torch.testing.assert_close(level.embed(x), want, rtol=1e-5, atol=1e-6)


def test_plain_patches_are_row_column_channel():
    level = _Level(3, 5, 2, None, [])
    linear = level.get_submodule("fn.1")
    x = torch.randn(1, 3, 4, 6)
    patch = x[0, :, 2:4, 4:6].permute(1, 2, 0).flatten()
    torch.testing.assert_close(level.embed(x)[0, :, 1, 2], F.linear(patch, linear.weight, linear.bias))


@pytest.mark.parametrize("r", [1, 2, 4])
def test_row_of_one_is_the_sequence_mixer(r):
    """Horizontal mixing on an image of height one is ``Raft``, and the norm's parameters have their own order."""
    L, D = 7, 8
    module = shuffled(_TokenMLP(D, L, _HORIZONTAL, n_rafts=r, expand=2, drop_path=0.0))
    mixer = Raft(D, L, n_rafts=r)
    mixer.fc1, mixer.fc2 = module.fn[0], module.fn[3]
    x = torch.randn(3, L, D)
    order = torch.arange(D).view(r, D // r).T.flatten()
    norm = module.norm["1"]
    # channel c = g D / r + j of the norm stands at place j r + g
    scale, shift = torch.empty(D), torch.empty(D)
    scale[order], shift[order] = norm.weight.detach(), norm.bias.detach()
    normed = F.layer_norm(x, (D,)) * scale + shift
    torch.testing.assert_close(module(x.unsqueeze(1)).squeeze(1), x + mixer(normed), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "same"), [((32, 32), True), ((40, 32), False)])
def test_silent_mlps(size, same):
    """With the second layers zero a block is the identity at its own size, and two resizes at another."""
    model = RaftMLP(**TINY).eval()
    level = model.levels[0]
    first, *_ = blocks = level.fn[2:]
    for block in blocks:
        for part in block.values():
            torch.nn.init.zeros_(part.fn[3].weight)
            torch.nn.init.zeros_(part.fn[3].bias)
    x = level.embed(torch.randn(1, 3, *size)).permute(0, 2, 3, 1)
    y = first(x)
    assert torch.equal(x, y) == same
    torch.testing.assert_close(y, _resize_last(_resize_last(x, 8, 8), *x.shape[1:3]), rtol=0, atol=1e-6)


def test_first_map_of_the_published_detectors():
    level, embedding = (RaftMLP(**TINY, first_map=m).eval() for m in ("level", "embedding"))
    embedding.load_state_dict(level.state_dict())
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        a, b = level.features(x), embedding.features(x)
        torch.testing.assert_close(b[0], level.levels[0].embed(x))
        assert torch.equal(a[1], b[1]) and torch.equal(level(x), embedding(x)) and not torch.equal(a[0], b[0])


def test_raft_2d_is_columns_then_rows():
    mixer = Raft2d(4, (3, 5))
    x = torch.randn(2, 3, 5, 4)
    columns = torch.stack([mixer.vertical(x[:, :, w]) for w in range(5)], 2)
    rows = torch.stack([mixer.horizontal(columns[:, h]) for h in range(3)], 1)
    torch.testing.assert_close(mixer(x), rows)
    larger = torch.randn(1, 6, 4, 4)
    torch.testing.assert_close(mixer(larger), _resize_last(mixer(_resize_last(larger, 3, 5)), 6, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_rafts": 3}, "dims[0] = 4 is not a multiple of n_rafts = 3"),
        ({"kernels": ((8, 4), (2,))}, "kernels = (8, 4) do not fit patches of 4; begin with 4"),
        ({"kernels": ((4, 6), (2,))}, "kernels = (4, 6) do not fit patches of 4"),
        ({"mixing": "none"}, "mixing = 'none' is not known"),
        ({"first_map": "stem"}, "first_map = 'stem' is not known"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ConfigError) as caught:
        RaftMLP(**{**TINY, **options})
    assert str(caught.value).startswith(message)
