"""Shapes of operands, checked where they enter: a compiled kernel reads what it is told, there or not."""

from torch import Tensor


def require_shapes(*operands: tuple[str, Tensor | None, tuple[int, ...]]) -> None:
    """Raise ``ValueError`` for the first of ``(name, tensor or None, shape)`` that has another shape."""
    for name, x, shape in operands:
        if x is not None and x.shape != shape:
            raise ValueError(
                f"{name} should have shape {tuple(shape)}, got {tuple(x.shape)}; nothing is broadcast here"
            )
