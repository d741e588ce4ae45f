"""Depthwise convolution by the compiled kernel: float32 and bfloat16 on a CPU, forward and backward."""

import ctypes

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.ops.conv.reference import reference
from seqmix.ops.derivatives import differentiable
from seqmix.ops.native import instruction_set, library
from seqmix.ops.native.view import View, readable, view
from seqmix.ops.vmap import map_into_channels

_POINTERS = ("weight", "bias", "y", "dweight", "dbias")
_SIZES = ("Bt", "L", "D", "K", "left", "silu")


class _Conv(ctypes.Structure):
    """``struct Conv`` of kernels.cpp."""

    _fields_ = (
        *((name, View) for name in ("x", "g", "dy")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
    )


def convolve(x: Tensor, weight: Tensor, bias: Tensor, left: int, silu: bool) -> Tensor:
    """Return the convolution, or SiLU of it, in the dtype of ``x``; arguments as ``reference``."""
    return _differentiable(x, weight, bias, left, silu)


@torch.library.custom_op("seqmix::depthwise_conv1d_native", mutates_args=())
def _convolve(x: Tensor, weight: Tensor, bias: Tensor, left: int, silu: bool) -> Tensor:
    source = readable(x)
    y = torch.empty(x.shape, dtype=source.dtype)
    _run({"weight": weight, "bias": bias, "y": y}, left, weight.shape[1], x=source, silu=silu)
    return y.to(x.dtype)


@torch.library.custom_op("seqmix::depthwise_conv1d_native_backward", mutates_args=())
def _backward(
    g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, left: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients to x, weight and bias; the input of SiLU is computed again."""
    source, K = readable(x), weight.shape[1]
    inner = readable(g.to(source.dtype))
    if silu:
        before = torch.empty(x.shape, dtype=source.dtype)
        _run({"weight": weight, "bias": bias, "y": before}, left, K, x=source, dy=inner, silu=True)
        inner = before
    dx = torch.empty(x.shape, dtype=source.dtype)
    dweight, dbias = torch.empty(weight.shape), torch.empty(len(weight))
    _run({"dweight": dweight, "dbias": dbias}, left, K, x=source, g=inner)
    _run({"weight": weight.flip(-1), "y": dx}, K - 1 - left, K, x=inner)
    return dx.to(x.dtype), dweight, dbias if len(bias) else torch.empty(0)


def _definition(x: Tensor, weight: Tensor, bias: Tensor, left: int, silu: bool) -> Tensor:
    y = reference(x.to(weight.dtype), weight, bias, left)
    return (F.silu(y) if silu else y).to(x.dtype)


def _run(
    tensors: dict[str, Tensor],
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
    kept = {name: t.contiguous() for name, t in tensors.items()}
    call = _Conv(
        x=view(x),
        g=View() if g is None else view(g),
        dy=View() if dy is None else view(dy),
        **{name: t.data_ptr() for name, t in kept.items()},
        **dict(zip(_SIZES, (*x.shape, K, left, silu), strict=True)),
    )
    if kernels.seqmix_conv(ctypes.byref(call), instruction_set(), torch.get_num_threads()):
        raise MemoryError("no memory for the kernels of depthwise_conv1d; use impl='torch'")


_convolve.register_fake(lambda x, weight, bias, left, silu: x.new_empty(x.shape))
_backward.register_fake(lambda g, x, weight, bias, *_: tuple(t.new_empty(t.shape) for t in (x, weight, bias)))
map_into_channels(_convolve, (2, 0, 0), (2,))
map_into_channels(_backward, (2, 2, 0, 0), (2, 0, 0))
_differentiable = differentiable(_convolve, _backward, _definition, tensors=3)
