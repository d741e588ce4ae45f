"""MambaSL against outputs of MambaSingleLayer of thuml/Time-Series-Library, for four choices of its switches."""

from pathlib import Path

import pytest
import torch

from seqmix.models import MambaSL
from seqmix.testing import assert_close_ratio

GOLDENS = torch.load(Path(__file__).parent / "goldens" / "mamba_sl.pt", weights_only=True)
SWITCHES = {
    "dt,C": (True, False, True, False),
    "B": (False, True, False, True),
    "none": (False,) * 4,
    "all": (True,) * 4,
}
NAMES = {
    "mamba.0": "layer",
    "mamba.1": "norm",
    "embedding.value_embedding.tokenConv": "embed",
    "out_layer.1": "head",
    "attn_weight.0": "pool.score",
}


@pytest.mark.parametrize("name", GOLDENS)
def test_scores_are_those_of_the_original(name):
    case, names = GOLDENS[name], ("vary_dt", "vary_b", "vary_c", "skip")
    model = MambaSL(
        2,
        3,
        13,
        d_model=6,
        d_state=3,
        expand=2,
        kernel_size=4,
        n_heads=2,
        **dict(zip(names, SWITCHES[name], strict=True)),
    ).eval()
    state = {}
    for key, value in case["state"].items():
        (old,) = [old for old in NAMES if key.startswith(f"{old}.")]
        state[NAMES[old] + key.removeprefix(old)] = value
    model.load_state_dict(state)
    assert_close_ratio("scores", model(case["x"]), case["y"], 1e-5)
    # a series with padding after it has the same scores
    padded = torch.nn.functional.pad(case["x"][:1, :9], (0, 0, 0, 4), value=torch.nan)
    mask = torch.arange(13)[None] < 9
    assert_close_ratio("scores of a padded series", model(padded, mask), model(case["x"][:1, :9]), 1e-5)
    assert model.layer.no_weight_decay() >= {
        n for n, _ in model.layer.named_parameters() if n in ("B", "C", "D", "A_log")
    }
