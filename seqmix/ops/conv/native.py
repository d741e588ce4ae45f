"""Depthwise convolution by the compiled kernel: float32 and bfloat16 on a CPU, forward and backward."""

import ctypes

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.ops.conv.reference import reference
from seqmix.ops.derivatives import differentiable
from seqmix.ops.native.call import View, readable, run
from seqmix.ops.operands import require_axes, require_operands
from seqmix.ops.vmap import map_into_channels

_POINTERS = ("weight", "bias", "y", "dweight", "dbias")
_SIZES = ("Bt", "L", "D", "K", "left", "silu", "back")


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
    _require(x, weight, bias)
    source = readable(x)
    y = torch.empty(x.shape, dtype=source.dtype)
    _run({"x": source}, {"weight": weight, "bias": bias}, {"y": y}, left, weight.shape[1], silu=silu)
    return y.to(x.dtype)


@torch.library.custom_op("seqmix::depthwise_conv1d_native_backward", mutates_args=())
def _backward(
    g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, left: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients to x, weight and bias; the input of SiLU is computed again."""
    _require(x, weight, bias)
    require_operands(x, ("g", g, x.shape))
    source, K = readable(x), weight.shape[1]
    inner = readable(g.to(source.dtype))
    if silu:
        before = torch.empty(x.shape, dtype=source.dtype)
        _run({"x": source, "dy": inner}, {"weight": weight, "bias": bias}, {"y": before}, left, K, silu=True)
        inner = before
    dx = torch.empty(x.shape, dtype=source.dtype)
    dweight, dbias = torch.empty(weight.shape), torch.empty(len(weight))
    _run({"x": source, "g": inner}, {}, {"dweight": dweight, "dbias": dbias}, left, K, back=True)
    _run({"x": inner}, {"weight": weight.flip(-1)}, {"y": dx}, K - 1 - left, K)
    return dx.to(x.dtype), dweight, dbias if len(bias) else torch.empty(0)


def _definition(x: Tensor, weight: Tensor, bias: Tensor, left: int, silu: bool) -> Tensor:
    y = reference(x.to(weight.dtype), weight, bias, left)
    return (F.silu(y) if silu else y).to(x.dtype)


def _require(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Raise ``ValueError`` unless the kernel can read its operands: operators can be called directly."""
    require_axes("x", x, "B L D")
    require_axes("weight", weight, "D K")
    D, K = x.shape[2], weight.shape[1]
    require_operands(x, ("weight", weight, (D, K)), ("bias", bias, (D if bias.numel() else 0,)), dtype=torch.float32)


def _run(
    views: dict[str, Tensor],
    arrays: dict[str, Tensor],
    results: dict[str, Tensor],
    left: int,
    K: int,
    *,
    silu: bool = False,
    back: bool = False,
) -> None:
    sizes = dict(zip(_SIZES, (*views["x"].shape, K, left, silu, back), strict=True))
    run("conv", _Conv, views, arrays, results, **sizes)


_convolve.register_fake(lambda x, weight, bias, left, silu: x.new_empty(x.shape))
map_into_channels(_convolve, (2, 0, 0), (2,))
map_into_channels(_backward, (2, 2, 0, 0), (2, 0, 0))
_differentiable = differentiable(_convolve, _backward, _definition, tensors=3)
