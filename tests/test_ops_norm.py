"""Root mean square norm: every implementation and gradient against float64, what gates and groups are, edges."""

import pytest
import torch
from torch.nn import functional as F

from seqmix.mixers.norm import RMSNorm
from seqmix.ops import native, rms_norm
from seqmix.ops.norm import native as native_norm
from seqmix.testing import assert_close_ratio

compiled = pytest.mark.skipif(native.problem() is not None, reason=f"the kernels are {native.problem()}")
SETS = pytest.mark.parametrize("isa", range(native.instruction_set() + 1))
GATES = pytest.mark.parametrize("gate", [None, "after", "first"])


def run(shape, gate, dtype, **options):
    torch.manual_seed(0)
    x, w, z, g = (torch.randn(s).to(dtype) for s in (shape, shape[-1:], shape, shape))
    inputs = [t.requires_grad_() for t in ((x, w) if gate is None else (x, w, z))]
    y = rms_norm(*inputs, gate_first=gate == "first", **options)
    return [y, *torch.autograd.grad(y, inputs, g)]


def assert_same(got, want, ratio):
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert_close_ratio(f"tensor {i}", g, w, ratio)


@compiled
@SETS
@GATES
# less than a vector, lanes left over, several groups; one, two, three and four axes
@pytest.mark.parametrize(
    ("shape", "groups"), [((4,), 1), ((5, 3), 1), ((2, 7, 37), 1), ((2, 3, 48), 3), ((2, 3, 4, 16), 2)]
)
def test_native_is_the_reference(nan_empty, monkeypatch, isa, gate, shape, groups):
    monkeypatch.setattr(native.call, "instruction_set", lambda: isa)
    want = run(shape, gate, torch.float64, groups=groups, impl="reference")
    assert_same(run(shape, gate, torch.float32, groups=groups, impl="native"), want, 1e-6)


@GATES
@pytest.mark.parametrize("groups", [1, 3])
def test_torch_is_the_reference(gate, groups):
    want = run((2, 3, 48), gate, torch.float64, groups=groups, impl="reference")
    assert_same(run((2, 3, 48), gate, torch.float64, groups=groups, impl="torch"), want, 1e-13)


def test_reference_is_what_it_says():
    x, w, z = torch.randn(2, 5, 6), torch.randn(6), torch.randn(2, 5, 6)
    torch.testing.assert_close(rms_norm(x, w, impl="reference"), F.rms_norm(x, (6,), w, 1e-5))
    by_halves = torch.cat([F.rms_norm(t, (3,), eps=1e-5) for t in x.chunk(2, -1)], -1) * w
    torch.testing.assert_close(rms_norm(x, w, groups=2, impl="reference"), by_halves)
    first = F.rms_norm(x * F.silu(z), (6,), w, 1e-5)
    torch.testing.assert_close(rms_norm(x, w, z, gate_first=True, impl="reference"), first)
    torch.testing.assert_close(rms_norm(x, w, z, impl="reference"), F.rms_norm(x, (6,), w, 1e-5) * F.silu(z))


@compiled
@GATES
def test_threads_and_slices(gate):
    want = run((3, 50, 40), gate, torch.float32, impl="native")
    torch.set_num_threads(2)
    try:
        assert_same(run((3, 50, 40), gate, torch.float32, impl="native"), want, 1e-6)
    finally:
        torch.set_num_threads(1)
    # halves of one projection are read where they lie
    both, w = torch.randn(2, 5, 12), torch.randn(6)
    x, z = both.chunk(2, -1)
    assert torch.equal(rms_norm(x, w, z, impl="native"), rms_norm(x.clone(), w, z.clone(), impl="native"))


@compiled
@GATES
def test_second_derivatives(gate):
    def penalty(impl):
        inputs = [torch.randn(2, 3, 4), torch.randn(4), torch.randn(2, 3, 4)][: 2 + (gate is not None)]
        inputs = [t.requires_grad_() for t in inputs]
        y = rms_norm(*inputs, gate_first=gate == "first", impl=impl)
        grads = torch.autograd.grad(y.pow(3).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), inputs)

    torch.manual_seed(0)
    want = penalty("reference")
    torch.manual_seed(0)
    assert_same(penalty("native"), want, 1e-5)


@compiled
@pytest.mark.parametrize("gate", [False, True])
def test_opcheck(gate):
    x, w, z = torch.randn(2, 3, 2, 5), torch.randn(2, 5), torch.randn(2, 3, 2, 5 * gate)
    torch.library.opcheck(native_norm._norm, (x, w, z, 1e-5, True))
    torch.library.opcheck(native_norm._backward, (x.detach(), x.detach(), w.detach(), z.detach(), 1e-5, False))


@compiled
def test_zeros_and_nan():
    x = torch.zeros(2, 3, 9, requires_grad=True)
    y = rms_norm(x, torch.ones(9), eps=1e-4, impl="native")
    # next to zero it is a division by the root of eps
    assert y.eq(0).all() and torch.autograd.grad(y.sum(), x)[0].sub(100).abs().max() < 1e-3
    x = torch.randn(1, 3, 9)
    x[0, 1, 8] = torch.nan
    y = rms_norm(x, torch.ones(9), impl="native")
    assert y[0, 1].isnan().all() and y[0, ::2].isfinite().all()


def test_module_has_the_parameters_of_pytorch():
    ours, theirs = RMSNorm(6), torch.nn.RMSNorm(6, eps=1e-5)
    theirs.weight.data.uniform_()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(ours(x), theirs(x))
    assert ours.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_groups_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="D = 6 does not divide into 4 groups; use a divisor of 6"):
        rms_norm(torch.randn(1, 2, 6), torch.ones(6), groups=4)
