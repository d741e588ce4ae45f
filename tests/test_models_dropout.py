"""Dropout: shares and sizes of what it keeps, its gradient, and where PyTorch's own takes over."""

import pytest
import torch
from torch.nn import functional as F

from seqmix.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_share_and_size_of_what_is_kept(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(401, 1001, dtype=dtype)
    y = Dropout(p)(x)
    kept = y != 0
    # six deviations of the mean of 400,000 draws
    assert abs(kept.double().mean().item() - (1 - p)) < 6 * (p * (1 - p) / x.numel()) ** 0.5
    assert y.dtype == dtype
    torch.testing.assert_close(y[kept].unique(), torch.tensor([1 / (1 - p)], dtype=dtype), rtol=1e-4, atol=0)


def test_elements_are_dropped_apart():
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(400_000)) != 0).double() - 0.5
    # neighbors share a drawn number: correlations at lags 1 to 8 stay within six deviations
    for lag in range(1, 9):
        assert abs((kept[lag:] * kept[:-lag]).mean().item()) * 4 < 6 / 400_000**0.5


def test_every_chance_is_met():
    torch.manual_seed(0)
    p = 3 / 2**16
    y = Dropout(p)(torch.ones(2_000_000))
    # 92 expected
    assert 35 < (y == 0).sum() < 150


def test_gradient_is_the_mask():
    x = torch.randn(50, 3, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), y.detach())


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5)])
def test_any_shape(shape):
    assert Dropout(0.5)(torch.ones(shape)).shape == shape


def test_seeds_repeat_and_evaluation_keeps_all():
    drop, x = Dropout(0.5), torch.ones(1000)
    torch.manual_seed(3)
    first = drop(x)
    torch.manual_seed(3)
    assert torch.equal(first, drop(x))
    assert not torch.equal(first, drop(x))
    assert drop.eval()(x) is x


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_none_and_all(p):
    x = torch.ones(100)
    assert torch.equal(Dropout(p)(x), x * (1 - p))


def test_compiled_code_draws_as_pytorch():
    drop = torch.compile(Dropout(0.3), backend="eager", fullgraph=True)
    torch.manual_seed(0)
    y = drop(torch.ones(100))
    torch.manual_seed(0)
    assert torch.equal(y, F.dropout(torch.ones(100), 0.3))


def test_samples_of_vmap_differ():
    drop = torch.func.vmap(Dropout(0.5), randomness="different")
    torch.manual_seed(0)
    y = drop(torch.ones(4, 100))
    assert len(y.unique(dim=0)) == 4
