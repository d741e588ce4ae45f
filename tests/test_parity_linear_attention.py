"""Mixers on gated_delta against the layers of flash-linear-attention, on its naive ops in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from seqmix.errors import ConfigError
from seqmix.mixers import GLA, DeltaNet, GatedDeltaNet, RetNet, mixer_facts
from seqmix.testing import assert_close_ratio

GOLDENS = np.load(Path(__file__).parent / "goldens" / "linear_attention.npz")
NAMES = sorted(key.removesuffix(".meta") for key in GOLDENS if key.endswith(".meta"))
# the parts that are called otherwise there
RENAMED = {
    "g_norm_swish_gate.weight": "o_norm.weight",
    "f_proj.weight": "k_proj.weight",
    "i_proj.weight": "v_proj.weight",
    "g_norm.weight": "o_norm.weight",
    "g_norm.bias": "o_norm.bias",
    "r_proj.weight": "q_proj.weight",
}


@pytest.mark.parametrize("name", NAMES)
def test_layer_is_the_original(name):
    meta = json.loads(str(GOLDENS[f"{name}.meta"]))
    mixer = mixer_facts(name).cls(12, **meta["options"]).double()
    own = mixer.state_dict()
    weights = {key: torch.from_numpy(GOLDENS[f"{name}.{key}"]).double() for key in meta["keys"]}
    weights = {key if key in own else RENAMED[key]: t for key, t in weights.items()}
    mixer.load_state_dict(weights, strict=True)
    x, want = (torch.from_numpy(GOLDENS[f"{name}.{key}"]) for key in "xy")
    assert_close_ratio(name, mixer(x), want, 1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DeltaNet(10, n_heads=4), "expand_k * d_model = 10 does not divide into 4 heads; use n_heads=1"),
        (lambda: GatedDeltaNet(8, n_heads=2, n_v_heads=3), "n_v_heads = 3 is not a multiple of n_heads = 2"),
        (lambda: GatedDeltaNet(8, headdim=4, expand_v=0.3), "expand_v * headdim = 1.2 does not divide into 1 heads"),
        (lambda: RetNet(12, n_heads=4), "expand_k * d_model / n_heads = 3 is odd"),
        (lambda: GLA(8, temperature=0.0), "temperature = 0.0 is not positive; use temperature=16"),
    ],
)
def test_sizes_that_do_not_fit(build, message):
    with pytest.raises(ConfigError) as caught:
        build()
    assert str(caught.value).startswith(message)


def test_defaults_follow_the_width():
    """Keys of 3/4 of the width in heads of 256, as published for 2,048; a single head where the model is smaller."""
    assert GatedDeltaNet(2048).heads == (6, 256, 512)
    assert GatedDeltaNet(64).heads == (1, 48, 96)
    # 6 D^2 and little more
    size = sum(p.numel() for p in GatedDeltaNet(2048).parameters())
    assert 1 <= size / (6 * 2048**2) < 1.01
