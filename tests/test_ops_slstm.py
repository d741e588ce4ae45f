"""The recurrence of sLSTM: large exponents, ties of the exponent, a long sequence, wrong operands."""

import pytest
import torch

from seqmix.ops import slstm
from seqmix.testing import assert_close_ratio

IMPLS = pytest.mark.parametrize("impl", ["reference", "native"])


@IMPLS
def test_exponents_far_beyond_the_range_of_floats_weigh_the_memories(impl):
    """Gates of 1,000 at the second step forget the first; those of -1,000 at the third add nothing."""
    gates = torch.zeros(1, 3, 4, 1)
    gates[0, :, 0, 0] = torch.tensor([0.0, 1000.0, -1000.0])
    gates[0, :, 1] = 50.0  # forgets nothing
    gates[0, :, 2, 0] = torch.tensor([1.0, -2.0, 3.0])
    h, c, n, m = slstm(gates, torch.zeros(1, 4, 1), impl=impl)[0, :, :, 0].T
    want = 0.5 * torch.tensor([1.0, -2.0, -2.0]).tanh()
    assert torch.allclose(h, want) and torch.equal(n, torch.ones(3)) and torch.allclose(c, 2 * want)
    assert m.tolist() == [0.0, 1000.0, 1000.0]


@IMPLS
def test_where_two_exponents_are_equal_each_has_half_of_the_gradient(impl):
    gates = torch.zeros(1, 1, 4, 1, requires_grad=True)
    with torch.no_grad():
        gates[0, 0, 1] = 200.0
    state = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 4, 1).requires_grad_()
    slstm(gates, torch.zeros(1, 4, 1), initial_state=state, impl=impl)[0, 0, 3, 0].backward()
    assert gates.grad[0, 0, 0, 0] == 0.5 and state.grad[0, 3, 0] == 0.5


def test_a_long_sequence_keeps_its_digits():
    torch.manual_seed(0)
    gates, maps = torch.randn(3, 4000, 4, 10), 0.3 * torch.randn(2, 20, 5)
    assert_close_ratio("states", slstm(gates, maps), slstm(gates.double(), maps.double()), 1e-5)


def test_small_memories_keep_their_digits():
    """The hyperbolic tangent of 1e-6 is no difference of two numbers near one."""
    gates = torch.zeros(1, 1, 4, 1)
    gates[0, 0, 2] = 1e-6
    assert slstm(gates, torch.zeros(1, 4, 1))[0, 0, 1, 0].item() == pytest.approx(1e-6, rel=1e-6)


def test_wrong_operands_are_named():
    gates, maps = torch.randn(2, 7, 4, 6), torch.randn(2, 12, 3)
    for call, message in [
        (lambda: slstm(gates[0], maps), r"gates should have the axes \(Bt, L, 4, D\)"),
        (lambda: slstm(gates[:, :, :3], maps), r"gates should have shape \(2, 7, 4, 6\), got \(2, 7, 3, 6\)"),
        (lambda: slstm(gates, maps[:, :11]), r"recurrent should have shape \(2, 12, 3\), got \(2, 11, 3\)"),
        (lambda: slstm(gates, torch.randn(4, 12, 3)), r"gates should have shape \(2, 7, 4, 12\), got \(2, 7, 4, 6\)"),
        (lambda: slstm(gates, maps, initial_state=gates[:, 0, 0]), r"initial_state should have shape \(2, 4, 6\)"),
        (lambda: slstm(gates, maps, impl="triton"), "no implementation 'triton' here"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
