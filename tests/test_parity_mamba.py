"""Mamba against outputs of state-spaces/mamba, with the original constructor arguments and parameter names."""

from pathlib import Path

import pytest
import torch

from seqmix.mixers import Mamba
from seqmix.testing import assert_close_ratio

pytestmark = pytest.mark.usefixtures("original_rates")
GOLDENS = torch.load(Path(__file__).parent / "goldens" / "hydra_family.pt", weights_only=True)
CASES = [name for name, case in GOLDENS.items() if case["kind"] == "mamba"]


def build(name, dtype):
    case = GOLDENS[name]
    options = {k: v for k, v in case["cfg"].items() if k != "d_model"}
    mixer = Mamba(case["cfg"]["d_model"], **options)
    mixer.load_state_dict(case["state_dict"], strict=True)
    return mixer.to(dtype), case["x"].to(dtype), case


@pytest.mark.parametrize("name", CASES)
# float32 tolerances are those of rounding: 2e-5 forward, 1e-4 for sums over batch and length
@pytest.mark.parametrize(("dtype", "forward", "backward"), [(torch.float64, 1e-10, 1e-9), (torch.float32, 2e-5, 1e-4)])
def test_forward_and_gradients(name, dtype, forward, backward):
    mixer, x, case = build(name, dtype)
    y = mixer(x.requires_grad_())
    y.backward(case["dy"].to(dtype))
    assert_close_ratio("y", y, case["y"], forward)
    got = {"dx": x.grad} | {n: p.grad for n, p in mixer.named_parameters()}
    assert got.keys() == case["grads"].keys()
    for key, want in case["grads"].items():
        assert_close_ratio(f"gradient of {key}", got[key], want, backward)


@pytest.mark.parametrize("name", CASES)
def test_step(name):
    mixer, x, case = build(name, torch.float64)
    state, outputs = mixer.init_state(len(x)), []
    for position in x.unbind(1):
        y, state = mixer.step(position, state)
        outputs.append(y)
    assert_close_ratio("y", torch.stack(outputs, 1), case["y"], 1e-10)


def test_there_are_cases():
    assert CASES
