"""Comparison of tensors by the norm of their difference."""

from torch import Tensor


def assert_close_ratio(name: str, got: Tensor, want: Tensor, ratio: float) -> None:
    """Raise unless ``||got - want|| <= ratio ||want||``.

    Args:
        name: what is compared, the start of the message.
        got: the tensor under test.
        want: the reference.
        ratio: largest relative error; absolute where ``want`` is zero.

    Raises:
        AssertionError: if shapes differ, if the error is larger, or if anything is not finite.
    """
    if got.shape != want.shape:
        raise AssertionError(f"{name}, shapes differ: {tuple(got.shape)} against {tuple(want.shape)}")
    got, want = got.detach().double(), want.detach().double()
    error, size = (got - want).norm().item(), want.norm().item()
    error = error / size if size > 0 else error
    # written this way round because every comparison with NaN is false
    if not error <= ratio:
        raise AssertionError(f"{name}, ratio {error:.2g} > {ratio:.2g} at shape {tuple(want.shape)}")
