"""The diagonal linear recurrence by the compiled kernel: float32 on a CPU, forward and backward."""

import ctypes

import torch
from torch import Tensor

from seqmix.ops.derivatives import differentiable
from seqmix.ops.native.call import View, readable, run
from seqmix.ops.operands import require_axes, require_operands
from seqmix.ops.recurrence.reference import reference
from seqmix.ops.vmap import map_into_channels

_POINTERS = ("h", "y", "dx", "da", "dh")
_SIZES = ("Bt", "L", "D", "reverse", "back")


class _Recurrence(ctypes.Structure):
    """``struct Recurrence`` of kernels.cpp."""

    _fields_ = (
        *((name, View) for name in ("x", "a", "g")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
    )


def recurrence(x: Tensor, a: Tensor, h: Tensor, reverse: bool) -> Tensor:
    """Return the states; arguments as ``reference``."""
    return _differentiable(x, a, h, reverse)


@torch.library.custom_op("seqmix::linear_recurrence_native", mutates_args=())
def _recurrence(x: Tensor, a: Tensor, h: Tensor, reverse: bool) -> Tensor:
    y = torch.empty(x.shape)
    _run({"x": x, "a": a}, {"h": h}, {"y": y}, reverse, back=False)
    return y


@torch.library.custom_op("seqmix::linear_recurrence_native_backward", mutates_args=())
def _backward(grad: Tensor, x: Tensor, a: Tensor, h: Tensor, y: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients to x, a and h."""
    dx, da, dh = (torch.empty(t.shape) for t in (x, a, h))
    _run({"x": x, "a": a, "g": grad}, {"h": h, "y": y}, {"dx": dx, "da": da, "dh": dh}, reverse, back=True)
    return dx, da, dh


def _run(
    views: dict[str, Tensor], arrays: dict[str, Tensor], results: dict[str, Tensor], reverse: bool, *, back: bool
) -> None:
    x, h = views["x"], arrays["h"]
    # the operator can be called directly, without the checks of the public function
    require_axes("x", x, "Bt L D")
    like = [(name, t, x.shape) for name, t in (("a", views["a"]), ("g", views.get("g")), ("y", arrays.get("y")))]
    require_operands(x, ("x", x, x.shape), ("h", h, (x.shape[0], x.shape[2])), optional=like, dtype=torch.float32)
    sizes = dict(zip(_SIZES, (*x.shape, reverse, back), strict=True))
    run("recurrence", _Recurrence, {name: readable(t) for name, t in views.items()}, arrays, results, **sizes)


_recurrence.register_fake(lambda x, a, h, reverse: x.new_empty(x.shape))
map_into_channels(_recurrence, (2, 2, 1), (2,))
map_into_channels(_backward, (2, 2, 2, 1, 2), (2, 2, 1))
_differentiable = differentiable(_recurrence, _backward, reference, tensors=3, kept=(0,))
