"""Hydra against outputs and gradients of the original code."""

from pathlib import Path

import pytest
import torch

from seqmix.mixers.hydra import Hydra

pytestmark = pytest.mark.usefixtures("original_rates")
GOLDENS = torch.load(Path(__file__).parent / "goldens/hydra_family.pt", weights_only=True)


@pytest.mark.parametrize("name", [name for name, case in GOLDENS.items() if case["kind"] == "hydra"])
def test_hydra(name):
    case = GOLDENS[name]
    mixer = Hydra(**case["cfg"])
    mixer.load_state_dict(case["state_dict"], strict=True)
    mixer.double()
    x = case["x"].double().requires_grad_()
    y = mixer(x)
    torch.testing.assert_close(y, case["y"], rtol=1e-10, atol=1e-10)
    y.backward(case["dy"].double())
    grads = {"dx": x.grad} | {name: p.grad for name, p in mixer.named_parameters()}
    assert grads.keys() == case["grads"].keys()
    for parameter, grad in grads.items():
        want = case["grads"][parameter]
        assert ((grad - want).abs() <= 1e-9 * (1 + want.abs())).all(), parameter
