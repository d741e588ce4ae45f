"""Every mixer in float32, with the compiled kernels, under activation checkpointing and under torch.func."""

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

from seqmix.mixers import list_mixers, mixer_facts
from seqmix.testing import assert_close_ratio

CASES = [
    pytest.param(name, example, id=f"{name}-{k}")
    for name in list_mixers()
    for k, example in enumerate(mixer_facts(name).examples)
    if any(True for _ in mixer_facts(name).cls(8, 12, **example).parameters())
]


# PyTorch maps its attention by a loop and says so
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(("name", "example"), CASES)
def test_gradients_by_every_road(name, example):
    mixer = mixer_facts(name).cls(8, 12, **example).eval()
    parameters = dict(mixer.named_parameters())
    x = torch.randn(2, 12, 8)

    def loss(parameters, x):
        return functional_call(mixer, parameters, (x,)).square().sum()

    def gradients(y):
        return torch.autograd.grad(y, list(parameters.values()), materialize_grads=True)

    want = gradients(mixer(x).square().sum())
    again = gradients(checkpoint(mixer, x, use_reentrant=False).square().sum())
    fixed = {n: p.detach() for n, p in parameters.items()}
    each = vmap(grad(loss), (None, 0))(fixed, x.unsqueeze(1))
    for (n, g), w, a in zip(each.items(), want, again, strict=True):
        assert_close_ratio(f"checkpointed {n}", a, w, 1e-5)
        assert (g.sum(0) - w).norm() <= 1e-4 * (w.norm() + 1), n
