"""Depthwise convolution by the compiled kernel: float32 and bfloat16 on a CPU, forward and backward."""

import ctypes

import torch
from torch import Tensor

from seqmix.ops._conv_autograd import activated, differentiable
from seqmix.ops.native import instruction_set, library
from seqmix.ops.native.view import View, readable, view

_POINTERS = ("weight", "bias", "y", "dweight", "dbias")
_SIZES = ("Bt", "L", "D", "K", "left", "silu")


class _Conv(ctypes.Structure):
    """``struct Conv`` of kernels.cpp."""

    _fields_ = (
        *((name, View) for name in ("x", "g", "dy")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
    )


@torch.library.custom_op("seqmix::depthwise_conv1d_native", mutates_args=())
def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, left: int) -> Tensor:
    """Return the convolution in the dtype of ``x``; arguments as ``conv._reference``."""
    source = readable(x)
    y = torch.empty(x.shape, dtype=source.dtype)
    _run({"weight": weight, "bias": bias, "y": y}, left, weight.shape[1], x=source)
    return y.to(x.dtype)


@torch.library.custom_op("seqmix::depthwise_conv1d_silu_native", mutates_args=())
def convolve_silu(x: Tensor, weight: Tensor, bias: Tensor | None, left: int) -> Tensor:
    """Return SiLU of the convolution, which is not kept."""
    source = readable(x)
    y = torch.empty(x.shape, dtype=source.dtype)
    _run({"weight": weight, "bias": bias, "y": y}, left, weight.shape[1], x=source, silu=True)
    return y.to(x.dtype)


@torch.library.custom_op("seqmix::depthwise_conv1d_silu_native_backward", mutates_args=())
def _backward_of_silu(
    g: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients to x, weight and bias."""
    source, K = readable(x), weight.shape[1]
    before, dx = (torch.empty(x.shape, dtype=source.dtype) for _ in range(2))
    dweight, dbias = torch.empty(weight.shape), torch.empty(len(weight))
    dy = readable(g.to(source.dtype))
    _run({"weight": weight, "bias": bias, "y": before}, left, K, x=source, dy=dy, silu=True)
    _run({"dweight": dweight, "dbias": dbias}, left, K, x=source, g=before)
    _run({"weight": weight.flip(-1), "y": dx}, K - 1 - left, K, x=before)
    return dx.to(x.dtype), dweight, dbias


@torch.library.custom_op("seqmix::depthwise_conv1d_native_grads", mutates_args=())
def _grads(g: Tensor, x: Tensor, left: int, K: int) -> tuple[Tensor, Tensor]:
    """Return the gradients to weight and bias."""
    x, g = readable(x), readable(g.to(x.dtype))
    D = x.shape[2]
    dweight, dbias = torch.empty(D, K), torch.empty(D)
    _run({"dweight": dweight, "dbias": dbias}, left, K, x=x, g=g)
    return dweight, dbias


def _run(
    tensors: dict[str, Tensor | None],
    left: int,
    K: int,
    *,
    x: Tensor,
    g: Tensor | None = None,
    dy: Tensor | None = None,
    silu: bool = False,
) -> None:
    kernels = library()
    assert kernels is not None
    kept = {name: t.contiguous() for name, t in tensors.items() if t is not None}
    call = _Conv(
        x=view(x),
        g=View() if g is None else view(g),
        dy=View() if dy is None else view(dy),
        **{name: t.data_ptr() for name, t in kept.items()},
        **dict(zip(_SIZES, (*x.shape, K, left, silu), strict=True)),
    )
    if kernels.seqmix_conv(ctypes.byref(call), instruction_set(), torch.get_num_threads()):
        raise MemoryError("no memory for the kernels of depthwise_conv1d; use impl='torch'")


differentiable(convolve, _grads)
activated(convolve_silu, _backward_of_silu, convolve, _grads)
