"""Calls of the compiled kernels: tensors as checked pointers with strides."""

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from seqmix.ops.native import instruction_set, library


class View(ctypes.Structure):
    """``struct View`` of kernels.cpp: rows and steps with strides of their own, the other axes contiguous."""

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
    expected = 1
    for size, stride in zip(x.shape[: axes - 1 : -1], x.stride()[: axes - 1 : -1], strict=True):
        if size != 1 and stride != expected:
            return x.contiguous()
        expected *= size
    return x


def run(
    kernel: str,
    structure: type[ctypes.Structure],
    views: Mapping[str, Tensor],
    arrays: Mapping[str, Tensor],
    results: Mapping[str, Tensor],
    **sizes: float,
) -> None:
    """Run ``seqmix_<kernel>``.

    Args:
        kernel: name of the function.
        structure: its argument; what is not given, or empty, is null there.
        views: inputs that ``readable`` gave.
        arrays: other inputs, of any strides.
        results: contiguous tensors to write into.
        sizes: the numbers of the structure.

    Raises:
        ValueError: for a tensor on another device or of another type, or sizes that are none.
        MemoryError: if there is no memory for what the kernel works with.
    """
    kernels = library()
    if kernels is None:
        raise ValueError("the compiled kernels are not here, see seqmix info; use impl='auto'")
    # the copies live until the kernel returns
    arrays = {name: x.contiguous() for name, x in arrays.items() if x.numel()}
    views = {name: x for name, x in views.items() if x.numel()}
    for name, x in (*views.items(), *arrays.items(), *results.items()):
        if x.device.type != "cpu":
            raise ValueError(f"{name} is on {x.device}; the compiled kernels take tensors on the CPU")
        if x.dtype not in (torch.float32, torch.int64 if name == "bounds" else torch.bfloat16):
            raise ValueError(f"{name} is of {x.dtype}; the compiled kernels take float32")
    call = structure(
        **{name: View(x.data_ptr(), x.stride(0), x.stride(1), x.dtype == torch.bfloat16) for name, x in views.items()},
        **{name: x.data_ptr() for name, x in (*arrays.items(), *results.items())},
        **sizes,
    )
    status = getattr(kernels, f"seqmix_{kernel}")(ctypes.byref(call), instruction_set(), torch.get_num_threads())
    if status == 1:
        raise MemoryError(f"no memory for what {kernel} works with; use a smaller batch, or impl='torch'")
    if status:
        raise ValueError(f"{kernel} takes sizes above zero that fit together, got {sizes}")
