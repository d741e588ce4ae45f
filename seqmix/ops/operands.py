"""Checks of the operands of ops, as compiled kernels do not check bounds."""

from collections.abc import Sequence

import torch
from torch import Tensor

Operand = tuple[str, Tensor, Sequence[int]]
Optional = tuple[str, Tensor | None, Sequence[int]]


def require_axes(name: str, x: Tensor, axes: str) -> None:
    """Raise ``ValueError`` unless ``x`` holds real floating-point numbers and has these axes, ``"B L D"``."""
    require_numbers(name, x)
    if x.ndim != len(axes.split()):
        raise ValueError(f"{name} should have the axes ({', '.join(axes.split())}), got shape {tuple(x.shape)}")


def require_channels(name: str, x: Tensor) -> None:
    """Raise ``ValueError`` unless ``x`` holds real floating-point numbers and has an axis."""
    require_numbers(name, x)
    if not x.ndim:
        raise ValueError(f"{name} should have channels on its last axis, got a single number")


def require_operands(
    like: Tensor,
    *operands: Operand,
    optional: Sequence[Optional] = (),
    dtype: torch.dtype | None = None,
    complex: bool = False,
) -> None:
    """Raise ``ValueError`` for the first operand that does not fit.

    Args:
        like: a tensor on the device where all should be.
        operands: name, tensor, and the shape it should have; nothing is broadcast.
        optional: likewise, but the tensor may be None.
        dtype: type that all should have. Default: any real floating-point type.
        complex: allow complex types too.
    """
    given = [(name, x, shape) for name, x, shape in optional if x is not None]
    for name, x, shape in (*operands, *given):
        require_numbers(name, x, complex=complex)
        if x.device != like.device:
            raise ValueError(f"{name} is on {x.device}, the first operand on {like.device}; move all to one device")
        if dtype is not None and x.dtype != dtype:
            raise ValueError(f"{name} should be of {dtype}, got {x.dtype}; use {name}.to({dtype})")
        if x.shape != tuple(shape):
            raise ValueError(
                f"{name} should have shape {tuple(shape)}, got {tuple(x.shape)}; nothing is broadcast here"
            )


def require_mask(like: Tensor, mask: Tensor | None) -> None:
    """Raise ``ValueError`` unless ``mask`` is None or a boolean of shape ``(B, L)``, the first axes of ``like``."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise ValueError(f"mask should be a boolean tensor, True = keep, got {_kind(mask)}; use mask.bool()")
    if mask.device != like.device:
        raise ValueError(f"mask is on {mask.device}, the first operand on {like.device}; move all to one device")
    if mask.shape != like.shape[:2]:
        raise ValueError(f"mask should have shape {tuple(like.shape[:2])}, got {tuple(mask.shape)}")


def holds_integers(x: object) -> bool:
    """Whether ``x`` is a tensor of integers."""
    return isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def require_groups(name: str, n: int, groups: int) -> None:
    """Raise ``ValueError`` unless ``n`` things of this name divide into so many groups."""
    if groups < 1 or n % groups:
        raise ValueError(f"{name} = {n} does not divide into {groups} groups; use a divisor of {n}")


def require_at_least_one(**options: int | None) -> None:
    """Raise ``ValueError`` for the first option that is given and below 1."""
    for name, value in options.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} should be at least 1, got {value}")


def zeros_from(shape: Sequence[int], *operands: Tensor) -> Tensor:
    """Zeros that depend on the operands: the result of an op with an empty axis, whose gradients are zero."""
    total = torch.stack([x.sum() for x in operands]).sum()
    return operands[0].new_zeros(shape) + total.where(torch.zeros_like(total, dtype=torch.bool), 0.0)


def require_numbers(name: str, x: object, *, complex: bool = False) -> None:
    """Raise ``ValueError`` unless ``x`` is a tensor of floating-point numbers: real, or complex where that is meant."""
    if not isinstance(x, Tensor) or not (x.is_floating_point() or (complex and x.is_complex())):
        what = "floating-point" if complex else "real floating-point"
        raise ValueError(f"{name} should be a tensor of {what} numbers, got {_kind(x)}")


def kind_of(x: object) -> str:
    """Description of a value for messages."""
    return f"{x.dtype} of shape {tuple(x.shape)} on {x.device}" if isinstance(x, Tensor) else type(x).__name__


def _kind(x: object) -> str:
    return str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
