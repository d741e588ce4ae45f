"""Pyramids for dense tasks: strides and channels of every family, and a plain FPN that learns to segment on one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.vision import FeaturePyramid, MetaFormer, SepConv2d, create_model

# strides and channels as the papers have them
STAGES = {
    "poolformer_s12": ((4, 8, 16, 32), (64, 128, 320, 512)),
    "caformer_s18": ((4, 8, 16, 32), (64, 128, 320, 512)),
    "raftmlp_s": ((4, 8, 16, 32), (64, 128, 256, 512)),
    "ffnet_1": ((4, 8, 16, 32), (80, 160, 320, 640)),
    "iformer_small": ((4, 8, 16, 32), (96, 192, 320, 384)),
    "affnet_et": ((4, 8, 16, 32), (48, 64, 104, 144)),
}


@pytest.mark.parametrize("name", STAGES)
def test_strides_and_channels(name):
    strides, channels = STAGES[name]
    pyramid = create_model(name, features_only=True).eval()
    assert isinstance(pyramid, FeaturePyramid)
    assert tuple(pyramid.feature_info.reduction()) == strides
    assert tuple(pyramid.feature_info.channels()) == channels
    with torch.no_grad():
        maps = pyramid(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(1, C, 64 // s, 96 // s) for C, s in zip(channels, strides, strict=True)]
    assert all(m.isfinite().all() and m.std() > 0 for m in maps)


def test_chosen_stages_cost_no_more_than_they_need():
    torch.manual_seed(0)
    whole = create_model("poolformer_s12", features_only=True).eval()
    torch.manual_seed(0)
    part = create_model("poolformer_s12", features_only=True, out_indices=(-3, 0)).eval()
    assert part.feature_info.reduction() == [8, 4]
    called = []
    part.model.network[6].register_forward_hook(lambda *_: called.append(6))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        eight, four = part(x)
        maps = whole(x)
    assert torch.equal(eight, maps[1]) and torch.equal(four, maps[0]) and not called
    with pytest.raises(ConfigError, match="of 4 stages; use numbers from 0 to 3"):
        create_model("poolformer_s12", features_only=True, out_indices=(4,))


class FPN(nn.Module):
    """Lateral 1 x 1 convolutions, added from coarse to fine, and one convolution to the classes."""

    def __init__(self, channels, width, n_classes):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(C, width, 1) for C in channels)
        self.out = nn.Conv2d(width, n_classes, 3, padding=1)

    def forward(self, maps, size):
        y = self.lateral[-1](maps[-1])
        for lateral, finer in zip(reversed(self.lateral[:-1]), reversed(maps[:-1]), strict=True):
            y = lateral(finer) + F.interpolate(y, finer.shape[2:], mode="nearest")
        return F.interpolate(self.out(y), size, mode="bilinear")


def shapes(B, size):
    """Images of a gray disc and a bright square on noise, and the class of each pixel: 0 for neither."""
    grid = torch.arange(size)
    images, labels = 0.3 * torch.rand(B, 1, size, size), torch.zeros(B, size, size, dtype=torch.long)
    for b in range(B):
        for kind in (1, 2):
            row, column = torch.randint(8, size - 8, (2,))
            dy, dx = (grid - row)[:, None], (grid - column)[None]
            inside = dy**2 + dx**2 <= 49 if kind == 1 else (dy.abs() <= 6) & (dx.abs() <= 6)
            labels[b][inside] = kind
            images[b, 0][inside] = 0.2 + 0.3 * kind + 0.1 * torch.rand(())
    return images, labels


def test_segmentation_with_a_plain_fpn():
    backbone = MetaFormer(depths=(1, 1), dims=(16, 32), mixers=[SepConv2d], stem=(5, 2, 2), in_chans=1)
    pyramid = FeaturePyramid(backbone)
    head = FPN(pyramid.feature_info.channels(), 16, 3)
    parameters = [p for m in (pyramid, head) for p in m.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    for _ in range(60):
        images, labels = shapes(8, 32)
        loss = F.cross_entropy(head(pyramid(images), images.shape[2:]), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in parameters)
        optimizer.step()
    images, labels = shapes(32, 32)
    with torch.no_grad():
        found = head(pyramid(images), images.shape[2:]).argmax(1)
    overlap = [((found == k) & (labels == k)).sum() / ((found == k) | (labels == k)).sum() for k in range(3)]
    assert overlap[0] > 0.8 and min(overlap[1:]) > 0.35, overlap
    # the pyramid knows nothing of the size of the images
    assert head(pyramid(shapes(1, 50)[0]), (50, 50)).shape == (1, 3, 50, 50)
