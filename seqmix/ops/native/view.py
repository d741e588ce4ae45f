"""How the compiled kernels see a tensor: rows and steps with strides of their own, the other axes contiguous."""

import ctypes

import torch
from torch import Tensor


class View(ctypes.Structure):
    """``struct View`` of kernels.cpp."""

    _fields_ = (
        ("at", ctypes.c_void_p),
        ("row", ctypes.c_int64),
        ("step", ctypes.c_int64),
        ("half", ctypes.c_int64),
    )


def readable(x: Tensor, axes: int = 2) -> Tensor:
    """``x: (rows, L, ...)`` as a kernel can read it: itself where possible, also if it is a slice of a projection.

    The first ``axes`` may have any strides, the others lie one after another.
    """
    x = x if x.dtype in (torch.float32, torch.bfloat16) else x.float()
    return x if x.numel() and x[(0,) * axes].is_contiguous() else x.contiguous()


def view(x: Tensor) -> View:
    """Describe what ``readable`` gave; the tensor has to outlive the description."""
    return View(x.data_ptr(), x.stride(0), x.stride(1), x.dtype == torch.bfloat16)
