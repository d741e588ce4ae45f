"""The diagonal linear recurrence: complex numbers, decays at their ends, its matrix, long sequences, wrong operands."""

import pytest
import torch

from seqmix.ops import linear_recurrence, recurrence_matrix
from seqmix.testing import assert_close_ratio


@pytest.mark.parametrize("reverse", [False, True])
def test_complex_numbers_and_their_gradients_are_those_of_the_reference(reverse):
    """Lengths that the stretches of the portable form do and do not divide."""
    for L in (1, 5, 300):
        x, a = (torch.randn(2, L, 3, dtype=torch.complex128, requires_grad=True) for _ in range(2))
        h = torch.randn(2, 3, dtype=torch.complex128, requires_grad=True)
        found = []
        for impl in ("reference", "torch"):
            y = linear_recurrence(x, a / (1 + a.abs()), initial_state=h, reverse=reverse, impl=impl)
            weights = torch.arange(y.numel()).view_as(y) / y.numel()
            found.append([y, *torch.autograd.grad((y * weights * (1 - 2j)).sum().real, (x, a, h))])
        for want, got in zip(*found, strict=True):
            assert_close_ratio(f"length {L}", torch.view_as_real(got), torch.view_as_real(want), 1e-12)


def test_a_real_input_with_complex_decays_oscillates():
    turn = torch.tensor([1j, -1j], dtype=torch.complex64)
    x = torch.zeros(1, 5, 2)
    x[:, 0] = 1
    assert linear_recurrence(x, turn)[0, :, 0].tolist() == [1, 1j, -1, -1j, 1]


@pytest.mark.parametrize("impl", ["reference", "torch", "native"])
def test_decays_of_zero_and_one_are_exact(impl):
    """A decay of one sums, a decay of zero forgets; the logarithm of neither is taken."""
    x = torch.arange(1.0, 201.0).view(1, 200, 1).requires_grad_()
    a = torch.ones(1, 200, 1)
    a[:, 100] = 0
    a.requires_grad_()
    y = linear_recurrence(x, a, impl=impl)
    assert y[0, 99, 0] == 5050
    assert y[0, 100, 0] == 101
    y[:, 150].sum().backward()
    assert x.grad[0, :, 0].tolist() == [0.0] * 100 + [1.0] * 51 + [0.0] * 49
    assert a.grad[0, 100, 0] == 5050


def test_the_matrix_is_what_the_recurrence_multiplies_by():
    x, a = torch.randn(2, 7, 3, dtype=torch.float64), torch.rand(2, 7, 3, dtype=torch.float64)
    for reverse in (False, True):
        y = torch.einsum("bdij,bjd->bid", recurrence_matrix(a, reverse=reverse), x)
        assert_close_ratio("matrix", linear_recurrence(x, a, reverse=reverse), y, 1e-12)


def test_wrong_operands_are_named():
    x = torch.randn(2, 7, 3)
    for call, message in [
        (lambda: linear_recurrence(x[0], x), r"x should have the axes \(Bt, L, D\)"),
        (lambda: linear_recurrence(x, x[..., :2]), r"decay should have shape \(2, 7, 3\), got \(2, 7, 2\)"),
        (lambda: linear_recurrence(x, x, initial_state=x[0]), r"initial_state should have shape \(2, 3\)"),
        (lambda: linear_recurrence(x.long(), x), "x should be a tensor of floating-point numbers, got torch.int64"),
        (lambda: linear_recurrence(x, x, impl="cuda"), "no implementation 'cuda' here"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
