"""Hydra-ViT: its size, patches in raster order without positions, and any sequence mixer in it."""

from functools import partial

import pytest
import torch
from image_parity import count, shuffled

from seqmix.mixers import Attention, Dense, Hydra, Mamba
from seqmix.vision import create_model
from seqmix.vision.hydra_vit import HydraViT

TINY = {"d_model": 8, "n_layers": 2, "patch_size": 4, "mixer": partial(Hydra, d_state=4, headdim=4)}


def test_size():
    """Patches, 24 layers of norm and Hydra with its defaults, norm and head: 91 million in the paper."""
    with torch.device("meta"):
        model = create_model("hydra_vit_base")
    assert count(model) == 3 * 16**2 * 768 + 768 + 24 * (3_825_224 + 2 * 768) + 2 * 768 + 769_000


def test_raster_order_and_nothing_else():
    """The mixers see the patches row by row, and the logits the mean of what comes out."""
    model = shuffled(HydraViT(**TINY))
    x = torch.randn(2, 3, 8, 20)
    with torch.no_grad():
        patches = [x[:, :, i : i + 4, j : j + 4] for i in range(0, 8, 4) for j in range(0, 20, 4)]
        tokens = torch.cat([model.patch_embed(patch).flatten(2) for patch in patches], 2).transpose(1, 2)
        for layer in model.layers:
            tokens = tokens + layer.mixer.mixer(layer.norm(tokens))
        want = model.head(model.norm(tokens).mean(1))
        torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)


def test_without_positions_attention_does_not_see_order():
    model = shuffled(HydraViT(**{**TINY, "mixer": partial(Attention, n_heads=2)}))
    x = torch.randn(1, 3, 8, 8)
    turned = torch.cat([x[:, :, 4:], x[:, :, :4]], 2)
    torch.testing.assert_close(model(turned), model(x), rtol=1e-4, atol=1e-5)
    model = shuffled(HydraViT(**TINY))
    assert not torch.allclose(model(turned), model(x), atol=1e-3)


@pytest.mark.parametrize("options", [{"mixer": Mamba}, {"mixer": Dense, "img_size": 8}])
def test_other_mixers(options):
    model = HydraViT(**{**TINY, **options})
    y = model(torch.randn(2, 3, 8, 8))
    y.sum().backward()
    assert y.shape == (2, 1000) and all(p.grad is not None for p in model.parameters())


def test_start():
    """Projections are drawn with std 0.02; steps keep the range they are drawn from."""
    model = HydraViT(d_model=64, n_layers=1)
    mixer = model.layers[0].mixer.mixer
    for weight in (model.patch_embed.weight, mixer.in_proj.weight, mixer.out_proj.weight, model.head.weight):
        assert abs(weight.std().item() - 0.02) < 1e-3
    steps = torch.nn.functional.softplus(mixer.dt_bias)
    assert steps.min() >= 0.99e-3 and steps.max() <= 0.101
